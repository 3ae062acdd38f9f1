"""What the ledger finds wrong: broken files, rows that had not converged, rows with too few seeds, idle notes."""

import json
import shutil
from pathlib import Path

import pytest

from vaecf_lib.lab.faults import broken, faults

RESULTS = Path(__file__).resolve().parents[2] / "book" / "results"
RUN = "ml-1m.ratings-80.autorec-i.seed0.json"


@pytest.fixture
def folder(tmp_path):
    """The papers' numbers with three runs of one row."""
    (tmp_path / "measured").mkdir()
    shutil.copy(RESULTS / "reported.json", tmp_path)
    for seed in range(3):
        shutil.copy(RESULTS / "measured" / RUN.replace("seed0", f"seed{seed}"), tmp_path / "measured")
    return tmp_path


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_books_results_have_no_fault():
    assert faults(RESULTS) == []


BROKEN = [
    ({"metrics": {"rmse": {"mean": "0.8", "ci": None, "n_users": 5}}}, "rmse: 'mean' is \"0.8\""),
    ({"metrics": {"accuracy": {"mean": 0.8, "ci": None, "n_users": 5}}}, "unknown metric 'accuracy'"),
    ({"epochs": True}, "'epochs' is true"),
    ({"seed": 7}, "holds the run that belongs into ml-1m.ratings-80.autorec-i.seed7.json"),
    ({"data_sha256": "x"}, "data_sha256 is no hash"),
]


@pytest.mark.parametrize(("values", "message"), BROKEN, ids=[message[:12] for _, message in BROKEN])
def test_files_that_break_their_schema_are_named(folder, values, message):
    change(folder / "measured" / RUN, **values)
    (found,) = faults(folder)
    assert RUN in found and message in found and broken(folder) == [found]


def test_what_is_no_json_or_no_list_is_named(folder):
    (folder / "measured" / RUN).write_text("{")
    (folder / "reported.json").write_text('[{"paper": 1}]')
    assert [line.split(": ", 1)[1][:12] for line in faults(folder)] == ["no JSON (Exp", "'paper' is 1"]


def test_rows_that_had_not_converged_are_found_unless_they_are_marked(folder):
    path = folder / "measured" / RUN
    assert faults(folder) == []
    run = json.loads(path.read_text())
    run["settings"].pop("schedule")
    change(path, settings=run["settings"], best_epoch=30, validation_curve=[[29, 0.9], [30, 0.8]])
    (found,) = faults(folder)
    assert found.startswith("autorec-i on ml-1m, ratings/80: not converged, the best epoch is the last (seed 0)")
    mark = {"dataset": "ml-1m", "protocol": "ratings/80", "labels": ["autorec-i"], "why": "soon"}
    (folder / "verdicts.json").write_text(json.dumps({"errata": [], "unfinished": [mark]}))
    assert faults(folder) == []
    shutil.copy(RESULTS / "measured" / RUN, path)
    assert "and it is not: take the mark away" in faults(folder)[0]


def test_rows_with_fewer_seeds_than_their_study_says_are_found(folder):
    (folder / "measured" / RUN).unlink()
    assert faults(folder) == ["autorec-i on ml-1m, ratings/80: 2 runs of 3. Run the other seeds"]


def test_an_erratum_about_no_number_is_found(folder):
    erratum = {"where": {"model": ["mult-vea"]}, "verdict": "doubtful", "reason": "r", "section": "s", "checked": "c"}
    (folder / "verdicts.json").write_text(json.dumps({"errata": [erratum], "unfinished": []}))
    assert faults(folder) == ["verdicts.json, erratum 1: about no number: {'model': ['mult-vea']}"]
