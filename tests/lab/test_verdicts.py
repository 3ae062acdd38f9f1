"""The ledger's verdicts: every printed number has one, each follows from facts, and the errata's arithmetic holds."""

import json
import math
from pathlib import Path

import pytest

import vaecf_lib as vc
from vaecf_lib.lab import ledger, verdicts
from vaecf_lib.systems import SYSTEMS

RESULTS = Path(__file__).resolve().parents[2] / "book" / "results"


@pytest.fixture(scope="module")
def rows():
    return verdicts.ledger(RESULTS)


def row_of(rows, **values):
    """Return the one row with these values."""
    for column, value in values.items():
        rows = rows[rows[column] == value]
    (row,) = rows.itertuples()
    return row


def test_every_number_has_one_verdict_and_a_reason(rows):
    assert len(rows) == 742 and set(rows["state"]) == set(verdicts.STATES)
    assert (rows["reason"] != "").all() and (rows["kind"] != "").all()
    is_measured = rows["state"] == "measured"
    assert (rows["deviation"].notna() == is_measured).all()
    assert (rows.loc[is_measured, "seeds"] > 0).all() and rows.loc[is_measured, "files"].map(len).gt(0).all()
    assert not rows.loc[rows["state"] == "not measured", "files"].map(len).any()
    for name in {name for files in rows["files"] for name in files}:
        assert (RESULTS / "measured" / name).exists()
    table = verdicts.coverage(rows)
    assert table.loc["all", "numbers"] == 742 == verdicts.reasons(rows)["all"].sum()


def test_variants_other_names_and_blank_cells_are_matched(rows):
    """133 variant rows, 40 metric names and 15 blank cells once were not."""
    bmf = row_of(rows, paper="vae_bmf", dataset="ml-1m", metric="rmse", variant="no_cross_feedback")
    assert bmf.label == "vae-bmf, C: no feedback" and bmf.seeds == 3 and abs(bmf.deviation) < 0.005
    weak = row_of(rows, paper="vaegan", dataset="ml-1m", model="vaegan-avb", metric="recall@5")
    run = json.loads((RESULTS / "measured" / weak.files[0]).read_text())
    assert weak.state == "measured" and weak.ours == run["metrics"]["recall_all@5"]["mean"]
    assert set(rows.loc[rows["value"].isna(), "kind"]) == {"blank cell"} and rows["value"].isna().sum() == 15
    assert rows[rows["table"] == "2"].query("paper == 'recvae'")["label"].nunique() == 11
    gain = row_of(rows, paper="hyvae", metric="avg_promotion_pct", model="vae")
    means = rows[(rows["paper"] == "hyvae") & rows["metric"].isin(["rmse", "mrmse"])].set_index(["model", "dataset"])
    by_hand = [means["ours"]["vae", d] / means["ours"]["hyvae", d] - 1 for d in ("ml-1m", "douban", "flixster")]
    assert gain.ours == pytest.approx(100 * sum(by_hand) / 3, abs=0.01)


def test_reasons_follow_from_the_systems_and_the_runs_there_are(tmp_path, monkeypatch):
    """A system that arrives, or a run, changes the verdict; nothing else has to be changed."""
    (tmp_path / "measured").mkdir()
    (tmp_path / "reported.json").write_text((RESULTS / "reported.json").read_text())
    wanted = {"paper": "recvae", "table": "1", "dataset": "ml-20m", "metric": "ndcg@100"}
    assert row_of(verdicts.ledger(tmp_path), model="mult-dae", **wanted).kind == "no such data here"
    run = json.loads((RESULTS / "measured" / "planted.strong.mult-dae.seed0.json").read_text())
    run |= {"dataset": "ml-20m"}
    name = ledger.file_name("ml-20m", "strong", "mult-dae", 0)
    (tmp_path / "measured" / name).write_text(json.dumps(run))
    rows = verdicts.ledger(tmp_path)
    mine = row_of(rows, model="mult-dae", **wanted)
    assert mine.state == "measured" and mine.reason == "one run" and mine.files == (name,)
    assert mine.deviation == pytest.approx(run["metrics"]["ndcg@100"]["mean"] - 0.419)
    assert row_of(rows, model="mult-vae", **wanted).kind == "not run yet"
    cdae = row_of(rows, model="cdae", **wanted)
    assert cdae.reason == "cdae knows only the users it was trained on, and the strong protocol asks about others"
    monkeypatch.delitem(SYSTEMS, "recvae")
    assert row_of(verdicts.ledger(tmp_path), model="recvae", **wanted).reason == "no such system yet: recvae"


def test_the_errata_are_what_the_arithmetic_finds(rows):
    """Found anew in the printed figures: nothing impossible is passed over, and nothing sound is refused."""
    refused = rows[rows["kind"] == "erratum"]
    nine = rows[rows["table"] == "II"].pivot_table(index=["dataset", "model"], columns="metric", values="value")
    impossible = set(nine.index[nine["mmae"] > nine["mrmse"]])
    ends = {"ml-1m": (1, 5, 1), "douban": (1, 5, 1), "flixster": (0.5, 5, 0.5)}
    for dataset, (low, high, step) in ends.items():
        scale = [low + step * n for n in range(round((high - low) / step) + 1)]
        most = math.sqrt(sum((x - low) ** 2 for x in scale) / len(scale))
        impossible |= {(dataset, "random")} if nine["mrmse"][dataset, "random"] > most else set()
    hyvae = refused[refused["paper"] == "hyvae"]
    assert set(zip(hyvae["dataset"], hyvae["model"], strict=True)) == impossible
    mrr = rows[rows["metric"].str.startswith("mrr")].assign(k=lambda f: f["metric"].str[4:].astype(int))
    steps = mrr.sort_values("k").groupby(["table", "dataset", "model"])["value"].apply(lambda v: v.diff().min() < 0)
    falling = {key[1:] for key in steps.index[steps]}
    vaegan = refused[refused["paper"] == "vaegan"]
    assert set(zip(vaegan["dataset"], vaegan["model"], strict=True)) == falling == {("ml-100k", "irgan")}
    bmf = refused[refused["paper"] == "vae_bmf"]
    assert not bmf["metric"].str.contains("rmse").any() and len(bmf) == 220
    near = nine["mmae"] / nine["mrmse"]
    flat = rows[rows["remark"].str.startswith("nearly the RMSE")]
    assert set(zip(flat["dataset"], flat["model"], strict=True)) == set(near.index[(near > 0.9) & (near <= 1)])


def test_transplanted_rows_never_count_as_measured(rows):
    table = verdicts.transplanted(RESULTS)
    assert set(table["state"]) == {verdicts.TRANSPLANTED} and verdicts.TRANSPLANTED not in verdicts.STATES
    assert set(table["dataset"]) == {"ml-1m", "ml-100k"} and "deviation" not in table
    assert len(table) == 2 * (30 + 11 + 9 + 27)
    ours = ledger.measured(RESULTS).query("dataset == 'ml-1m' and label == 'recvae' and metric == 'ndcg@100'")
    mine = row_of(table, paper="recvae", table="1", model="recvae", metric="ndcg@100", dataset="ml-1m")
    assert mine.printed == 0.442 and mine.ours == pytest.approx(ours["value"].mean()) and mine.seeds == 3
    for row in rows[(rows["state"] == "measured") & (rows["dataset"] != "all")].itertuples():
        assert all(name.startswith(f"{row.dataset}.") for name in row.files), "measured is what ran on the paper's data"


def test_deviations_are_one_a_row_the_unexplained_first(rows):
    table = verdicts.deviations(rows)
    assert not table.duplicated(["paper", "table", "dataset", "label"]).any()
    known = (table["explained"] != "").tolist()
    assert known == sorted(known) and any(known)
    for part in (table[table["explained"] == ""], table[table["explained"] != ""]):
        assert part["share"].abs().is_monotonic_decreasing
    shown = verdicts.summary(rows, 3).split("\n\n")[-1].splitlines()[1:]
    assert shown == [verdicts.in_a_line(row) for row in table.head(3).itertuples()]


def test_rows_are_filtered_by_paper_and_state(rows):
    some = verdicts.only(rows, "vaegan", "cannot-be-compared")
    assert len(some) == 8 and set(some["paper"]) == {"vaegan"}
    with pytest.raises(vc.ConfigError, match=r"no paper 'x' in the ledger. Known: recvae, "):
        verdicts.only(rows, "x")
    with pytest.raises(vc.ConfigError, match=r"no state 'lost' in the ledger. Known: measured, not measured, "):
        verdicts.only(rows, None, "lost")
