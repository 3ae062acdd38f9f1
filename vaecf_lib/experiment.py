"""One experiment from names to a result: what ``vaecf fit`` and the ledger both run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from . import data
from .checkpoints import write_json
from .data import RatingLog
from .errors import ConfigError
from .evaluation import Estimate, check_metrics, evaluate
from .options import declared
from .systems import SYSTEMS, build
from .training import fit, peak_memory_mb

PROTOCOLS = {"strong": data.split_strong, "weak": data.split_weak, "ratings": data.split_ratings}
METRICS = {
    "strong": ("recall@20", "recall@50", "ndcg@100"),
    "weak": ("recall_all@5", "recall_all@20", "ndcg@5", "ndcg@20", "mrr@5", "mrr@20"),
    "ratings": ("rmse", "mae"),
}  # of the ratings protocol only for systems that predict ratings; the others are measured as under strong
# Options of fit() that have no flag of their own on the command line.
FIT_OPTIONS = ("metric", "precision", "validate_every", "schedule")


def assign_settings(settings: dict[str, Any], slug: str, protocol: str) -> tuple[dict, dict, dict]:
    """Deal settings to the split, the model and the training; ``split_seed`` is the split's own seed.

    Raises:
        ConfigError: the model, the protocol or a key is unknown (the message lists the known ones), or a value
            is of the wrong type or out of range.
    """
    if slug not in SYSTEMS:
        raise ConfigError(f"unknown model {slug!r}. Known: {', '.join(SYSTEMS)}")
    if protocol not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {protocol!r}. Known: {', '.join(PROTOCOLS)}")
    of_split = declared(PROTOCOLS[protocol], f"split_{protocol}")
    of_split["split_seed"] = of_split.pop("seed")
    of_fit = {name: option for name, option in declared(fit, "fit").items() if name in FIT_OPTIONS}
    of_model = {name: option for name, option in SYSTEMS[slug].options.items() if name != "n_users"}  # the data's
    takers = {f"split_{protocol}": of_split, slug: of_model, "fit": of_fit}
    dealt: dict[str, dict[str, Any]] = {taker: {} for taker in takers}
    for key, value in settings.items():
        taker = next((taker for taker, options in takers.items() if key in options), None)
        if taker is None:
            known = sorted(set().union(*takers.values()))
            raise ConfigError(
                f"no option {key!r} of {slug}, of the {protocol} split or of fit. Known: {', '.join(known)}"
            )
        takers[taker][key].check(taker, key, value)
        dealt[taker]["seed" if key == "split_seed" else key] = value
    of_split, of_model, of_fit = dealt.values()
    return of_split, of_model, of_fit


def run_experiment(
    slug: str,
    log: RatingLog,
    protocol: str = "strong",
    *,
    epochs: int = 50,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 500,
    metrics: tuple[str, ...] | None = None,
    settings: dict[str, Any] | None = None,
    out: Path | None = None,
    progress: bool = True,
) -> tuple[dict[str, Any], dict[str, Estimate]]:
    """Split, train, evaluate on the test part; return the JSON-ready result and the estimates.

    ``settings`` go to whichever of split, model or training has an option of that name. With ``out`` the run is
    kept there: checkpoint, best model with the items' ids, result.
    """
    of_split, of_model, of_fit = assign_settings(settings or {}, slug, protocol)
    split = PROTOCOLS[protocol](log, **of_split)
    model = build(slug, split.n_items, **of_model)
    metrics = metrics or METRICS["strong" if protocol == "ratings" and not model.rates else protocol]
    check_metrics(model, split.test, metrics)  # not only after the training
    run = fit(
        model,
        split,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        device=device,
        out=out,
        progress=progress,
        **of_fit,
    )
    validation = run.best.get(run.metric)
    if not run.history and split.valid is not None:  # a system without epochs
        validation = evaluate(model, split.valid, (run.metric,), batch_size)[run.metric].mean
    estimates = evaluate(model, split.test, metrics, batch_size)
    result = {
        "model": slug,
        "dataset": log.name,
        "protocol": protocol,
        "metrics": {
            name: {"mean": e.mean, "ci": None if math.isnan(e.ci) else e.ci, "n_users": e.n_users}
            for name, e in estimates.items()
        },
        "validation": None if validation is None else {run.metric: validation},
        "validation_curve": [[row["epoch"], round(row[run.metric], 5)] for row in run.history if run.metric in row],
        "users_without_targets": split.test.n_without_targets,
        "seconds_per_epoch": run.seconds_per_epoch if run.history else None,
        "epochs": len(run.history),
        "best_epoch": run.best_epoch,
        "seed": seed,
        "device": run.device,
        "peak_memory_mb": round(peak_memory_mb(run.device), 1),
        "data_sha256": log.sha256,
        "batch_size": batch_size,
        "settings": settings or {},
    }
    if out is not None:
        write_json(out / "result.json", result)
    return result, estimates
