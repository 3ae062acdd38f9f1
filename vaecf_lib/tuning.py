"""Tuning: trials of a system's options, judged by the validation part alone, on Optuna (the extra ``tune``)."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import distributed
from .checkpoints import locked, write_json
from .data import RatingLog, Split
from .environment import pick_device
from .errors import ConfigError, DataError, TrainingError
from .evaluation import check_metrics, evaluate, parse_metric
from .experiment import PROTOCOLS, assign_settings
from .models.base import Model
from .options import Option, checked, plain
from .systems import SYSTEMS, build
from .training import Run, fit

RECORD = "tuning.json"


@dataclass(frozen=True)
class Trial:
    """One training with some options.

    ``state`` complete, pruned (most others were better by that epoch) or failed (``reason`` says why) ·
    ``value`` the best validation value, None if it failed · ``best_epoch`` its epoch, 0 without epochs · ``curve``
    [epoch, value] of each validation · ``seconds`` it took, without those before an interruption.
    """

    options: dict[str, Any]
    state: str
    value: float | None
    best_epoch: int
    curve: list[list]
    seconds: float
    reason: str | None = None


@dataclass(frozen=True)
class Tuning:
    """What :func:`tune` found: its ``trials`` in order, judged by the validation ``metric``."""

    model: str
    metric: str
    trials: list[Trial]

    @property
    def ranking(self) -> list[Trial]:
        """The complete trials, best first; of equal ones the earlier."""
        sign = 1 if parse_metric(self.metric).lower_is_better else -1
        return sorted((t for t in self.trials if t.state == "complete"), key=lambda trial: sign * trial.value)

    @property
    def best(self) -> Trial:
        """The best complete trial."""
        return self.ranking[0]

    def table(self, n: int = 5) -> str:
        """Return the ``n`` best complete trials as text, and how many there were of each kind."""
        lines = [f"{'trial':>5s} {self.metric:>12s} {'epoch':>5s} {'seconds':>7s}  options"]
        for trial in self.ranking[:n]:
            number = self.trials.index(trial) + 1
            lines.append(
                f"{number:5d} {trial.value:12.4f} {trial.best_epoch:5d} {trial.seconds:7.1f}  {_options(trial)}"
            )
        states = [trial.state for trial in self.trials]
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed"))
        return "\n".join([*lines, f"{len(states)} trials: {counts}"])


class _OutOfTimeError(Exception):
    """The budget ended within a trial."""


def _optuna():
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("tuning needs Optuna: pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # we report the trials
    return optuna


def _interval(name: str, text: str, option: Option) -> tuple[float, float]:
    """Read LOW:HIGH, of which the option must accept both ends."""
    if option.kind not in (int, float):
        raise ConfigError(f"vary {name}={text}: only numbers have an interval, {name} must be {option}")
    try:
        low, high = (option.kind(end) for end in text.split(":"))
    except ValueError as error:  # not two, or no numbers
        raise ConfigError(f"vary {name}={text}: write {name}=LOW:HIGH") from error
    for end in (low, high):
        option.check("vary", name, end)
    if low >= high:
        raise ConfigError(f"vary {name}={text}: write the smaller number first")
    return low, high


def search_space(slug: str, fixed: dict[str, Any], vary: Sequence[str] | None = None) -> dict[str, Any]:
    """Return Optuna's distribution of each varied option of a system.

    Without ``vary`` these are the options with an interval in options.SEARCH that holds their default (a term whose
    weight is 0 by default stays off) and that are not ``fixed``. Entries of ``vary`` are names, or NAME=LOW:HIGH; an
    interval of one's own is searched in the logarithm if it lies above 0 and none is declared as linear.

    Raises:
        ConfigError: Optuna is missing; an unknown option, one that is fixed or has no interval; or nothing to vary.
    """
    distributions = _optuna().distributions
    options = {name: option for name, option in SYSTEMS[slug].options.items() if name != "n_users"}  # the data's

    def number(option: Option, low: float, high: float, log: bool) -> Any:
        kind = distributions.IntDistribution if option.kind is int else distributions.FloatDistribution
        return kind(low, high, log=log)

    space = {}
    for entry in options if vary is None else vary:
        name, given, interval = entry.partition("=")
        option = options.get(name)
        if option is None:
            raise ConfigError(f"vary {name}: no option of {slug}. Known: {', '.join(options) or 'none'}")
        search = option.search
        if vary is None:
            if name in fixed or search is None or option.default is None:
                continue
            if not search.low <= option.default <= search.high:
                continue
        if name in fixed:
            raise ConfigError(f"{name} is both set and varied: choose one")
        if given:
            low, high = _interval(name, interval, option)
            space[name] = number(option, low, high, low > 0 and (search is None or search.log))
        elif search is not None:
            space[name] = number(option, search.low, search.high, search.log)
        elif option.choices or option.kind is bool:
            space[name] = distributions.CategoricalDistribution(option.choices or (False, True))
        elif option.kind in (int, float):
            raise ConfigError(f"vary {name}: no interval is declared for it, write {name}=LOW:HIGH")
        else:
            raise ConfigError(f"vary {name}: it can only be set, it must be {option}")
    if not space:
        raise ConfigError(
            f"{slug} has no option that is varied unasked: name some, numbers as NAME=LOW:HIGH. "
            f"Its options: {', '.join(options) or 'none'}"
        )
    return space


def _frozen(trial: Trial, space: dict[str, Any]) -> Any:
    """Return a trial as Optuna has it; a ValueError, TypeError or KeyError if it is none of this space."""
    optuna = _optuna()
    states = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[states[trial.state]],
        params=trial.options,
        distributions=space,
        value=trial.value,
        intermediate_values=dict(trial.curve),
    )


def _ask(trials: list[Trial], space: dict[str, Any], about: dict[str, Any]) -> Any:
    """Return Optuna's next trial; it depends on the arguments alone: a broken tuning goes on as an unbroken one.

    The first has the system's own values, where the space has them.
    """
    optuna = _optuna()
    own_seed = np.random.SeedSequence((about["seed"], len(trials))).generate_state(1)[0]
    study = optuna.create_study(
        direction="minimize" if parse_metric(about["metric"]).lower_is_better else "maximize",
        sampler=optuna.samplers.TPESampler(seed=int(own_seed)),
        # Small steps and annealed terms show their worth late: the first fifth of the epochs decides nothing.
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=about["epochs"] // 5),
    )
    for trial in trials:
        study.add_trial(_frozen(trial, space))
    if not trials:
        defaults = {name: option.default for name, option in SYSTEMS[about["model"]].options.items()}
        study.enqueue_trial({name: defaults[name] for name, domain in space.items() if _has(domain, defaults[name])})
    return study.ask(space)


def _has(domain: Any, value: Any) -> bool:
    """Tell whether a distribution has ``value``."""
    if hasattr(domain, "choices"):
        return value in domain.choices
    return value is not None and domain.low <= value <= domain.high


def _rounded(value: Any, domain: Any) -> Any:
    """Return a suggested number to three digits, which one can read and type."""
    return min(max(float(f"{value:.3g}"), domain.low), domain.high) if isinstance(value, float) else value


def _train(
    model: Model, split: Split, asked: Any, deadline: float, metric: str, folder: Path | None, settings: dict[str, Any]
) -> tuple[str, float, int, list[list]]:
    """Train one trial's model; return state, value, best epoch and curve. It goes on from its folder, if that is there.

    Raises:
        _OutOfTimeError: the deadline (of time.monotonic) passed before its last epoch.
    """
    lower, pruned, curve = parse_metric(metric).lower_is_better, _optuna().TrialPruned, []

    def watch(run: Run) -> None:
        seen = curve[-1][0] if curve else 0
        for row in run.history:  # more than one, if an earlier call made the first
            if row["epoch"] > seen and metric in row:
                curve.append([row["epoch"], row[metric]])
                asked.report(row[metric], row["epoch"])
                if row["epoch"] < settings["epochs"] and asked.should_prune():
                    raise pruned
        if 0 < len(run.history) < settings["epochs"] and time.monotonic() > deadline:
            raise _OutOfTimeError

    state = "complete"
    try:
        run = fit(model, split, metric=metric, out=folder, progress=False, on_epoch=watch, **settings)
        watch(run)  # all epochs were made by an earlier call, that ended before it could say so
    except pruned:
        state = "pruned"
    if not curve:  # a system without epochs
        return state, evaluate(model, split.valid, (metric,), settings["batch_size"])[metric].mean, 0, curve
    epoch, value = (min if lower else max)(curve, key=lambda point: point[1])
    return state, value, epoch, curve


@checked
@distributed.alone()
def tune(
    slug: str,
    log: RatingLog,
    protocol: str = "strong",
    *,
    trials: int = 20,
    budget: float | None = None,
    vary: Sequence[str] | None = None,
    epochs: int = 50,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 500,
    settings: dict[str, Any] | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> Tuning:
    """Look for the options of a system that do best on the validation part. The test part is not touched.

    The first trial has the system's own options, the next are drawn at random, those after the tenth by a
    tree-structured Parzen estimator (Bergstra et al. 2011). A trial whose best value is below the median of the
    earlier complete ones at the same epoch is pruned, after a fifth of the epochs and five trials. All trials have the
    same seed and number of epochs; :func:`~vaecf_lib.fit` with the best options and the same arguments gives the same
    value, to the last bit.

    Args:
        slug: a system, see ``vaecf models``.
        log: the data.
        protocol: how they are split: strong, ratings, time, leave-one-out, or weak with ``settings={"valid": 0.1}``.
        trials: how many.
        budget: seconds, of all calls with the same ``out`` together; the trial that they end in is not counted, and
            goes on if a later call gives more.
        vary: names of the options to vary, or NAME=LOW:HIGH. Default: the weights of losses, dropout and step sizes
            that the system has; one that is 0 or None by default stays so.
        epochs: of each trial.
        seed: of the trainings and of the search.
        device: "auto" (cuda, mps, cpu) or a torch device.
        batch_size: users per update.
        settings: fixed options of the split, the model or the training, as in ``--set``.
        out: folder for the record and the trial in work: called again with the same arguments, or with more trials or
            budget, the tuning goes on and ends as an unbroken one.
        progress: print a line a trial to stderr.

    Raises:
        ConfigError: an option is unknown or out of range, Optuna is missing, the split has no validation part, ``out``
            holds a tuning with other settings, the budget was too short for one trial, or all trials failed.
        DataError: the record in ``out`` is damaged.
    """
    of_split, fixed, of_fit = assign_settings(settings or {}, slug, protocol)
    split = PROTOCOLS[protocol](log, **of_split)
    if split.valid is None:
        raise ConfigError(f"tuning needs a validation part, and this {protocol} split has none: set valid=0.1")
    split = replace(split, test=split.valid, people=None)  # so that no trial can see the test part
    model = build(slug, split.n_items, **fixed)
    metric = of_fit.pop("metric", None) or ("rmse" if model.rates else "ndcg@100")
    check_metrics(model, split.valid, (metric,))
    device = pick_device(device)
    of_fit |= {"epochs": epochs, "batch_size": batch_size, "seed": seed, "device": device}
    space = search_space(slug, fixed, vary)
    about = {
        "model": slug,
        "protocol": protocol,
        "metric": metric,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "device": str(device),
        "settings": settings or {},
        "vary": {name: str(domain) for name, domain in space.items()},
        "data_sha256": log.sha256,
    }
    out = None if out is None else Path(out)
    if progress and split.kept is not None:
        print(split.kept, file=sys.stderr)
    with locked(out, (RECORD,)):
        done, spent = _open_record(out, about, space)
        start = time.monotonic() - spent
        deadline = math.inf if budget is None else start + budget
        while len(done) < trials and time.monotonic() < deadline:
            began = time.monotonic()
            asked = _ask(done, space, about)
            options = {name: _rounded(value, space[name]) for name, value in asked.params.items()}
            folder = None if out is None else out / f"trial-{len(done)}"
            try:
                tried = build(slug, split.n_items, **fixed, **options)
                outcome = _train(tried, split, asked, deadline, metric, folder, of_fit)
                trial = Trial(options, *outcome, seconds=time.monotonic() - began)
            except _OutOfTimeError:
                _write_record(out, about, done, time.monotonic() - start)
                break
            except (ConfigError, TrainingError, torch.cuda.OutOfMemoryError) as error:  # of these options
                seconds, reason = time.monotonic() - began, str(error).splitlines()[0]
                trial = Trial(options, "failed", None, 0, [], seconds, reason)
            done.append(trial)
            _write_record(out, about, done, time.monotonic() - start)
            if progress:
                print(_line(trial, len(done), trials, metric), file=sys.stderr)
    tuning = Tuning(slug, metric, done)
    if not tuning.ranking:
        if not done:
            raise ConfigError(f"the budget of {budget:g} s ended before the first trial: give more, or fewer epochs")
        raise ConfigError(f"all {len(done)} trials failed, the last: {done[-1].reason}")
    if progress and len(done) < trials:
        print(f"the budget ended after {len(done)} of {trials} trials", file=sys.stderr)
    return tuning


def _options(trial: Trial) -> str:
    return " ".join(f"{name}={value}" for name, value in trial.options.items())


def _line(trial: Trial, number: int, trials: int, metric: str) -> str:
    """Say how a trial ended."""
    if trial.state == "failed":
        ended = f"failed ({trial.reason})"
    else:
        pruned = f", pruned at {trial.curve[-1][0]}" if trial.state == "pruned" else ""
        ended = f"{metric} {trial.value:.4f} at epoch {trial.best_epoch}{pruned}"
    return f"trial {number} of {trials}: {ended}  {_options(trial)}"


def _write_record(out: Path | None, about: dict[str, Any], trials: list[Trial], seconds: float) -> None:
    """Write what is done so far, and remove what the last trial has left."""
    if out is not None:
        record = {"settings": about, "seconds": seconds, "trials": [asdict(trial) for trial in trials]}
        write_json(out / RECORD, record)
        shutil.rmtree(out / f"trial-{len(trials) - 1}", ignore_errors=True)


def _open_record(out: Path | None, about: dict[str, Any], space: dict[str, Any]) -> tuple[list[Trial], float]:
    """Return the trials that the folder's record holds and the seconds they took; begin it if there is none."""
    if out is None:
        return [], 0.0
    path = out / RECORD
    if not path.exists():
        if (out / "trial-0").exists():
            raise ConfigError(f"{out} holds trial-0 of another tuning, without its {RECORD}: give another folder")
        _write_record(out, about, [], 0.0)
    about = json.loads(json.dumps(about, default=plain))  # as the record has it
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        there, seconds = dict(record["settings"]), float(record["seconds"])
        trials = [Trial(**trial) for trial in record["trials"]]
        if there == about:
            for trial in trials:
                _frozen(trial, space)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: damaged, not a record of tuning. Give another folder") from error
    if there != about:
        changed = [
            f"{key}: {there.get(key)!r} there, {about[key]!r} now" for key in about if there.get(key) != about[key]
        ]
        raise ConfigError(
            f"{out} holds a tuning with other settings ({'; '.join(changed)}): give the same ones to go on with it, "
            "or another folder"
        )
    _write_record(out, about, trials, seconds)  # a process killed between two steps of this left the second undone
    return trials, seconds
