"""One experiment from names to a result: what ``vaecf fit`` and the ledger both run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from . import data, distributed
from .checkpoints import write_json
from .data import RatingLog, Split
from .errors import ConfigError
from .evaluation import Estimate, check_metrics, evaluate
from .manifest import read_manifest
from .options import Option, declared
from .systems import SYSTEMS, build
from .training import fit, peak_memory_mb

PROTOCOLS = {
    "strong": data.split_strong,
    "weak": data.split_weak,
    "ratings": data.split_ratings,
    "time": data.split_time,
    "leave-one-out": data.split_leave_one_out,
}
METRICS = {
    "strong": ("recall@20", "recall@50", "ndcg@100"),
    "weak": ("recall_all@5", "recall_all@20", "ndcg@5", "ndcg@20", "mrr@5", "mrr@20"),
    "ratings": ("rmse", "mae"),
    "time": ("recall@20", "recall@50", "ndcg@100"),
    "leave-one-out": ("recall@10", "ndcg@10", "mrr@10"),  # of one target recall is the hit rate
}  # where ratings are to be found, systems that predict them are measured as under ratings, the others as under strong
# Options of fit() that have no flag of their own on the command line.
FIT_OPTIONS = ("metric", "precision", "validate_every", "schedule")
REFIT = "refit"  # folder, in a run's own, of what was trained anew on everything


def split_options(protocol: str) -> dict[str, Option]:
    """Return the options of a protocol by the names that ``--set`` knows: its seed is ``split_seed``.

    Raises:
        ConfigError: the protocol is unknown (the message lists the known ones).
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {protocol!r}. Known: {', '.join(PROTOCOLS)}")
    cut = PROTOCOLS[protocol]
    return {"split_seed" if key == "seed" else key: option for key, option in declared(cut, cut.__name__).items()}


def cuts_of(protocols: Iterable[str], settings: dict[str, Any]) -> dict[str, Callable[[RatingLog], Split]]:
    """Return by protocol how it cuts a log; each takes those of ``settings`` that it has.

    Raises:
        ConfigError: a protocol is unknown, a key is none of theirs, or a value is of the wrong type or out of range.
    """
    options = {protocol: split_options(protocol) for protocol in protocols}
    known = sorted(set().union(*options.values()))
    for key in settings:
        if key not in known:
            raise ConfigError(f"no option {key!r} of the {' or '.join(options)} split. Known: {', '.join(known)}")
    cuts = {}
    for protocol, of_split in options.items():
        cut, chosen = PROTOCOLS[protocol], {}
        for key in settings.keys() & of_split.keys():
            of_split[key].check(cut.__name__, key, settings[key])
            chosen["seed" if key == "split_seed" else key] = settings[key]
        cuts[protocol] = partial(cut, **chosen)
    return cuts


def assign_settings(settings: dict[str, Any], slug: str, protocol: str) -> tuple[dict, dict, dict]:
    """Deal settings to the split, the model and the training; ``split_seed`` is the split's own seed.

    Raises:
        ConfigError: the model, the protocol or a key is unknown (the message lists the known ones), or a value
            is of the wrong type or out of range.
    """
    if slug not in SYSTEMS:
        raise ConfigError(f"unknown model {slug!r}. Known: {', '.join(SYSTEMS)}")
    of_split, cut = split_options(protocol), PROTOCOLS[protocol].__name__
    of_fit = {name: option for name, option in declared(fit, "fit").items() if name in FIT_OPTIONS}
    of_model = {name: option for name, option in SYSTEMS[slug].options.items() if name != "n_users"}  # the data's
    takers = {cut: of_split, slug: of_model, "fit": of_fit}
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


def as_json_ready(estimates: dict[str, Estimate]) -> dict[str, dict]:
    """Return the estimates as JSON has them; an interval that there is not, which is nan, as null."""
    return {
        name: {"mean": e.mean, "ci": None if math.isnan(e.ci) else e.ci, "n_users": e.n_users}
        for name, e in estimates.items()
    }


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
    patience: int | None = None,
    extend: bool = False,
    refit: bool = False,
    shard_items: bool = False,
    compile: bool = False,
) -> tuple[dict[str, Any], dict[str, Estimate]]:
    """Split, train, evaluate on the test part; return the JSON-ready result and the estimates.

    ``settings`` go to whichever of split, model or training has an option of that name. With ``out`` the run is
    kept there: checkpoint, best model with the items' ids, result. ``patience``, ``extend``, ``shard_items`` and
    ``compile`` are those of :func:`fit`. With ``refit`` the system is trained once more, on everything that the split
    kept, for the number of epochs that was best, and kept in the folder ``refit`` of the run's own; the result's
    metrics are of the run before.

    Raises:
        ConfigError: an option, system or protocol is unknown or does not fit; or ``refit`` without ``out``, or with
            ``extend``.
    """
    if refit and (out is None or extend):
        why = (
            "has no folder to be kept in: give out (--out)" if out is None else "cannot repeat a run that was extended"
        )
        raise ConfigError(f"refit {why}")
    of_split, of_model, of_fit = assign_settings(settings or {}, slug, protocol)
    split = PROTOCOLS[protocol](log, **of_split)
    model = build(slug, split.n_items, **of_model)
    if split.train.values is None:
        usual = METRICS[protocol]
    else:
        usual = METRICS["ratings" if model.rates else "strong"]
    metrics = metrics or usual
    check_metrics(model, split.test, metrics)  # not only after the training
    training = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "device": device, "progress": progress}
    training |= {"shard_items": shard_items, "compile": compile}
    run = fit(model, split, out=out, patience=patience, extend=extend, **training, **of_fit)
    validation = run.best.get(run.metric)
    if not run.history and split.valid is not None:  # a system without epochs
        validation = evaluate(model, split.valid, (run.metric,), batch_size)[run.metric].mean
    estimates = evaluate(model, split.test, metrics, batch_size)
    result = {
        "model": slug,
        "dataset": log.name,
        "protocol": protocol,
        "metrics": as_json_ready(estimates),
        "validation": None if validation is None else {run.metric: validation},
        "validation_curve": [[row["epoch"], round(row[run.metric], 5)] for row in run.history if run.metric in row],
        "users_without_targets": split.test.n_without_targets,
        "seconds_per_epoch": run.seconds_per_epoch if run.history else None,
        "seconds_to_start": None if math.isnan(run.seconds_to_start) else run.seconds_to_start,
        "epochs": len(run.history),
        "best_epoch": run.best_epoch,
        "stopped": run.stopped,
        "seed": seed,
        "device": run.device,
        "peak_memory_mb": round(peak_memory_mb(run.device), 1),
        "data_sha256": log.sha256,
        "batch_size": batch_size,
        "settings": settings or {},
    }
    writes = out is not None and distributed.place().rank == 0
    if writes:
        write_json(out / "result.json", result)
    if refit:
        result["refit"] = _refit(log, split, slug, of_model, out, run.best_epoch, training | of_fit)
    if refit and writes:
        write_json(out / "result.json", result)
    elif writes and (out / REFIT).exists():
        done = read_manifest(out / REFIT).get("sittings", [{}])[-1].get("to_epoch")
        if done != run.best_epoch:
            warnings.warn(f"{out / REFIT} is of epoch {done}, and {run.best_epoch} is the best now: add --refit")
    return result, estimates


def _refit(
    log: RatingLog, split: data.Split, slug: str, of_model: dict, out: Path, best_epoch: int, training: dict
) -> dict[str, Any]:
    """Train a system on all that ``split`` kept for ``best_epoch`` epochs, keep it in ``out``'s own folder for that."""
    everything = data.refit_split(log, split)
    # The folder has its name only while it is whole: nobody is served by a system that is half trained.
    part, writes = out / f"{REFIT}.part", distributed.place().rank == 0
    if writes and (out / REFIT).exists():
        (out / REFIT).rename(part)
    run = fit(build(slug, everything.n_items, **of_model), everything, out=part, stop_after=best_epoch, **training)
    if writes:
        part.rename(out / REFIT)
    return {
        "folder": REFIT,
        "epochs": len(run.history),
        "users": everything.train.n_users,
        "items": everything.n_items,
        "interactions": everything.train.nnz,
        "metrics": "those of the run before: nothing is left to test this one on",
    }
