"""What the five papers report and what we measured, read from the book's results.

``book/results/reported.json`` holds the papers' numbers, one row each; ``book/results/measured/`` holds one JSON
file per run, as ``vaecf fit --json`` prints it, with the command that made it. :mod:`vaecf_lib.lab.verdicts` puts the
two side by side.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..errors import ConfigError, DataError
from . import RESULTS
from .studies import STUDIES
from .study import Options, with_cut


@dataclass(frozen=True)
class PaperProtocol:
    """What stands for a paper's protocol here: ours, the ``cut`` of ratings, and the ``split`` options.

    ``data`` has further split options by data set.
    """

    protocol: str
    cut: str | None = None
    split: Options = field(default_factory=dict)
    data: dict[str, Options] = field(default_factory=dict)

    @property
    def full_protocol(self) -> str:
        """The protocol as our measured runs have it: strong, ratings/80."""
        return with_cut(self.protocol, self.cut)

    def split_of(self, dataset: str) -> Options:
        """Return the split's options on a data set."""
        return self.split | self.data.get(dataset, {})


# By the "protocol" of reported.json.
PAPER_PROTOCOLS = {
    "strong": PaperProtocol(
        "strong",
        data={
            "ml-20m": {"n_heldout": 10_000},
            "netflix": {"n_heldout": 40_000},
            "msd": {"n_heldout": 50_000, "threshold": 1, "min_items": 20},
        },
    ),
    "weak": PaperProtocol("weak"),
    "rating": PaperProtocol("ratings", cut="80", split={"published": False}),
    "rating70": PaperProtocol(
        "ratings", cut="70", split={"train": 0.7, "valid": 0.15, "test": 0.15, "published": False}
    ),
}
# What RecVAE's Table 2 calls a feature, and what our studies call it.
_FEATURES = {
    "new_architecture": "architecture",
    "composite_prior": "prior",
    "beta_rescaling": "beta",
    "alternating_training": "alternating",
    "decoder_wo_denoising": "clean",
}
_BMF_VARIANTS = {
    "no_data_input": "vae-bmf, no data input",
    "no_cross_feedback": "vae-bmf, C: no feedback",
    "no_attention": "vae-bmf, D: no attention",
}
A_FEW_EPOCHS = 3  # a training as short as this is not asked whether it had finished


def labels_of(theirs: pd.DataFrame) -> list[str]:
    """Return how our studies call each row of :func:`reported`."""
    variants = theirs["variant"].fillna("")
    return [_label_of(model, variant) for model, variant in zip(theirs["model"], variants, strict=True)]


def _label_of(model: str, variant: str) -> str:
    """Return the label of a variant, as "recvae: architecture, prior"; where there is none, the system's slug."""
    if variant in _BMF_VARIANTS:
        return _BMF_VARIANTS[variant]
    features = [_FEATURES[name] for name in variant.split("+") if name in _FEATURES]
    if len(features) == len(_FEATURES):
        return "recvae: all five"
    return f"{model}: {', '.join(features)}" if features else model


def metric_of(protocol: str, metric: str) -> str:
    """Return our name of a paper's metric under a protocol of ``reported.json``."""
    if protocol == "weak":  # CFGAN's and VAEGAN's recall divides by all targets: 0.108 at 5 beside an NDCG of 0.439
        return metric.replace("recall@", "recall_all@")
    return {"mmae": "mae", "mrmse": "rmse"}.get(metric, metric)  # Hy-VAE's names


def reported(folder: Path = RESULTS) -> pd.DataFrame:
    """Return the papers' numbers: paper, table, protocol, dataset, model, variant, metric, value, ci."""
    path = folder / "reported.json"
    if not path.exists():
        raise ConfigError(
            f"no {path}: the results lie in the book's repository, not in the installed package. Run this in a "
            "checkout of it, or name the folder (--results CHECKOUT/book/results)"
        )
    return pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))


def measured(folder: Path = RESULTS) -> pd.DataFrame:
    """Return our runs, one row a metric: dataset, protocol, label, model, seed, metric, value, ci, epochs, device.

    ``file`` is its file's name. ``protocol`` names the cut of ratings too, as ratings/80. ``validation`` is the
    validation metric of the epoch that was kept, nan in runs that did not note it. ``best_epoch`` is that epoch, nan in
    runs without a validation curve; ``improving`` is true where it was the last one and nothing but the end of the
    training made it so: the step sizes were constant and there were more than a few epochs. ``seconds``: of training,
    start and all epochs, on a machine that other programs may have used too.

    Raises:
        DataError: runs of one data set were made on different data, whose numbers do not belong in one table.
    """
    rows, first = [], {}
    for path in sorted((folder / "measured").glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        other, data = first.setdefault(run["dataset"], (path, run["data_sha256"]))
        if run["data_sha256"] != data:
            raise DataError(f"{path} and {other} were made on different data called {run['dataset']}: remove the older")
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
                "seconds": (run.get("seconds_to_start") or 0) + run["epochs"] * (run.get("seconds_per_epoch") or 0),
                "file": path.name,
            }
            rows.append(row | {"validation": next(iter((run.get("validation") or {}).values()), float("nan"))})
    return pd.DataFrame(rows)


def chosen(dataset: str, protocol: str = "strong", folder: Path = RESULTS) -> pd.DataFrame:
    """Return each system's settings of the "grid" study, its default included, with seed 0.

    Columns: model, label, validation, and whether it is ``chosen``, the best by validation.
    """
    ours = measured(folder).query("dataset == @dataset and protocol == @protocol and seed == 0")
    ours = ours.drop_duplicates("label").dropna(subset="validation")
    grid = ours[(ours["label"] == ours["model"]) | ours["label"].isin(STUDIES["grid"].rows)]
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
        ours = ours[ours["label"].isin([label for study in studies for label in STUDIES[study].rows])]
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


def protocol_of(run: dict) -> str:
    """Return the protocol of a measured run with the cut of its ratings, if it has one: strong, ratings/80."""
    return with_cut(run["protocol"], run.get("cut"))


def file_name(dataset: str, protocol: str, label: str, seed: int) -> str:
    """Return the name of a run's file."""
    return f"{dataset}.{protocol.replace('/', '-')}.{re.sub('[ ,:]+', '-', label)}.seed{seed}.json"
