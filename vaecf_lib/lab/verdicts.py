"""The ledger: each number the five papers print, with a verdict and ours beside it.

The verdicts follow from facts: which systems there are, which runs, on which data. What no program can know (which
figures cannot be what they are called, which rows are to be trained longer) stands in ``book/results/verdicts.json``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd

from ..errors import ConfigError
from ..systems import SYSTEMS
from . import RESULTS
from .ledger import PAPER_PROTOCOLS, labels_of, measured, metric_of, reported
from .reproduction import epoch_seconds, misfit, plan
from .studies import STUDIES

STATES = ("measured", "not measured", "cannot be compared")
TRANSPLANTED = "same systems, other data"
# Tables on data that cannot be had everywhere, and where their systems were run instead.
TRANSPLANTS = (("recvae", "1"), ("recvae", "2"), ("sivae", "2"), ("sivae", "3"))
ELSEWHERE = ("ml-1m", "ml-100k")


def noted(folder: Path = RESULTS) -> dict[str, list[dict]]:
    """Return what ``verdicts.json`` says: ``errata`` of the papers, and rows of ours that are ``unfinished``.

    An erratum has ``where`` (by column, the values of the rows it is about), ``verdict`` ("cannot be compared",
    "explained", of a deviation, or "doubtful"), ``reason``, the paper's ``section``, and how it was ``checked``.
    """
    path = folder / "verdicts.json"
    if not path.exists():
        return {"errata": [], "unfinished": []}
    return json.loads(path.read_text(encoding="utf-8"))


def seeds_due(dataset: str, protocol: str, label: str) -> int:
    """Return how many runs a row is to have, as its studies say; three if it is in none."""
    found = [
        study.rows_on(dataset)[label].seeds or study.seeds
        for study in STUDIES.values()
        if study.full_protocol == protocol and dataset in study.data and label in study.rows
    ]
    return max(found, default=3)


def about(frame: pd.DataFrame, erratum: dict) -> pd.Series:
    """Return (n,) bool: which rows of :func:`reported` an erratum is about."""
    return pd.concat([frame[column].isin(values) for column, values in erratum["where"].items()], axis=1).all(axis=1)


def _promotions(ours: pd.DataFrame) -> pd.DataFrame:
    """Return Hy-VAE's average gain over each branch in percent as runs of the data set "all" (Table III)."""
    rmse = ours[(ours["protocol"] == "ratings/80") & (ours["metric"] == "rmse")]
    sets = ["ml-1m", "douban", "flixster"]
    rmse = rmse[rmse["dataset"].isin(sets) & rmse["label"].isin(["hyvae", "deepae", "vae"])]
    if rmse.empty:
        return rmse
    table = rmse.pivot_table(index=["label", "seed"], columns="dataset", values="value").reindex(columns=sets)
    if "hyvae" not in table.index:
        return rmse[:0]
    gains = (100 * (table / table.loc["hyvae"] - 1)).mean(axis=1, skipna=False).dropna().drop("hyvae", level=0)
    rows = gains.rename("value").reset_index().assign(dataset="all", protocol="ratings/80", metric="avg_promotion_pct")
    files = {label: " ".join(rmse[rmse["label"].isin([label, "hyvae"])]["file"]) for label in ("deepae", "vae")}
    return rows.assign(file=rows["label"].map(files), improving=False)


def _runs_of(ours: pd.DataFrame) -> dict[tuple, dict]:
    """Return, by (dataset, protocol, label, metric), our mean, deviation, number of seeds and files."""
    if ours.empty:
        return {}
    both = pd.concat([ours, _promotions(ours)], ignore_index=True)
    return {
        key: {
            "ours": runs["value"].mean(),
            "std": runs["value"].std(),
            "seeds": runs["seed"].nunique(),
            "improving": int(runs["improving"].sum()),
            "files": tuple(sorted({name for names in runs["file"] for name in names.split()})),
        }
        for key, runs in both.groupby(["dataset", "protocol", "label", "metric"])
    }


NOTHING = {"ours": float("nan"), "std": float("nan"), "seeds": 0, "improving": 0, "files": ()}


def _run_minutes(frame: pd.DataFrame, folder: Path) -> dict[tuple, float]:
    """Return the CPU-minutes of one run by (paper, table, dataset, label); nan where nothing like it was timed."""
    seconds = epoch_seconds(folder)
    return {
        (paper, table, run.dataset, run.label): run.seconds(seconds) / 60
        for paper, table in frame[["paper", "table"]].drop_duplicates().itertuples(index=False)
        for run in plan(paper, table, seeds=[0], folder=folder)
    }


def _why_not(row, protocol: str, there: set, known: set, minutes: float) -> tuple[str, str]:
    """Return why a number was not measured, in a word or two and in full."""
    if row.model not in SYSTEMS:
        return "no such system yet", f"no such system yet: {row.model}"
    if why := misfit(row.model, PAPER_PROTOCOLS[row.protocol].protocol):
        return "protocol", why
    if row.dataset != "all" and row.dataset not in known:
        return "no such data here", f"{row.dataset} could not be had where the book was measured"
    if (row.dataset, protocol, row.label) in there:
        return "metric not taken", f"its runs did not take {row.metric}"
    time = "nothing like it was timed" if math.isnan(minutes) else f"needs {max(minutes, 1):,.0f} CPU-minutes"
    return "not run yet", f"not run yet: {time}"


def ledger(folder: Path = RESULTS) -> pd.DataFrame:
    """Return every number of the papers (a row each, as :func:`~vaecf_lib.lab.ledger.reported`) with its verdict.

    Columns beside those: ``label`` our row · ``state`` one of STATES · ``kind`` of the reason in a few words, and
    ``reason`` in full · ``ours`` mean over ``seeds`` runs, with their standard deviation ``std`` · ``files`` of the
    runs · ``deviation`` ours minus theirs, of measured numbers · ``explained`` why they differ, "" if nobody knows ·
    ``remark`` what makes the printed number doubtful · ``minutes`` of CPU that what is missing takes.

    Raises:
        ConfigError: no ``reported.json`` in the folder.
        DataError: runs of one data set were made on different data.
    """
    frame = reported(folder)
    frame["label"] = labels_of(frame)
    ours, of_a_run = measured(folder), _run_minutes(frame, folder)
    found, known = _runs_of(ours), set() if ours.empty else set(ours["dataset"])
    there = {key[:3] for key in found}
    of_paper, remarks, explained = ({} for _ in range(3))
    for erratum in noted(folder)["errata"]:
        into = {"cannot be compared": of_paper, "explained": explained, "doubtful": remarks}[erratum["verdict"]]
        into |= dict.fromkeys(frame.index[about(frame, erratum)], erratum["reason"])
    rows = []
    for row in frame.itertuples():
        protocol = PAPER_PROTOCOLS[row.protocol].full_protocol
        runs = found.get((row.dataset, protocol, row.label, metric_of(row.protocol, row.metric)), NOTHING)
        each = of_a_run.get((row.paper, row.table, row.dataset, row.label), float("nan"))
        minutes = 0.0 if runs["files"] else each * seeds_due(row.dataset, protocol, row.label)
        if pd.isna(row.value):
            state, kind, reason = "cannot be compared", "blank cell", "the paper prints no number"
        elif row.Index in of_paper:
            state, kind, reason = "cannot be compared", "erratum", of_paper[row.Index]
        elif runs["files"]:
            state, seeds = "measured", runs["seeds"]
            kind = reason = "one run" if seeds == 1 else f"{seeds} seeds"
            if runs["improving"]:
                reason += f", still improving at the last epoch in {runs['improving']}"
        else:
            state, (kind, reason) = "not measured", _why_not(row, protocol, there, known, minutes)
        difference = runs["ours"] - row.value if state == "measured" else float("nan")
        rows.append(
            {key: runs[key] for key in ("ours", "std", "seeds", "files")}
            | {"state": state, "kind": kind, "reason": reason, "deviation": difference, "minutes": minutes}
            | {"explained": explained.get(row.Index, ""), "remark": remarks.get(row.Index, "")}
        )
    columns = [
        "state",
        "kind",
        "reason",
        "ours",
        "std",
        "seeds",
        "deviation",
        "explained",
        "remark",
        "minutes",
        "files",
    ]
    return pd.concat([frame, pd.DataFrame(rows, index=frame.index)[columns]], axis=1)


def only(rows: pd.DataFrame, paper: str | None = None, state: str | None = None) -> pd.DataFrame:
    """Return the rows of one paper, or in one state, of a ledger.

    Raises:
        ConfigError: there is no such paper or state.
    """
    state = None if state is None else state.replace("-", " ")
    for column, value, known in (("paper", paper, rows["paper"].unique()), ("state", state, STATES)):
        if value is not None and value not in known:
            raise ConfigError(f"no {column} {value!r} in the ledger. Known: {', '.join(known)}")
        rows = rows if value is None else rows[rows[column] == value]
    return rows


def coverage(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how many numbers of a ledger have which state, by paper and in all."""
    counts = pd.crosstab(rows["paper"], rows["state"]).reindex(columns=list(STATES), fill_value=0)
    counts.loc["all"] = counts.sum()
    return counts.assign(numbers=counts.sum(axis=1))


def reasons(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how many numbers of a ledger have which state for what kind of reason, by paper and in all."""
    counts = pd.crosstab([rows["state"], rows["kind"]], rows["paper"])
    counts["all"] = counts.sum(axis=1)
    order = [
        (state, kind) for state in STATES for s, kind in counts["all"].sort_values(ascending=False).index if s == state
    ]
    return counts.loc[order]


def deviations(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the largest deviation of each measured row of a table, unexplained ones first, the largest first.

    ``share``: of the printed number, for metrics have different scales.
    """
    found = rows[rows["state"] == "measured"].assign(share=lambda f: f["deviation"] / f["value"])
    found = found.assign(size=found["share"].abs(), known=found["explained"] != "")
    found = found.sort_values(["known", "size"], ascending=[True, False])
    return found.drop_duplicates(["paper", "table", "dataset", "label"]).drop(columns=["size", "known"])


def transplanted(folder: Path = RESULTS) -> pd.DataFrame:
    """Return the systems of RecVAE's and ICTIR's tables on data that can be had: "same systems, other data".

    A row a number printed for ML-20M, and ours on each of ELSEWHERE: ``printed`` (on ``printed_on``), ``ours`` mean
    over ``seeds``, ``std``, ``files``. No such row counts as measured, and none has a deviation: the data differ.
    """
    theirs = reported(folder)
    theirs = theirs[pd.Series(zip(theirs["paper"], theirs["table"], strict=True)).isin(TRANSPLANTS)]
    theirs = theirs[theirs["dataset"] == "ml-20m"].assign(label=labels_of)
    found, rows = _runs_of(measured(folder)), []
    for row in theirs.itertuples():
        for dataset in ELSEWHERE:
            runs = found.get((dataset, "strong", row.label, row.metric), NOTHING)
            rows.append(
                {"state": TRANSPLANTED, "paper": row.paper, "table": row.table, "model": row.model, "label": row.label}
                | {"metric": row.metric, "printed_on": row.dataset, "printed": row.value, "dataset": dataset}
                | {key: runs[key] for key in ("ours", "std", "seeds", "files")}
            )
    return pd.DataFrame(rows)


def in_a_line(row) -> str:
    """Return a row of a ledger (a named tuple) in one line."""
    theirs = "     –" if pd.isna(row.value) else f"{row.value:6.3f}"
    start = f"{row.paper:8s} {row.table:3s} {row.dataset:13s} {row.label:30s} {row.metric:10s} {theirs}"
    if row.state != "measured":
        return f"{start}  {row.state}: {row.reason}"
    spread = "" if pd.isna(row.std) else f" ± {row.std:.3f}"
    known = f"; {row.explained}" if row.explained else ""
    return f"{start}  ours {row.ours:.3f}{spread} ({row.reason}) {row.deviation:+.3f}{known}"


def summary(rows: pd.DataFrame, n_deviations: int = 3) -> str:
    """Return a ledger's coverage by paper and by reason, and its largest unexplained deviations."""
    lines = [coverage(rows).to_string(), "", reasons(rows).to_string()]
    found = deviations(rows)
    found = found[found["explained"] == ""].head(n_deviations)
    if len(found):
        lines += ["", "the largest deviations without an explanation, one a row of a table:"]
        lines += map(in_a_line, found.itertuples())
    return "\n".join(lines)
