"""Kept results, made anew by their own settings, come out within the spread of their seeds."""

import json
from pathlib import Path

import pytest

import vaecf_lib as vc
from vaecf_lib.experiment import run_experiment

MEASURED = Path(__file__).resolve().parents[2] / "book" / "results" / "measured"


def check_row(row):
    """Train seed 0 of a kept row again; every metric must be as near to its own as the row's seeds are to each other."""
    runs = [json.loads((MEASURED / f"{row}.seed{seed}.json").read_text()) for seed in range(3)]
    again, _ = run_experiment(
        runs[0]["model"], vc.load_dataset(runs[0]["dataset"]), runs[0]["protocol"], epochs=runs[0]["epochs"], seed=0, device="cpu",
        batch_size=runs[0]["batch_size"], settings=runs[0]["settings"], progress=False,
    )  # fmt: skip
    assert again["data_sha256"] == runs[0]["data_sha256"]
    for metric, value in runs[0]["metrics"].items():
        kept = [run["metrics"][metric]["mean"] for run in runs]
        spread = max(max(kept) - min(kept), 1e-6)
        assert again["metrics"][metric]["mean"] == pytest.approx(value["mean"], abs=spread), metric


@pytest.mark.slow
@pytest.mark.parametrize("label", ["popularity", "mult-dae", "mult-vae-n_choose_k"])
def test_rows_on_the_embedded_data(label):
    check_row(f"planted.strong.{label}")


@pytest.mark.slow
@pytest.mark.parametrize("label", ["popularity", "mult-dae", "mult-vae"])
def test_rows_on_ml_100k(label, real_data):
    check_row(f"ml-100k.strong.{label}")
