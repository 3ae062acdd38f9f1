"""Systems still train as they did when the book's results were measured.

drift.json was written by the code that made book/results: two epochs of every system and of the options that the book
compares, on a part of the planted data. Weights drawn in another order, a changed loss or another order of users show
in the losses' fifth digit; rounding, in the seventh. Whoever changes one of these numbers on purpose has to measure the
rows concerned anew.
"""

import json
from pathlib import Path

import pytest

import vaecf_lib as vc
from vaecf_lib.systems import SYSTEMS

CASES = json.loads(Path(__file__).with_name("drift.json").read_text())


@pytest.fixture(scope="module")
def splits(planted):
    log = planted.select(planted.user < 1200)
    return {"clicks": vc.split_strong(log), "known users": vc.split_weak(log), "ratings": vc.split_ratings(log)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: " ".join([case["system"], *map(str, case["options"].values())])
)
def test_a_training_gives_the_losses_and_the_metric_it_gave(splits, case):
    rates = vc.build(case["system"], 10, **case["options"]).rates
    clicks = "known users" if case["system"] in {"irgan", "cfgan"} else "clicks"
    split = splits["ratings" if rates else clicks]
    model = vc.build(case["system"], split.n_items, **case["options"])
    run = vc.fit(model, split, epochs=2, batch_size=200, seed=1, device="cpu", progress=False)
    (metric,) = vc.evaluate(model, split.test, ("rmse",) if rates else ("ndcg@100",)).values()
    assert [row["loss"] for row in run.history] == pytest.approx(case["losses"], rel=1e-4)
    assert metric.mean == pytest.approx(case["metric"], abs=2e-3)


def test_every_system_with_kept_results_is_watched():
    measured = Path(__file__).resolve().parents[2] / "book" / "results" / "measured"
    kept = {json.loads(path.read_text())["model"] for path in measured.glob("*.json")}
    assert kept <= {case["system"] for case in CASES} and kept <= set(SYSTEMS)
