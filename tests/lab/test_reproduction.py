"""Reproducing: what is planned, what a run's file says, and that what is there is kept."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import vaecf_lib as vc
from vaecf_lib.lab import ledger, reproduction
from vaecf_lib.lab.reproduction import plan, rating_form, reproduce
from vaecf_lib.lab.studies import STUDIES
from vaecf_lib.lab.study import Row, Study
from vaecf_lib.systems import SYSTEMS, build

RESULTS = Path(__file__).resolve().parents[2] / "book" / "results"


def test_reproduce_fills_a_folder_and_keeps_what_is_there(tmp_path, monkeypatch):
    study = Study("strong", {"planted": {"n_heldout": 100}}, {"popularity": Row("popularity"), "half": Row("random")})
    monkeypatch.setitem(STUDIES, "toy", study)
    paths = reproduce("book", "toy", seeds=[0, 1], epochs=0, device="cpu", folder=tmp_path)
    assert len(paths) == 4 and all(p.exists() for p in paths)
    stamps = [p.stat().st_mtime_ns for p in paths]
    reproduce("book", "toy", seeds=[0, 1], epochs=0, device="cpu", folder=tmp_path)
    assert stamps == [p.stat().st_mtime_ns for p in paths]
    table = ledger.table("planted", folder=tmp_path)
    assert list(table.index) == ["popularity", "half"] and (table["seeds"] == 2).all()


def test_each_data_set_is_loaded_once_and_only_for_runs_that_are_missing(tmp_path, monkeypatch):
    loaded, made, told = [], [], []

    def load(name):
        loaded.append(name)
        return SimpleNamespace(name=name)

    def run(slug, log, protocol, **options):
        made.append((log.name, slug))
        told.append(options)
        return {"metrics": {}}, {}

    monkeypatch.setattr(reproduction, "load_dataset", load)
    monkeypatch.setattr(reproduction, "run_experiment", run)
    study = Study("strong", {"a": {}, "b": {}}, {"one": Row("popularity"), "two": Row("random")}, batch_size=7)
    monkeypatch.setitem(STUDIES, "toy", replace(study, metrics=("mrr@5",), epochs=3))
    kept = [tmp_path / "measured" / ledger.file_name("a", "strong", label, 0) for label in ("one", "two")]
    kept[0].parent.mkdir()
    kept[0].write_text("{}")
    reproduce("book", "toy", seeds=[0], device="cpu", folder=tmp_path)
    assert loaded == ["a", "b"] and made == [("a", "random"), ("b", "popularity"), ("b", "random")]
    options = {"epochs": 3, "seed": 0, "device": "cpu", "batch_size": 7, "metrics": ("mrr@5",), "settings": {}}
    assert told == 3 * [options | {"progress": False}]
    reproduce("book", "toy", seeds=[0], folder=tmp_path)
    assert loaded == ["a", "b"] and len(made) == 3


def test_every_kept_run_is_one_that_is_planned():
    """A study or option that is changed, renamed or lost would leave runs behind that nobody can repeat."""
    tables = sorted({(row.paper, row.table) for row in ledger.reported(RESULTS).itertuples()})
    planned = {}
    for paper, table in [*tables, *(("book", study) for study in STUDIES)]:
        for run in plan(paper, table, seeds=[0, 1, 2], folder=RESULTS):
            planned.setdefault(run.name, []).append(run)
    files = list((RESULTS / "measured").glob("*.json"))
    assert files
    for path in files:
        kept = json.loads(path.read_text())
        words = shlex.split(kept["command"])
        epochs, size = (int(words[words.index(w) + 1]) if w in words else 500 for w in ("--epochs", "--batch-size"))
        wanted = (kept["model"], kept["settings"], epochs, size)
        assert wanted in [(r.row.system, r.settings, r.epochs, r.study.batch_size) for r in planned[path.name]], path


def test_a_command_says_all_that_a_run_is_told():
    run = next(r for r in plan("book", "bmf", models=["autorec-i"], seeds=[1], folder=RESULTS))
    assert run.command.startswith("vaecf fit autorec-i --dataset ml-1m --protocol ratings --epochs 30 --seed 1 ")
    assert "--batch-size 100 --patience 0 --metrics rmse,mae,ndcg_rated@20," in run.command and run.command.endswith(
        "--set train=0.7 --set valid=0.15 --set test=0.15 --set penalty=0.03 --set items_per_batch=100 "
        "--set schedule=cosine --json"
    )
    (run,) = plan("book", "bmf-variants", models=["vae-bmf, D: no attention"], seeds=[0], folder=RESULTS)
    assert "--set attention=null" in run.command and run.name == "ml-1m.ratings-70.vae-bmf-D-no-attention.seed0.json"


def test_epochs_are_the_rows_or_the_studys_or_the_commands():
    lengths = {run.label: run.epochs for run in plan("book", "bmf-offsets", seeds=[0], epochs=7)}
    assert lengths == {"means": 0, "vae-bmf, no offsets": 200, "vae-bmf, no offsets, no data input": 200}
    assert {run.epochs for run in plan("book", "recvae", seeds=[0], epochs=7)} == {7}


def test_reproduce_plans_a_papers_table():
    runs = plan("recvae", "1", dataset="ml-20m", seeds=[0], folder=RESULTS)
    printed = ledger.reported(RESULTS).query("paper == 'recvae' and table == '1'")["model"]
    assert {run.row.system for run in runs} == (set(printed) & set(SYSTEMS)) - {"cdae"}
    assert runs[0].study.protocol == "strong" and runs[0].settings == {"n_heldout": 10_000}
    elsewhere = plan("recvae", "1", dataset="ml-1m", models=["mult-vae"], seeds=[0], folder=RESULTS)
    assert [(run.label, run.settings) for run in elsewhere] == [("mult-vae", {})], "clicks need no rating form"


def test_rating_tables_are_planned_with_their_cut_and_rating_forms():
    runs = {run.label: run for run in plan("hyvae", "II", dataset="douban", seeds=[0], folder=RESULTS)}
    assert runs["random"].settings == {"published": False, "ratings": True}
    assert runs["random"].study.full_protocol == "ratings/80"
    assert runs["recvae"].row.options == {"likelihood": "gaussian"} and runs["hyvae"].row.options == {}
    run = plan("vae_bmf", "3", dataset="ml-1m", seeds=[0], folder=RESULTS)[0]
    assert run.study.full_protocol == "ratings/70"
    assert run.settings == {"train": 0.7, "valid": 0.15, "test": 0.15, "published": False}


def test_a_cut_of_ratings_is_part_of_a_results_name(tmp_path, monkeypatch):
    rows = {"flat": Row("means", split={"train": 0.5, "valid": 0.25, "test": 0.25}, epochs=0)}
    study = Study("ratings", {"planted": {}}, rows, cut="half", metrics=("mae", "ndcg_rated@5"))
    monkeypatch.setitem(STUDIES, "toy", study)
    (path,) = reproduce("book", "toy", seeds=[0], device="cpu", folder=tmp_path)
    assert path.name == "planted.ratings-half.flat.seed0.json"
    run = json.loads(path.read_text())
    assert set(run["metrics"]) == {"mae", "ndcg_rated@5"} and run["cut"] == "half"
    assert run["settings"] == {"train": 0.5, "valid": 0.25, "test": 0.25}
    assert "--epochs 0" in run["command"] and "--metrics mae,ndcg_rated@5" in run["command"]
    ours = ledger.measured(tmp_path)
    assert set(ours["protocol"]) == {"ratings/half"} and set(ours["label"]) == {"flat"}


def test_rows_of_a_study_are_chosen_by_their_names():
    runs = plan("book", "recvae", dataset="ml-1m", models=["recvae, n_choose_k"], seeds=[0])
    assert [(run.label, run.row) for run in runs] == [
        ("recvae, n_choose_k", Row("recvae", {"likelihood": "n_choose_k"}))
    ]
    with pytest.raises(
        vc.ConfigError, match=r"study 'recvae' has no row 'mult-vae'\. Known: recvae; recvae, n_choose_k"
    ):
        plan("book", "recvae", models=["mult-vae"], seeds=[0])


def test_variants_of_a_paper_are_planned_as_our_studies_define_them():
    runs = {run.label: run for run in plan("recvae", "2", dataset="ml-20m", seeds=[0], folder=RESULTS)}
    assert len(runs) == 11 and runs["mult-vae"].row == Row("mult-vae")
    at_once = runs["recvae: architecture, prior"]
    assert at_once.epochs == 150 and at_once.row.options["alternating"] is False
    assert at_once.settings["n_heldout"] == 10_000
    labels = {run.label for run in plan("vae_bmf", "4", dataset="ml-1m", seeds=[0], folder=RESULTS)}
    assert {"vae-bmf", "vae-bmf, C: no feedback"} < labels


def test_systems_that_do_not_fit_or_are_not_there_yet_are_left_out_and_named(monkeypatch):
    monkeypatch.delitem(SYSTEMS, "recvae")
    out = reproduction.left_out("recvae", "1", RESULTS)
    assert out["recvae"] == "no such system yet" and out["cdae"].startswith("cdae knows only the users")
    assert not {run.label for run in plan("recvae", "1", seeds=[0], folder=RESULTS)} & set(out)
    assert reproduction.left_out("book", "bmf", RESULTS) == {}
    with pytest.raises(vc.ConfigError, match=r"cdae knows only the users it was trained on, .*: leave it out"):
        plan("recvae", "1", models=["cdae"], seeds=[0], folder=RESULTS)
    assert "cdae" not in reproduction.left_out("vaegan", "2", RESULTS)


def test_every_name_is_checked_before_any_data_are_read(tmp_path, monkeypatch):
    def load(name):
        raise AssertionError("data were read")

    monkeypatch.setattr(reproduction, "load_dataset", load)
    for names, message in (
        ({"dataset": "ml-2m"}, "unknown data set 'ml-2m'"),
        ({"models": ["mult-vae", "svd"]}, "no row 'svd'"),
        ({"device": "warp"}, "device=warp cannot be used here"),
    ):
        with pytest.raises(vc.ConfigError, match=message):
            reproduce("book", "likelihoods", seeds=[0], folder=tmp_path, **names)


def test_a_row_has_as_many_seeds_as_it_says(monkeypatch):
    rows = {"one": Row("popularity", seeds=1), "more": Row("random")}
    monkeypatch.setitem(STUDIES, "toy", Study("strong", {"planted": {}}, rows, seeds=2))
    assert [(run.label, run.seed) for run in plan("book", "toy")] == [("one", 0), ("more", 0), ("more", 1)]
    assert len(plan("book", "toy", seeds=[0, 1, 2])) == 6


def test_seeds_trained_in_different_ways_are_not_mixed_in_a_row(tmp_path, monkeypatch):
    """The table's plain row would have another step size than the study that our run of it is from."""
    name = ledger.file_name("ml-1m", "weak", "vaegan-avb", 0)
    (tmp_path / "measured").mkdir()
    for path in ("reported.json", f"measured/{name}"):
        (tmp_path / path).write_text((RESULTS / path).read_text())
    monkeypatch.setattr(reproduction, "load_dataset", lambda name: pytest.fail("data were read"))
    with pytest.raises(vc.ConfigError, match=r"weak\.vaegan-avb\.seed0\.json is of vaegan-avb on ml-1m with other"):
        reproduce("vaegan", "2", dataset="ml-1m", models=["vaegan-avb"], seeds=[1], device="cpu", folder=tmp_path)


def test_what_is_done_and_left_to_do_is_said_with_the_time(tmp_path, monkeypatch, capsys):
    study = Study("strong", {"planted": {"n_heldout": 100}}, {"a": Row("popularity"), "b": Row("mult-dae", epochs=30)})
    monkeypatch.setitem(STUDIES, "toy", study)
    runs = plan("book", "toy", seeds=[0], epochs=0)
    assert (
        reproduction.still_to_do(runs, tmp_path)
        == "left to do: 2 of 2 runs, 0 s on one CPU core and 1 run of a length unknown"
    )
    (tmp_path / "measured").mkdir()
    kept = {"dataset": "planted", "model": "mult-dae", "device": "cpu", "seconds_per_epoch": 10.0}
    (tmp_path / "measured" / "of-another-row.json").write_text(json.dumps(kept))
    assert reproduction.still_to_do(runs, tmp_path) == "left to do: 2 of 2 runs, 5 min on one CPU core"
    made = reproduction.run_experiment

    def stops(slug, *arguments, **options):
        if slug == "mult-dae":
            raise KeyboardInterrupt
        return made(slug, *arguments, **options)

    monkeypatch.setattr(reproduction, "run_experiment", stops)
    with pytest.raises(KeyboardInterrupt):
        reproduce("book", "toy", seeds=[0], epochs=0, device="cpu", folder=tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert "[1 of 2] planted a, seed 0" in said and "[2 of 2] planted b, seed 0" in said
    assert said[-1] == "left to do: 1 of 2 runs, 5 min on one CPU core", "and what was done is kept"


def test_rating_forms_follow_from_the_systems_options():
    """Systems that rank and can predict ratings say how by their options; the others have nothing to set."""
    assert {slug for slug in SYSTEMS if rating_form(slug) == {"likelihood": "gaussian"}} >= {
        "mult-vae",
        "mult-dae",
        "recvae",
    }
    assert rating_form("random") == {"ratings": True}
    for slug in ("popularity", "sivae", "vaegan-avb", "hyvae", "means", "vae-cf"):
        assert rating_form(slug) == {}
    for slug in SYSTEMS:
        form = rating_form(slug)
        assert not form or (build(slug, 5, **form).rates and not build(slug, 5).rates)
