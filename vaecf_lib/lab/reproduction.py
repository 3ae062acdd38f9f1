"""Running studies and the papers' tables: what would be run, and one JSON file for each run."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints import write_json
from ..data import load_dataset
from ..environment import machine
from ..errors import ConfigError
from ..experiment import run_experiment
from ..systems import SYSTEMS, build
from . import RESULTS
from .ledger import PAPER_PROTOCOLS, file_name, reported
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


def _of_a_paper(paper: str, table: str, dataset: str | None, models: list[str] | None, folder: Path) -> Study:
    """Return a paper's table as a study: a row for each of ``models``, or else for each of its systems we have."""
    theirs = reported(folder)
    rows = theirs[(theirs["paper"] == paper) & (theirs["table"] == table)]
    if rows.empty:
        known = sorted({f"{p} {t}" for p, t in zip(theirs["paper"], theirs["table"], strict=True)})
        raise ConfigError(f"no table {table!r} of {paper!r}. Known: {', '.join(known)}, book {', book '.join(STUDIES)}")
    protocol = PAPER_PROTOCOLS[rows["protocol"].iloc[0]]
    slugs = models or [slug for slug in dict.fromkeys(rows["model"]) if slug in SYSTEMS]
    unknown = sorted(set(slugs) - set(SYSTEMS))
    if unknown:
        raise ConfigError(f"unknown model {unknown[0]!r}. Known: {', '.join(SYSTEMS)}")
    return Study(
        protocol=protocol.protocol,
        cut=protocol.cut,
        data={name: protocol.split_of(name) for name in ([dataset] if dataset else dict.fromkeys(rows["dataset"]))},
        rows={slug: Row(slug, rating_form(slug) if protocol.protocol == "ratings" else {}) for slug in slugs},
    )


def plan(
    paper: str,
    table: str,
    *,
    dataset: str | None = None,
    models: list[str] | None = None,
    seeds: list[int],
    epochs: int = 100,
    folder: Path = RESULTS,
) -> list[PlannedRun]:
    """Return the runs of a table, or of one of the book's studies (``paper`` "book"), data set by data set.

    ``models``: slugs, or labels of a study's rows · ``epochs``: where neither the row nor its study says how many.

    Raises:
        ConfigError: unknown paper, table, study, row or system.
    """
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
        for seed in seeds:
            for label, row in study.rows_on(name).items():
                if models is None or label in models:
                    lengths = (row.epochs, study.epochs, epochs)
                    length = next(n for n in lengths if n is not None)
                    runs.append(PlannedRun(study, name, label, row, seed, length))
    return runs


def reproduce(
    paper: str,
    table: str,
    *,
    dataset: str | None = None,
    models: list[str] | None = None,
    seeds: list[int],
    epochs: int = 100,
    device: str = "auto",
    folder: Path = RESULTS,
) -> list[Path]:
    """Make the runs of :func:`plan`, one file each; runs already there are kept. Return the files' paths.

    Raises:
        ConfigError: unknown paper, table, study, row or system.
    """
    runs = plan(paper, table, dataset=dataset, models=models, seeds=seeds, epochs=epochs, folder=folder)
    (folder / "measured").mkdir(parents=True, exist_ok=True)
    paths = [folder / "measured" / run.name for run in runs]
    log = None
    for run, path in zip(runs, paths, strict=True):
        if path.exists():
            continue
        if log is None or log.name != run.dataset:
            log = load_dataset(run.dataset)
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
            progress=False,
        )
        result |= {
            "label": run.label,
            **({"cut": run.study.cut} if run.study.cut else {}),
            "command": run.command,
            "machine": machine(device),
        }
        write_json(path, result)
        print(f"{path}: " + ", ".join(f"{m} {v['mean']:.4f}" for m, v in result["metrics"].items()))
    return paths
