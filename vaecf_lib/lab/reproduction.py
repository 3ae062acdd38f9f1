"""Running studies and the papers' tables: what would be run, and one JSON file for each run."""

from __future__ import annotations

import json
import math
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from ..checkpoints import write_json
from ..data import DATASETS, load_dataset
from ..environment import machine, pick_device
from ..errors import ConfigError, counted
from ..experiment import run_experiment
from ..systems import SYSTEMS, build
from . import RESULTS
from .ledger import PAPER_PROTOCOLS, PaperProtocol, file_name, labels_of, reported
from .studies import STUDIES
from .study import Row, Study


@dataclass(frozen=True)
class PlannedRun:
    """One row of a study on one data set with one seed."""

    study: Study
    dataset: str
    label: str
    row: Row
    seed: int
    epochs: int

    @property
    def name(self) -> str:
        """The name of the file that keeps the run."""
        return file_name(self.dataset, self.study.full_protocol, self.label, self.seed)

    @property
    def settings(self) -> dict[str, Any]:
        """The options of split, model and training."""
        return self.study.settings(self.dataset, self.row)

    def seconds(self, of_epoch: dict[tuple[str, str], float]) -> float:
        """Return how long it takes, by :func:`epoch_seconds`; nan where the system was never timed on the data."""
        return 0.0 if self.epochs == 0 else self.epochs * of_epoch.get((self.dataset, self.row.system), math.nan)

    @property
    def command(self) -> str:
        """The command that makes the same run."""
        words = ["vaecf", "fit", self.row.system, "--dataset", self.dataset, "--protocol", self.study.protocol]
        words += ["--epochs", str(self.epochs), "--seed", str(self.seed), "--batch-size", str(self.study.batch_size)]
        words += ["--patience", "0"]  # the command line's default would stop some of them early
        if self.study.metrics is not None:
            words += ["--metrics", ",".join(self.study.metrics)]
        for key, value in self.settings.items():
            words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        return shlex.join([*words, "--json"])


def rating_form(slug: str) -> dict[str, Any]:
    """Return the options under which a system that ranks items predicts ratings; none where there is nothing to set."""
    options = SYSTEMS[slug].options
    if build(slug, n_items=1).rates:
        return {}
    if "likelihood" in options and "gaussian" in options["likelihood"].choices:
        return {"likelihood": "gaussian"}
    return {"ratings": True} if "ratings" in options else {}


def misfit(slug: str, protocol: str) -> str | None:
    """Return why a system cannot be measured under a protocol, or None."""
    system = SYSTEMS[slug]
    if protocol == "strong" and system.model.needs == "user" and "n_users" in system.options:
        return f"{slug} knows only the users it was trained on, and the strong protocol asks about others"
    return None


def _row_called(label: str, protocol: PaperProtocol) -> Row:
    """Return the row of a variant, as the study that has it defines it."""
    for study in STUDIES.values():
        if label in study.rows and study.full_protocol == protocol.full_protocol:
            row = study.rows[label]
            return row if row.epochs is not None else replace(row, epochs=study.epochs)
    raise ConfigError(f"no study has a row {label!r} under the protocol {protocol.full_protocol}")


def _table(paper: str, table: str, folder: Path) -> pd.DataFrame:
    """Return the rows of a paper's table with our labels."""
    theirs = reported(folder)
    rows = theirs[(theirs["paper"] == paper) & (theirs["table"] == table)]
    if rows.empty:
        known = sorted({f"{p} {t}" for p, t in zip(theirs["paper"], theirs["table"], strict=True)})
        raise ConfigError(f"no table {table!r} of {paper!r}. Known: {', '.join(known)}, book {', book '.join(STUDIES)}")
    return rows.assign(label=labels_of(rows))


def left_out(paper: str, table: str, folder: Path = RESULTS) -> dict[str, str]:
    """Return the systems of a paper's table that :func:`plan` leaves out, and why; of our own studies, none."""
    if paper == "book":
        return {}
    rows = _table(paper, table, folder)
    protocol = PAPER_PROTOCOLS[rows["protocol"].iloc[0]].protocol
    why = {slug: misfit(slug, protocol) if slug in SYSTEMS else "no such system yet" for slug in rows["model"].unique()}
    return {slug: reason for slug, reason in why.items() if reason}


def _of_a_paper(paper: str, table: str, dataset: str | None, models: list[str] | None, folder: Path) -> Study:
    """Return a paper's table as a study: a row for each of ``models``, or else for each of its systems we have."""
    rows = _table(paper, table, folder)
    protocol = PAPER_PROTOCOLS[rows["protocol"].iloc[0]]
    out = left_out(paper, table, folder)
    printed = [label for slug, label in zip(rows["model"], rows["label"], strict=True) if slug not in out]
    labels = list(dict.fromkeys(models or printed))
    for label in labels:
        if label not in SYSTEMS and label not in printed:
            raise ConfigError(f"unknown model {label!r}. Known: {', '.join(SYSTEMS)}")
        if label in SYSTEMS and (why := misfit(label, protocol.protocol)):
            raise ConfigError(f"{why}: leave it out, or choose another table")
    form = rating_form if protocol.protocol == "ratings" else lambda slug: {}
    sets = [name for name in dict.fromkeys(rows["dataset"]) if name != "all"]
    return Study(
        protocol=protocol.protocol,
        cut=protocol.cut,
        data={name: protocol.split_of(name) for name in ([dataset] if dataset else sets)},
        rows={label: Row(label, form(label)) if label in SYSTEMS else _row_called(label, protocol) for label in labels},
    )


def plan(
    paper: str,
    table: str,
    *,
    dataset: str | None = None,
    models: list[str] | None = None,
    seeds: list[int] | None = None,
    epochs: int = 100,
    folder: Path = RESULTS,
) -> list[PlannedRun]:
    """Return the runs of a table, or of one of the book's studies (``paper`` "book"), data set by data set.

    ``models``: slugs, or labels of a study's rows · ``seeds``: None for as many as the row is to have ·
    ``epochs``: where neither the row nor its study says how many.

    Raises:
        ConfigError: unknown paper, table, study, row, system or data set, or a system that does not fit the protocol.
    """
    if dataset is not None and dataset not in ("planted", *DATASETS):
        raise ConfigError(f"unknown data set {dataset!r}. Known: {', '.join(['planted', *DATASETS])}")
    if paper != "book":
        study = _of_a_paper(paper, table, dataset, models, folder)
    elif table in STUDIES:
        study = STUDIES[table]
    else:
        raise ConfigError(f"no study {table!r}. Known: {', '.join(STUDIES)}")
    unknown = sorted(set(models or ()) - set(study.rows))
    if unknown:
        raise ConfigError(f"study {table!r} has no row {unknown[0]!r}. Known: {'; '.join(study.rows)}")
    runs = []
    for name in [dataset] if dataset else study.data:
        rows = {label: row for label, row in study.rows_on(name).items() if models is None or label in models}
        most = max((row.seeds or study.seeds for row in rows.values()), default=0)
        for seed in range(most) if seeds is None else seeds:
            for label, row in rows.items():
                if seeds is None and seed >= (row.seeds or study.seeds):
                    continue
                lengths = (row.epochs, study.epochs, epochs)
                length = next(n for n in lengths if n is not None)
                runs.append(PlannedRun(study, name, label, row, seed, length))
    return runs


def epoch_seconds(folder: Path = RESULTS) -> dict[tuple[str, str], float]:
    """Return the CPU-seconds of an epoch by (dataset, system): the median of kept runs, else as ``vaecf bench`` has it.

    Systems without epochs take 0.
    """
    seconds: dict[tuple[str, str], float] = {}
    bench = folder / "speed" / "systems_cpu.json"
    if bench.exists():
        for dataset, shape in json.loads(bench.read_text(encoding="utf-8"))["shapes"].items():
            for slug, timed in shape["systems"].items():
                if timed.get("seconds_full") is not None:
                    seconds[dataset, slug] = timed["seconds_full"]
    kept: dict[tuple[str, str], list[float]] = {}
    for path in (folder / "measured").glob("*.json"):
        run = json.loads(path.read_text(encoding="utf-8"))
        if run.get("device") == "cpu":
            kept.setdefault((run["dataset"], run["model"]), []).append(run["seconds_per_epoch"] or 0.0)
    return seconds | {key: median(times) for key, times in kept.items()}


def words(seconds: float) -> str:
    """Return a time in words: "40 s", "12 min", "3.5 h", "a time unknown"."""
    if math.isnan(seconds):
        return "a time unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def still_to_do(runs: list[PlannedRun], folder: Path = RESULTS) -> str:
    """Return in a line how many of the runs are missing, and the CPU-time they will take."""
    left, seconds = missing(runs, folder), epoch_seconds(folder)
    if not left:
        return f"nothing left to do: {counted(len(runs), 'run')} kept"
    times = [run.seconds(seconds) for run in left]
    unknown = sum(map(math.isnan, times))
    text = words(sum(time for time in times if not math.isnan(time))) + " on one CPU core"
    if unknown == len(left):
        text = "a time unknown"
    elif unknown:
        text += f" and {counted(unknown, 'run')} of a length unknown"
    return f"left to do: {len(left)} of {counted(len(runs), 'run')}, {text}"


def missing(runs: list[PlannedRun], folder: Path = RESULTS) -> list[PlannedRun]:
    """Return those of the runs that are not kept."""
    return [run for run in runs if not (folder / "measured" / run.name).exists()]


def _check_siblings(run: PlannedRun, folder: Path) -> None:
    """Refuse to mix, in one row, seeds that were trained in different ways."""
    for seed in range(10):
        path = folder / "measured" / replace(run, seed=seed).name
        if not path.exists():
            continue
        kept = json.loads(path.read_text(encoding="utf-8"))
        as_planned = kept["settings"] == run.settings and kept["batch_size"] == run.study.batch_size
        if not as_planned or kept["epochs"] not in (0, run.epochs):
            same = f"{run.label} on {run.dataset}"
            raise ConfigError(
                f"{path} is of {same} with other settings: see its command; the study that has them goes on"
            )


def reproduce(
    paper: str,
    table: str,
    *,
    dataset: str | None = None,
    models: list[str] | None = None,
    seeds: list[int] | None = None,
    epochs: int = 100,
    device: str = "auto",
    folder: Path = RESULTS,
) -> list[Path]:
    """Make the runs of :func:`plan`, one file each, kept as it ends; runs already there are kept. Return the paths.

    What is done, and what is left to do with the time that will take, is said on stderr.

    Raises:
        ConfigError: as :func:`plan`, or the device is not there, or a row has runs with other settings already, of
            another study; all before any data are read.
    """
    runs = plan(paper, table, dataset=dataset, models=models, seeds=seeds, epochs=epochs, folder=folder)
    pick_device(device)
    todo, log = missing(runs, folder), None
    for run in todo:
        _check_siblings(run, folder)
    (folder / "measured").mkdir(parents=True, exist_ok=True)
    try:
        for at, run in enumerate(todo, 1):
            if log is None or log.name != run.dataset:
                log = load_dataset(run.dataset)
            say(f"{still_to_do(runs, folder)}\n[{at} of {len(todo)}] {run.dataset} {run.label}, seed {run.seed}")
            result, _ = run_experiment(
                run.row.system,
                log,
                run.study.protocol,
                epochs=run.epochs,
                seed=run.seed,
                device=device,
                batch_size=run.study.batch_size,
                metrics=run.study.metrics,
                settings=run.settings,
                progress=sys.stderr.isatty(),
            )
            result |= {
                "label": run.label,
                **({"cut": run.study.cut} if run.study.cut else {}),
                "command": run.command,
                "machine": machine(device),
            }
            path = folder / "measured" / run.name
            write_json(path, result)
            print(f"{path}: " + ", ".join(f"{m} {v['mean']:.4f}" for m, v in result["metrics"].items()), flush=True)
    finally:
        say(still_to_do(runs, folder))
    return [folder / "measured" / run.name for run in runs]


def say(line: str) -> None:
    """Print a line for whoever waits."""
    print(line, file=sys.stderr, flush=True)
