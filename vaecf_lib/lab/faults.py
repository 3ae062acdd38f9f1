"""What is wrong with the book's results: files that break their schema, rows that are not what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import ConfigError, VaecfError, counted
from ..evaluation import parse_metric
from . import RESULTS
from .ledger import PAPER_PROTOCOLS, file_name, measured, protocol_of, reported
from .verdicts import about, noted, seeds_due

_NUMBER, _TEXT = (int, float), (str,)
_OPTIONAL = type(None)
REPORTED = {
    **dict.fromkeys(("paper", "table", "protocol", "dataset", "model", "metric"), _TEXT),
    "variant": (str, _OPTIONAL),
    "value": (*_NUMBER, _OPTIONAL),
    "ci": (*_NUMBER, _OPTIONAL),
    "best": (bool, _OPTIONAL),
}
RUN = {
    **dict.fromkeys(("model", "dataset", "protocol", "label", "device", "data_sha256", "command", "machine"), _TEXT),
    **dict.fromkeys(("epochs", "best_epoch", "seed", "batch_size", "users_without_targets"), (int,)),
    **dict.fromkeys(("metrics", "settings"), (dict,)),
    "seconds_per_epoch": (*_NUMBER, _OPTIONAL),
}
ESTIMATE = {"mean": _NUMBER, "ci": (*_NUMBER, _OPTIONAL), "n_users": (int,)}
ERRATUM = {"where": (dict,), "verdict": _TEXT, "reason": _TEXT, "section": _TEXT, "checked": _TEXT}
UNFINISHED = {"dataset": _TEXT, "protocol": _TEXT, "labels": (list,), "why": _TEXT}
VERDICTS = ("cannot be compared", "explained", "doubtful")


def _misses(value: Any, schema: dict[str, tuple[type, ...]]) -> str | None:
    """Return what keeps a JSON object from its schema, or None."""
    if not isinstance(value, dict):
        return f"{type(value).__name__} where an object should be"
    for key, kinds in schema.items():
        if key not in value:
            return f"no {key!r}"
        # In JSON true is no number.
        if not isinstance(value[key], kinds) or (isinstance(value[key], bool) and bool not in kinds):
            return f"{key!r} is {json.dumps(value[key])[:40]}"
    return None


def _of_run(name: str, run: Any) -> str | None:
    """Return what is wrong with the content of a run's file, or None."""
    if wrong := _misses(run, RUN):
        return wrong
    for metric, estimate in run["metrics"].items():
        if wrong := _misses(estimate, ESTIMATE):
            return f"{metric}: {wrong}"
        try:
            parse_metric(metric)
        except ConfigError as error:
            return str(error)
    if not re.fullmatch("[0-9a-f]{64}", run["data_sha256"]):
        return "data_sha256 is no hash"
    if name != (wanted := file_name(run["dataset"], protocol_of(run), run["label"], run["seed"])):
        return f"holds the run that belongs into {wanted}"
    return None


def _of_list(name: str, rows: Any, schema: dict[str, tuple[type, ...]]) -> list[str]:
    if not isinstance(rows, list):
        return [f"{name}: {type(rows).__name__} where a list should be"]
    return [f"{name}, entry {at}: {wrong}" for at, row in enumerate(rows, 1) if (wrong := _misses(row, schema))]


def broken(folder: Path = RESULTS) -> list[str]:
    """Return which files break their schema, and how, a line each; without them there is no ledger."""
    contents, found = {}, []
    paths = [folder / "reported.json", folder / "verdicts.json", *sorted((folder / "measured").glob("*.json"))]
    for path in filter(Path.exists, paths):
        try:
            contents[path] = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            found.append(f"{path}: no JSON ({' '.join(str(error).split())})")
    for path, content in contents.items():
        if path.name == "reported.json":
            found += _of_list(str(path), content, REPORTED)
        elif path.name == "verdicts.json":
            if wrong := _misses(content, {"errata": (list,), "unfinished": (list,)}):
                found.append(f"{path}: {wrong}")
                continue
            found += _of_list(f"{path}, errata", content["errata"], ERRATUM)
            found += _of_list(f"{path}, unfinished", content["unfinished"], UNFINISHED)
        elif wrong := _of_run(path.name, content):
            found.append(f"{path}: {wrong}")
    return found


def _notes(folder: Path, ours: pd.DataFrame) -> list[str]:
    """Return the errata that are about no row or say no verdict, and the rows marked unfinished that are not."""
    theirs, found = reported(folder), []
    found += [
        f"reported.json: a protocol that nobody knows here: {name}"
        for name in sorted(set(theirs["protocol"]) - set(PAPER_PROTOCOLS))
    ]
    for at, erratum in enumerate(noted(folder)["errata"], 1):
        strange = sorted(set(erratum["where"]) - set(theirs.columns))
        if erratum["verdict"] not in VERDICTS:
            found.append(f"verdicts.json, erratum {at}: the verdict {erratum['verdict']!r} is none of {VERDICTS}")
        elif strange or not about(theirs, erratum).any():
            found.append(f"verdicts.json, erratum {at}: about no number: {erratum['where']}")
    improving = {tuple(key) for *key, _, seeds in _rows(ours) if seeds}
    found += [
        f"verdicts.json marks {label} on {dataset}, {protocol}, as unfinished, and it is not: take the mark away"
        for dataset, protocol, label in sorted(_marked(folder) - improving)
    ]
    return found


def _marked(folder: Path) -> set[tuple[str, str, str]]:
    return {(m["dataset"], m["protocol"], label) for m in noted(folder)["unfinished"] for label in m["labels"]}


def _rows(ours: pd.DataFrame) -> list[tuple]:
    """Return (dataset, protocol, label, number of seeds, those that were still improving) of every kept row."""
    if ours.empty:
        return []
    runs = ours.drop_duplicates(["dataset", "protocol", "label", "seed"])
    return [
        (*key, len(rows), sorted(rows.loc[rows["improving"], "seed"]))
        for key, rows in runs.groupby(["dataset", "protocol", "label"])
    ]


def faults(folder: Path = RESULTS) -> list[str]:
    """Return what is wrong with the results, a line each: nothing should be.

    Files that break their schema (then nothing else is asked); rows that were still improving when their training
    ended, under constant steps, unless ``verdicts.json`` marks them; rows with fewer runs than their study says; notes
    of ``verdicts.json`` that are about nothing.

    Raises:
        ConfigError: no ``reported.json`` in the folder.
    """
    if not (folder / "reported.json").exists():
        reported(folder)  # which says where to get it
    if found := broken(folder):
        return found
    try:
        ours = measured(folder)
    except VaecfError as error:
        return [str(error)]
    found, marked = _notes(folder, ours), _marked(folder)
    for dataset, protocol, label, n, improving in _rows(ours):
        where, due = f"{label} on {dataset}, {protocol}", seeds_due(dataset, protocol, label)
        if improving and (dataset, protocol, label) not in marked:
            seeds = ", ".join(map(str, improving))
            found.append(f"{where}: not converged, the best epoch is the last (seed {seeds}). Train longer, or mark it")
        if n < due:
            found.append(f"{where}: {counted(n, 'run')} of {due}. Run the other seeds")
    return found
