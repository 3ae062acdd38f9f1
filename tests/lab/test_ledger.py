"""The ledger: reported and measured numbers side by side."""

import json
from pathlib import Path

import pytest

import vaecf_lib as vc
from vaecf_lib.lab import ledger

RESULTS = Path(__file__).resolve().parents[2] / "book" / "results"


def test_reported_numbers_are_complete():
    theirs = ledger.reported(RESULTS)
    assert len(theirs) == 742 and theirs["value"].isna().sum() == 15
    assert set(theirs["paper"]) == {"recvae", "sivae", "hyvae", "vaegan", "vae_bmf"}


def test_measured_files_say_how_they_were_made():
    files = list((RESULTS / "measured").glob("*.json"))
    assert files
    for path in files:
        run = json.loads(path.read_text())
        assert run["command"].startswith(f"vaecf fit {run['model']} --dataset {run['dataset']}")
        assert f"--seed {run['seed']}" in run["command"] and run["machine"] and len(run["data_sha256"]) == 64
        assert path.name == ledger.file_name(run["dataset"], ledger.protocol_of(run), run["label"], run["seed"])


def test_readme_shows_the_measured_numbers():
    readme = (RESULTS.parents[1] / "README.md").read_text()
    table = ledger.table("ml-1m", studies=("likelihoods", "recvae"), folder=RESULTS)
    names = {
        "RecVAE, exact n-Choose-k likelihood": "recvae, n_choose_k",
        "RecVAE": "recvae",
        "Mult-VAE, exact n-Choose-k likelihood": "mult-vae, n_choose_k",
        "Mult-DAE": "mult-dae",
        "Mult-VAE, multinomial": "mult-vae",
        "Mult-VAE, Bernoulli": "mult-vae, bernoulli",
    }
    for name, label in names.items():
        cells = [*table.loc[label, ["ndcg@100", "recall@20", "recall@50"]], table.loc[label, "s/epoch"]]
        assert f"| {name} | " + " | ".join(cells) + " |" in readme, name
    popular = table.loc["popularity", ["ndcg@100", "recall@20", "recall@50"]].str.removesuffix(" ± 0.000")
    assert "| most popular | " + " | ".join(popular) in readme


def test_readme_shows_the_measured_rating_errors():
    readme = (RESULTS.parents[1] / "README.md").read_text()
    ours = ledger.measured(RESULTS).query("protocol == 'ratings/70' and dataset == 'ml-1m' and metric == 'rmse'")
    means = ours.groupby("label")["value"].mean()
    theirs = ledger.reported(RESULTS).query("paper == 'vae_bmf' and dataset == 'ml-1m' and metric == 'rmse'")
    printed = {f"{m} {v or ''}".strip(): x for m, v, x in theirs[["model", "variant", "value"]].fillna("").values}
    rows = {
        "VAE-BMF": ("vae-bmf", "vae-bmf"),
        "without attention": ("vae-bmf, D: no attention", "vae-bmf no_attention"),
        "without cross feedback": ("vae-bmf, C: no feedback", "vae-bmf no_cross_feedback"),
        "I-AutoRec": ("autorec-i", "autorec-i"),
        "NCF": ("ncf", "ncf"),
    }
    for name, (label, paper) in rows.items():
        assert f"| {name} | {printed[paper]:.3f} | {means[label]:.3f} |" in readme, name
    for name, label in (("biased matrix factorisation", "biased-mf"), ("means of users and films", "means")):
        assert f"| {name} | – | {means[label]:.3f} |" in readme, name
    anchor = ledger.measured(RESULTS).query("protocol == 'ratings/90' and label == 'autorec-i' and metric == 'rmse'")
    assert f"Trained on 90 %, I-AutoRec has {anchor['value'].mean():.3f}" in readme


def test_the_setting_with_the_best_validation_value_is_chosen(tmp_path):
    (tmp_path / "measured").mkdir()
    run = json.loads((RESULTS / "measured" / "planted.strong.mult-dae.seed0.json").read_text())
    for label, value in (("mult-dae", 0.3), ("mult-dae, penalty=0.0001", 0.4), ("mult-dae, penalty=9", 0.5)):
        other = run | {"label": label, "validation": {"ndcg@100": value}}
        (tmp_path / "measured" / f"{label}.json").write_text(json.dumps(other))
    table = ledger.chosen("planted", folder=tmp_path)
    assert table["label"].tolist() == ["mult-dae", "mult-dae, penalty=0.0001"]  # the last is in no grid
    assert table["chosen"].tolist() == [False, True]


def write_run(folder, label, seed, best, epochs, *, curve=True, data="a", **settings):
    """Write a made-up run whose validation curve ends at ``epochs``."""
    run = {
        "model": "recvae", "dataset": "ml-1m", "protocol": "ratings", "cut": "80", "label": label, "seed": seed,
        "metrics": {name: {"mean": 0.9, "ci": 0.01, "n_users": 5} for name in ("mae", "rmse")}, "epochs": epochs, "best_epoch": best,
        "device": "cpu", "settings": settings, "data_sha256": data,
    }  # fmt: skip
    if curve:
        run["validation_curve"] = [[epoch, 0.9 + 0.001 * abs(epoch - best)] for epoch in range(1, epochs + 1)]
    (folder / "measured").mkdir(exist_ok=True)
    (folder / "measured" / f"{label}.{seed}.json").write_text(json.dumps(run))


def test_rows_that_were_still_improving_are_marked(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, "stopped", seed, 12, 12)
        write_run(tmp_path, "settled", seed, 5 + seed, 20)
        write_run(tmp_path, "said so", seed, 12, 12, schedule="constant")
        write_run(tmp_path, "falling steps", seed, 30, 30, schedule="cosine")
        write_run(tmp_path, "one of two", seed, 20 - seed, 20)
    write_run(tmp_path, "short", 0, 3, 3)
    write_run(tmp_path, "no curve", 0, 12, 12, curve=False)
    write_run(tmp_path, "a floor", 0, 0, 0)
    table = ledger.table("ml-1m", "ratings/80", folder=tmp_path)
    assert table["best epoch"].to_dict() == {
        "stopped": "12 of 12, still improving",
        "settled": "5–6 of 20",
        "said so": "12 of 12, still improving",
        "falling steps": "30 of 30",
        "one of two": "19–20 of 20, still improving (1 of 2 seeds)",
        "short": "3 of 3",
        "no curve": "–",
        "a floor": "–",
    }


def test_a_curve_validated_now_and_then_ends_where_it_ends(tmp_path):
    write_run(tmp_path, "every fifth", 0, 10, 12)
    path = tmp_path / "measured" / "every fifth.0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"validation_curve": [[5, 0.92], [10, 0.91]]}))
    assert ledger.table("ml-1m", "ratings/80", folder=tmp_path)["best epoch"].tolist() == ["10 of 12, still improving"]


def test_runs_on_other_data_of_the_same_name_are_not_averaged(tmp_path):
    """As before and after a data set's parser was mended."""
    write_run(tmp_path, "mult-vae", 0, 5, 20)
    write_run(tmp_path, "mult-vae", 1, 5, 20, data="b")
    with pytest.raises(
        vc.DataError, match=r"mult-vae.1.json and .*mult-vae.0.json were made on different data called "
    ):
        ledger.table("ml-1m", "ratings/80", folder=tmp_path)


def test_tables_without_any_curve_stay_as_narrow_as_they_were(tmp_path):
    write_run(tmp_path, "no curve", 0, 12, 12, curve=False)
    assert list(ledger.table("ml-1m", "ratings/80", folder=tmp_path)) == ["mae", "rmse", "seeds", "s/epoch"]


def test_measured_rows_that_were_still_improving():
    marked = ledger.table("ml-1m", "ratings/80", folder=RESULTS)["best epoch"]
    assert marked["recvae"] == "12 of 12, still improving" and marked["macridvae"] == "10 of 10, still improving"
    assert marked["autorec-i"] == "23–27 of 30" and marked["means"] == "–"
    assert "best epoch" not in ledger.table("planted", folder=RESULTS)
