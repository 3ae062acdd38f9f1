"""The ledger: every number the five papers report beside ours, with seeds, spread, device and command.

``book/results/reported.json`` holds the papers' numbers, one row each; ``book/results/measured/`` holds one JSON
file per run, as ``vaecf fit --json`` prints it, with the command that made it.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
from pathlib import Path

import pandas as pd
import torch

from .checkpoints import write_json
from .data import load_dataset
from .errors import ConfigError
from .experiment import run_experiment
from .studies import RATING_FORM, STUDIES
from .systems import SYSTEMS

RESULTS = Path("book/results")

# Which protocol and split settings reproduce a paper's tables, by the "protocol" of reported.json. After the slash of a
# ratings protocol stands how the ratings were cut: results of one cut are never compared with those of another.
PROTOCOLS = {
    "strong": ("strong", {"ml-20m": {"n_heldout": 10_000}, "netflix": {"n_heldout": 40_000},
                          "msd": {"n_heldout": 50_000, "threshold": 1, "min_items": 20}}),
    "weak": ("weak", {}),
    "rating": ("ratings/80", {"*": {"published": False}}),
    "rating70": ("ratings/70", {"*": {"train": 0.7, "valid": 0.15, "test": 0.15, "published": False}}),
}  # fmt: skip
METRIC_NAMES = {"mmae": "mae", "mrmse": "rmse"}  # Hy-VAE's names
A_FEW_EPOCHS = 3  # a training as short as this is not asked whether it had finished


def reported(folder: Path = RESULTS) -> pd.DataFrame:
    """Return the papers' numbers: paper, table, protocol, dataset, model, variant, metric, value, ci."""
    path = folder / "reported.json"
    if not path.exists():
        raise ConfigError(f"no {path}: run this in a checkout of the book, or name its results folder")
    return pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))


def measured(folder: Path = RESULTS) -> pd.DataFrame:
    """Return our runs, one row a metric: dataset, protocol, label, model, seed, metric, value, ci, epochs, device.

    ``protocol`` names the cut of ratings too, as ratings/80. ``validation`` is the validation metric of the epoch that
    was kept, nan in runs that did not note it. ``best_epoch`` is that epoch, nan in runs without a validation curve;
    ``improving`` is true where it was the last one and nothing but the end of the training made it so: the step sizes
    were constant and there were more than a few epochs.
    """
    rows = []
    for path in sorted((folder / "measured").glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        curve = run.get("validation_curve") or []
        best = run["best_epoch"] if curve else float("nan")
        constant = run["settings"].get("schedule", "constant") == "constant"
        improving = bool(curve) and constant and run["epochs"] > A_FEW_EPOCHS and best == curve[-1][0]
        for metric, value in run["metrics"].items():
            keys = ("dataset", "label", "model", "seed", "epochs", "device")
            row = {key: run[key] for key in keys} | {
                "protocol": protocol_of(run),
                "metric": metric,
                "value": value["mean"],
                "ci": value["ci"],
                "best_epoch": best,
                "improving": improving,
            }
            rows.append(row | {"validation": next(iter((run.get("validation") or {}).values()), float("nan"))})
    return pd.DataFrame(rows)


def chosen(dataset: str, protocol: str = "strong", folder: Path = RESULTS) -> pd.DataFrame:
    """Return each system's settings of the "grid" study, its default included, with seed 0.

    Columns: model, label, validation, and whether it is ``chosen``, the best by validation.
    """
    ours = measured(folder).query("dataset == @dataset and protocol == @protocol and seed == 0")
    ours = ours.drop_duplicates("label").dropna(subset="validation")
    grid = ours[(ours["label"] == ours["model"]) | ours["label"].isin(STUDIES["grid"]["rows"])]
    best = grid.groupby("model")["validation"].transform("max")
    grid = grid.assign(chosen=grid["validation"] == best).sort_values(["model", "label"])
    return grid[["model", "label", "validation", "chosen"]].reset_index(drop=True)


def best_epochs(ours: pd.DataFrame) -> pd.Series:
    """Return by label which epoch was kept, of how many, for rows of :func:`measured` of one data set and protocol.

    "23–27 of 30" is a range over seeds. "12 of 12, still improving" warns: the best epoch of every seed was its last,
    under constant step sizes, and a longer training may well be better; where only some seeds did so, their number is
    given. "–": no run of the label has a validation curve, as in the floors, which are not trained by epochs, in
    trainings without a validation part, and in the runs on clicks.
    """

    def words(runs: pd.DataFrame) -> str:
        runs = runs.dropna(subset="best_epoch").drop_duplicates("seed")
        if runs.empty:
            return "–"
        first, last = int(runs["best_epoch"].min()), int(runs["best_epoch"].max())
        text = f"{first}" if first == last else f"{first}–{last}"
        text += f" of {runs['epochs'].max()}"
        marked, n = int(runs["improving"].sum()), len(runs)
        if marked:
            text += ", still improving" + (f" ({marked} of {n} seeds)" if marked < n else "")
        return text

    return pd.Series({label: words(runs) for label, runs in ours.groupby("label")}, dtype=object)


def table(
    dataset: str, protocol: str = "strong", studies: tuple[str, ...] | None = None, folder: Path = RESULTS
) -> pd.DataFrame:
    """Return our mean ± standard deviation over seeds: a row a system, a column a metric, and the number of seeds.

    ``studies`` keeps the rows of some of our studies; None: everything measured. Seconds per epoch were taken with
    nothing else running (``results/timing``), where they were taken.

    Where at least one row has a validation curve, the column "best epoch" says which epoch was kept of how many, and
    warns of rows that were still improving when their training ended (:func:`best_epochs`); rows without a curve show
    "–". Where no row has one, as in all runs on clicks so far, the table has no such column.
    """
    ours = measured(folder)
    ours = ours[(ours["dataset"] == dataset) & (ours["protocol"] == protocol)]
    if studies is not None:
        ours = ours[ours["label"].isin([label for study in studies for label in STUDIES[study]["rows"]])]
    grouped = ours.groupby(["label", "metric"], sort=False)["value"]
    text = grouped.mean().map("{:.3f}".format) + grouped.std().map(lambda s: "" if s != s else f" ± {s:.3f}")
    result = text.unstack("metric")
    result["seeds"] = ours.groupby("label")["seed"].nunique()
    timing = folder / "timing" / f"{dataset}.json"
    seconds = json.loads(timing.read_text(encoding="utf-8"))["seconds_per_epoch"] if timing.exists() else {}
    result["s/epoch"] = [f"{seconds[label]:.2f}" if label in seconds else "–" for label in result.index]
    kept = best_epochs(ours)
    if (kept != "–").any():
        result["best epoch"] = kept
    means = grouped.mean().unstack("metric")
    best = -means["rmse"] if "rmse" in means else means.mean(axis=1)
    return result.loc[best.sort_values(ascending=False).index]


def summary(folder: Path = RESULTS) -> str:
    """Return how many of the papers' numbers have a run of ours beside them, and each deviation."""
    theirs, ours = reported(folder), measured(folder)
    theirs = theirs[theirs["value"].notna()]
    names = {name: protocol for name, (protocol, _) in PROTOCOLS.items()}
    theirs = theirs.assign(protocol=theirs["protocol"].map(names), metric=theirs["metric"].replace(METRIC_NAMES))
    keys = ["dataset", "protocol", "model", "metric"]
    lines = []
    if not ours.empty:
        plain = ours[ours["label"] == ours["model"]]
        means = plain.groupby(keys)["value"].agg(["mean", "std", "count"]).reset_index()
        both = theirs[theirs["variant"].isna()].merge(means, on=keys)
        for row in both.itertuples():
            lines.append(
                f"{row.paper:8s} table {row.table:3s} {row.dataset:9s} {row.model:12s} {row.metric:10s} "
                f"paper {row.value:.3f}  ours {row.mean:.3f} ({row.count} seeds)  {row.mean - row.value:+.3f}"
            )
    head = f"{len(lines)} of {len(theirs)} reported numbers have runs beside them; {len(ours)} measured values in all"
    return "\n".join([head, *lines])


def _plan(paper: str, table: str, dataset: str | None, models: list[str] | None, folder: Path):
    """Yield (dataset, protocol, settings, label, slug, model settings) of a table or study."""
    if paper == "book":
        if table not in STUDIES:
            raise ConfigError(f"no study {table!r}. Known: {', '.join(STUDIES)}")
        study = STUDIES[table]
        unknown = sorted(set(models or ()) - set(study["rows"]))
        if unknown:
            raise ConfigError(f"study {table!r} has no row {unknown[0]!r}. Known: {'; '.join(study['rows'])}")
        for name in [dataset] if dataset else study["settings"]:
            for label, (slug, options) in study["rows"].items():
                options = options | study.get("chosen", {}).get(name, {}).get(label, {})
                if models is None or label in models:
                    yield name, study["protocol"], study["settings"].get(name, {}), label, slug, options
        return
    theirs = reported(folder)
    rows = theirs[(theirs["paper"] == paper) & (theirs["table"] == table)]
    if rows.empty:
        known = sorted({f"{p} {t}" for p, t in zip(theirs["paper"], theirs["table"], strict=True)})
        raise ConfigError(f"no table {table!r} of {paper!r}. Known: {', '.join(known)}, book {', book '.join(STUDIES)}")
    protocol, settings = PROTOCOLS[rows["protocol"].iloc[0]]
    for name in [dataset] if dataset else list(dict.fromkeys(rows["dataset"])):
        for slug in models or [s for s in dict.fromkeys(rows["model"]) if s in SYSTEMS]:
            options = RATING_FORM.get(slug, {}) if protocol.startswith("ratings") else {}
            yield name, protocol, settings.get(name, settings.get("*", {})), slug, slug, options


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
    """Run a table's systems that exist here, every seed, and write one file a run; runs already there are kept.

    Raises:
        ConfigError: unknown paper, table, study or system.
    """
    plan = list(_plan(paper, table, dataset, models, folder))
    study = STUDIES[table] if paper == "book" else {}
    batch_size, metrics = study.get("batch_size", 500), study.get("metrics")
    (folder / "measured").mkdir(parents=True, exist_ok=True)
    paths = []
    for name in dict.fromkeys(row[0] for row in plan):
        log = load_dataset(name)
        for seed in seeds:
            for row in (r for r in plan if r[0] == name):
                _, full_protocol, split_settings, label, slug, options = row
                protocol, _, cut = full_protocol.partition("/")
                path = folder / "measured" / file_name(name, full_protocol, label, seed)
                paths.append(path)
                if path.exists():
                    continue
                settings = {**split_settings, **options}
                epochs_here = settings.pop("epochs", study.get("epochs", epochs))
                result, _ = run_experiment(
                    slug,
                    log,
                    protocol,
                    epochs=epochs_here,
                    seed=seed,
                    device=device,
                    batch_size=batch_size,
                    metrics=metrics,
                    settings=settings,
                    progress=False,
                )
                command = ["vaecf", "fit", slug, "--dataset", name, "--protocol", protocol]
                command += ["--epochs", str(epochs_here), "--seed", str(seed), "--batch-size", str(batch_size)]
                command += ["--patience", "0"]  # the command line's default would stop some of them early
                if metrics is not None:
                    command += ["--metrics", ",".join(metrics)]
                for key, value in settings.items():
                    command += [
                        "--set",
                        f"{key}={json.dumps(value) if not isinstance(value, str) else value}",
                    ]
                result |= {
                    "label": label,
                    **({"cut": cut} if cut else {}),
                    "command": shlex.join([*command, "--json"]),
                    "machine": machine(device),
                }
                write_json(path, result)
                print(f"{path}: " + ", ".join(f"{m} {v['mean']:.4f}" for m, v in result["metrics"].items()))
    return paths


def protocol_of(run: dict) -> str:
    """Return the protocol of a measured run with the cut of its ratings, if it has one: strong, ratings/80."""
    return run["protocol"] + (f"/{run['cut']}" if "cut" in run else "")


def file_name(dataset: str, protocol: str, label: str, seed: int) -> str:
    """Return the name of a run's file."""
    return f"{dataset}.{protocol.replace('/', '-')}.{re.sub('[ ,:]+', '-', label)}.seed{seed}.json"


def machine(device: str) -> str:
    """Return the hardware and torch version in words, for the record."""
    if device in ("auto", "cuda") and torch.cuda.is_available():
        chip = torch.cuda.get_device_name()
    else:
        chip = f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
    return f"{chip}, torch {torch.__version__.split('+')[0]}"
