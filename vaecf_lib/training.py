"""The one training loop: phases, validation, selection of the best epoch, checkpoints, resume, extension."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from . import distributed, environment, sharding
from .checkpoints import BEST, load_tensors, locked, save_model, save_tensors, write_json
from .data import RowSweep, Split, Sweep
from .environment import describe, in_kernel, keep_freed_memory, pick_device
from .errors import ConfigError, DataError, TrainingError, shown
from .evaluation import check_metrics, evaluate, parse_metric
from .manifest import MANIFEST, close_sitting, open_sitting, read_manifest
from .models.base import LossFn, Model, Phase
from .options import checked, plain
from .runs import PEOPLE, Run, save_people


def peak_memory_mb(device: str | torch.device) -> float:
    """Return the peak memory in MB: of the tensors on a GPU, else of the whole process (nan where unknown)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


class _Progress:
    """A tqdm bar in a terminal, about ten plain lines in a notebook or a log, nothing if not wanted."""

    def __init__(self, epochs: int, done: int, wanted: bool):
        self.epochs, self.wanted, self.bar = epochs, wanted, None
        if wanted and done:
            self._print(
                f"going on after epoch {done} of {epochs}" if done < epochs else f"epoch {done} of {epochs} is done"
            )
        if wanted and sys.stderr.isatty() and not in_kernel():
            from tqdm import tqdm

            self.bar = tqdm(total=epochs, initial=done, unit="epoch")

    def update(self, epoch: int, row: dict, metric: str) -> None:
        text = f"loss {row['loss']:.1f}" + (f"  {metric} {row[metric]:.3f}" if metric in row else "")
        if self.bar is not None:
            self.bar.n = epoch
            self.bar.set_postfix_str(text)
        elif self.wanted and (epoch % max(1, self.epochs // 10) == 0 or epoch in (1, self.epochs)):
            self._print(f"epoch {epoch:3d}/{self.epochs}  {text}")

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stdout if in_kernel() else sys.stderr)

    def close(self, epoch: int, stopped: str | None) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.wanted and stopped is not None:
            self._print(f"stopped after epoch {epoch}: {stopped}")


def _optimiser(phase: Phase, device: torch.device) -> torch.optim.Optimizer:
    if phase.optimiser == "rmsprop":
        return torch.optim.RMSprop(phase.parameters, lr=phase.lr)
    return torch.optim.Adam(phase.parameters, lr=phase.lr, fused=device.type in ("cpu", "cuda"))


def _compiled(loss: LossFn) -> LossFn:
    """Return the loss compiled by torch at its first call, with the same noise.

    Raises:
        ConfigError: by the loss, when it is called: it cannot be compiled here.
    """
    compiled = torch.compile(loss, options={"fallback_random": True})

    def call(batch: Any, progress: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        try:
            return compiled(batch, progress)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"compile=True cannot be used here ({reason}): leave it out") from error

    return call


def _check_split(model: Model, split: Split) -> None:
    """Refuse what is no split, or not one that ``model`` was built for.

    Raises:
        ConfigError: as said.
    """
    if not isinstance(split, Split):
        raise ConfigError(f"split={shown(split)}: must be a split: cut the log, for instance with split_strong(log)")
    if split.n_items != model.n_items:
        raise ConfigError(
            f"the model has {model.n_items} items, the split {split.n_items}: build it with n_items=split.n_items"
        )


class Trainer:
    """A training in progress: a model, its optimisers, and how many epochs and updates are done.

    :func:`fit` is a loop over :meth:`run_epoch`, with validation, the best epoch kept, and checkpoints. For a loop of
    your own::

        torch.manual_seed(0)
        trainer = vc.Trainer(model, split, epochs=20)
        for phase, batch in trainer.updates():  # one epoch
            terms = trainer.step(batch, phase)

    The model is made ready as by ``fit``: its weights are drawn anew from torch's global generator, from which the
    order of users and all noise come too, so that the same seed gives the weights of ``fit``.

    Args:
        model: any ``Model``; it is trained in place, on ``device``.
        split: as for :func:`fit`; only ``split.train`` is looked at.
        epochs: length of the training that schedules and annealed weights run over; ``progress``, the share of all
            updates done, is 1 afterwards.
        batch_size, precision, schedule, device, warm_start, shard_items, compile: as for :func:`fit`.

    Attributes:
        phases: the model's; ``step`` counts them from 0.
        epoch, steps: epochs and updates done; ``updates_per_epoch``: of all phases together, in an epoch that has all.

    Raises:
        ConfigError: options out of range or that do not fit, or the device is not there.
    """

    @checked
    def __init__(
        self,
        model: Model,
        split: Split,
        epochs: int = 50,
        batch_size: int = 500,
        precision: Literal["fp32", "bf16"] = "fp32",
        schedule: Literal["constant", "cosine"] = "constant",
        device: str | torch.device = "auto",
        warm_start: bool = False,
        shard_items: bool = False,
        compile: bool = False,
    ):
        _check_split(model, split)
        sharding.check_unsplit(model)
        self.device = pick_device(device)
        keep_freed_memory()
        if not warm_start:
            model.reset_parameters()
        model.describe(split)
        if shard_items:
            sharding.split_items(model, self.device)
        model.to(self.device)
        self.model, self.split = model, split.to(self.device)
        model.prepare(self.split.train)
        if not warm_start:
            model.start(self.split.train)
        self.epochs, self.batch_size, self.precision, self.schedule = epochs, batch_size, precision, schedule
        self.phases = model.phases()
        self.losses = [_compiled(phase.loss) if compile else phase.loss for phase in self.phases]
        self.optimisers = [_optimiser(phase, self.device) for phase in self.phases]
        self._updates = self._updates_by_phase()
        self.updates_per_epoch = sum(self._updates)
        self.epoch, self.steps = 0, 0
        self._batch_number = 0
        self._unchecked: list[tuple[int, int, str, Tensor]] = []
        distributed.check_phases(model.slug, self.phases)
        if distributed.place().count > 1:
            self.follow_first()

    def _sweep(self, number: int) -> Sweep:
        return self.phases[number].sweep or RowSweep(self.split.train, share=distributed.place())

    def _span(self, phase: Phase) -> tuple[int, int]:
        """Return the number of epochs that are done when the phase begins, and when it ends."""
        first, last = (math.ceil(round(share * max(1, self.epochs), 6)) for share in phase.span)
        return first, last

    def _groups(self, numbers: Iterable[int]) -> list[list[int]]:
        """Return the phases' numbers in order, neighbours with per="batch", which interleave, in one group."""
        groups: list[list[int]] = []
        for number in numbers:
            if groups and self.phases[number].per == self.phases[groups[-1][-1]].per == "batch":
                groups[-1].append(number)
            else:
                groups.append([number])
        return groups

    def _updates_by_phase(self) -> list[int]:
        """Return how many updates each phase makes in an epoch of its span."""
        groups = self._groups(range(len(self.phases)))
        return [self._sweep(group[0]).count(self.batch_size) * self.phases[n].passes for group in groups for n in group]

    def stage(self) -> tuple[int, int]:
        """Return how many epochs were done when the stage of the last epoch began, and how many when it ends.

        A stage are epochs with the same phases; see :class:`~vaecf_lib.models.Phase`. The last has no end: it is that
        of the epochs that a run is given beyond its first number, too.
        """
        at = min(self.epoch, self.epochs)
        borders = {0} | {border for phase in self.phases for border in self._span(phase)}
        later = [border for border in borders if at <= border < self.epochs]
        return max(border for border in borders if border < max(1, at)), min(later, default=sys.maxsize)

    def hands_on_best(self) -> bool:
        """Tell whether a stage has just ended whose best weights, not its last, are those that the next starts from."""
        return self.stage()[1] == self.epoch and any(
            phase.hands_on_best and self._span(phase)[1] == self.epoch for phase in self.phases
        )

    @property
    def progress(self) -> float:
        """The share of all updates that is done, 0 to 1."""
        spans = [self._span(phase) for phase in self.phases]
        total = sum(n * (last - first) for n, (first, last) in zip(self._updates, spans, strict=True))
        return min(1.0, self.steps / max(1, total))

    def updates(self) -> Iterator[tuple[int, Any]]:
        """Yield (phase number, batch) for each update of one epoch, in the order in which :meth:`step` is to make them.

        Phases with per="batch" that are neighbours interleave, and run over what the first of them runs over. The
        epoch is done once all are drawn.

        Raises:
            TrainingError: a loss or the weights are not finite.
        """
        self.model.train()
        self.model.before_epoch(self.epoch + 1, self.split.train)
        at = min(self.epoch, max(1, self.epochs) - 1)  # what is beyond belongs to the last stage
        active = [n for n, phase in enumerate(self.phases) if self._span(phase)[0] <= at < self._span(phase)[1]]
        for group in self._groups(active):
            first = self.phases[group[0]]
            alone = first.per == "epoch"
            for _ in range(first.passes if alone else 1):
                for at, batch in enumerate(self._sweep(group[0]).shuffled(self.batch_size)):
                    self._batch_number = at
                    for number in group:
                        for _ in range(1 if alone else self.phases[number].passes):
                            yield number, batch
            for number in group:
                if self.phases[number].after is not None:
                    self.phases[number].after()
        self._check_finite()
        self._check_weights()
        self.epoch += 1

    def run_epoch(self) -> dict[str, float]:
        """Make one epoch's updates; return the mean loss and terms over its batches, weighted by users.

        Raises:
            TrainingError: a loss or the weights are not finite.
        """
        sums: dict[str, Tensor | float] = {}
        weights: dict[str, int] = {}
        for number, batch in self.updates():
            prefix = f"{self.phases[number].name}/" if len(self.phases) > 1 else ""
            for name, value in self.step(batch, number).items():
                sums[prefix + name] = sums.get(prefix + name, 0.0) + value * len(batch)
                weights[prefix + name] = weights.get(prefix + name, 0) + len(batch)
        sums, weights = distributed.sums(sums, self.device), distributed.sums(weights, self.device)
        means = {name: float(value) / float(weights[name]) for name, value in sums.items()}
        return {"loss": sum(v for n, v in means.items() if n.split("/")[-1] == "loss"), **means}

    def step(self, batch: Any, phase: int = 0) -> dict[str, Tensor | float]:
        """Make one update of one phase on a batch; return its loss and terms, as the phase gives them.

        Args:
            batch: from :meth:`updates`, or any that the phase's loss reads: of users, ``split.train.rows(…)``.
            phase: which of ``phases``, counted from 0. How the phases of a model take turns, and what is called
                ``after`` each, :meth:`updates` knows.

        Among several processes the batch is this one's part of the update, and so are loss and terms.

        Raises:
            TrainingError: the loss is not finite (on a GPU it is looked at every 50 updates).
        """
        optimiser, loss_of, phase = self.optimisers[phase], self.losses[phase], self.phases[phase]
        if not self.model.training:  # somebody evaluated it between two updates
            self.model.train()
        mixed = torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        progress = self.progress
        if self.schedule == "cosine":
            for group in optimiser.param_groups:
                group["lr"] = phase.lr * 0.5 * (1 + math.cos(math.pi * progress))
        users = len(batch)
        if users == 0 and distributed.place().count > 1:  # anybody's loss, of weight zero, has gradients to be added
            batch = self.split.train.rows(torch.zeros(1, dtype=torch.int64))
        with mixed, distributed.own_noise(self.steps, self.device):
            loss, terms = loss_of(batch, progress)
        part, whole = distributed.part_of_loss(loss, users)
        self._unchecked.append((self.steps, self._batch_number, phase.name, whole))
        if len(self._unchecked) >= 50 or not environment.waits_for(self.device):
            self._check_finite()
        # Phases may share weights (an adversary's gradients pass through the generator): clear only our own.
        optimiser.zero_grad(set_to_none=True)
        part.backward()
        distributed.add_gradients(p for group in optimiser.param_groups for p in group["params"])
        optimiser.step()
        written = [weight for group in optimiser.param_groups for weight in group["params"]]
        torch.autograd.graph.increment_version(written)  # fused optimisers do not count their writes
        self.steps += 1
        terms = {"loss": loss, **terms}
        return {name: value.detach() if isinstance(value, Tensor) else value for name, value in terms.items()}

    def _check_finite(self) -> None:
        losses, self._unchecked = self._unchecked, []
        if losses and not bool(torch.stack([loss for *_, loss in losses]).isfinite().all()):
            step, batch, phase, loss = next(entry for entry in losses if not bool(entry[3].isfinite()))
            raise TrainingError(
                f"the loss is {float(loss)} at update {step} (epoch {self.epoch + 1}, phase {phase}, batch {batch}). "
                "Lower lr or a loss weight; with precision='bf16' try 'fp32'; check the data for extreme values"
            )

    def _check_weights(self) -> None:
        """Refuse weights that the epoch's last update spoilt, whose loss nobody will see."""
        weights = dict(self.model.named_parameters())
        if not weights:
            return
        bounds = [torch.stack(weight.detach().aminmax()) for weight in weights.values()]  # one pass, nan comes through
        for name, finite in zip(weights, torch.stack(bounds).isfinite().all(1).tolist(), strict=True):
            if not finite:
                raise TrainingError(
                    f"the weights {name} are not finite after epoch {self.epoch + 1}. Lower lr or a loss weight; "
                    "with precision='bf16' try 'fp32'; check the data for extreme values"
                )

    def state(self) -> dict[str, Tensor]:
        """Return everything that decides how training goes on, as named tensors: weights, optimisers, generators.

        Where the output layer is split over processes all must call it, and the first has the whole.
        """
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {"done.epochs": torch.tensor(self.epoch), "done.updates": torch.tensor(self.steps)}
        in_parts = self._in_parts()
        for i, optimiser in enumerate(self.optimisers):
            for j, state in optimiser.state_dict()["state"].items():
                for key, value in state.items():
                    name, value = f"optimiser.{i}.{j}.{key}", torch.as_tensor(value)
                    split = value.ndim > 0 and name.startswith(in_parts)
                    tensors[name] = distributed.whole(value, self.model.n_items) if split else value
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        return tensors

    def _in_parts(self) -> tuple[str, ...]:
        """Return how the names in :meth:`state` begin of which each process has rows of its own."""
        names = [f"model.{name}" for name in sharding.split_names(self.model)]
        for i, optimiser in enumerate(self.optimisers):
            parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
            split = [j for j, parameter in enumerate(parameters) if isinstance(parameter, distributed.OwnRows)]
            names += [f"optimiser.{i}.{j}." for j in split]
        return tuple(names)

    def follow_first(self, state: dict[str, Tensor] | None = None) -> None:
        """Take over a state, or the present one; if there are several processes, that of the first."""
        state = self.state() if state is None else state
        self.load_state(distributed.tensors_of_first(state, self.device, self._in_parts()))

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over a state of :meth:`state`, of the same model and split; of what is in parts, this process's rows."""
        groups: dict[str, dict] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            groups.setdefault(kind, {})[rest] = tensor
        self.model.load_state_dict(groups["model"])
        self.epoch, self.steps = int(groups["done"]["epochs"]), int(groups["done"]["updates"])
        for i, optimiser in enumerate(self.optimisers):
            states: dict[int, dict] = {}
            for name, tensor in groups.get("optimiser", {}).items():
                phase, parameter, key = name.split(".")
                if int(phase) == i:
                    states.setdefault(int(parameter), {})[key] = tensor
            optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
        torch.set_rng_state(groups["rng"]["cpu"].cpu())
        if "cuda" in groups["rng"]:
            torch.cuda.set_rng_state(groups["rng"]["cuda"].cpu(), self.device)


@checked
def fit(
    model: Model,
    split: Split,
    epochs: int = 50,
    batch_size: int = 500,
    seed: int = 0,
    device: str | torch.device = "auto",
    out: str | Path | None = None,
    metric: str | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    progress: bool = True,
    warm_start: bool = False,
    validate_every: int = 1,
    schedule: Literal["constant", "cosine"] = "constant",
    patience: int | None = None,
    on_epoch: Callable[[Run], bool | None] | None = None,
    stop_after: int | None = None,
    extend: bool = False,
    shard_items: bool = False,
    compile: bool = False,
) -> Run:
    """Train ``model`` on ``split.train``; leave it with the weights of the best epoch on ``split.valid``.

    The same arguments give the same weights: the weights are drawn anew from ``seed`` first (unless
    ``warm_start``), and torch's global generator is left as it was found.

    A training may stop early (``patience``, ``on_epoch``, ``stop_after``); none of these changes what an epoch does. A
    run that stopped, called again with the same folder and without what stopped it, goes on as if it never had.

    Several processes (``torchrun``, or a process group of your own) share the users of each batch, unless ``fit`` is
    called inside of :func:`~vaecf_lib.distributed.alone`; all of them must call it alike.

    Args:
        model: any ``Model``; it is trained in place.
        split: from one of the split functions. Without a validation part the last epoch is kept.
        epochs: passes over the training users; 0 only prepares the model.
        batch_size: users per update, of all processes together.
        seed: of the weights, the order of users and all noise.
        device: "auto" (cuda, mps, cpu) or a torch device; the model stays there.
        out: folder for the run. A checkpoint is written after each epoch; if the folder holds one of the same
            settings, training goes on from there and ends with the weights of an unbroken run. More ``epochs`` than
            the run had are given to it if that, too, ends with the weights of an unbroken run: not under
            schedule="cosine", nor if a weight of the loss is annealed (see ``extend``). A run with other settings is
            left untouched, and so is one that another process is writing. ``manifest.json`` says what was trained
            when, where and by which command. The folder also holds the users' ids and histories, to serve them: keep
            it as you keep the data.
        metric: validation metric to select by, the smallest value of rmse, mae and gini@K, else the largest: ndcg@100,
            or rmse for a model that predicts ratings.
        precision: "fp32", or "bf16" for automatic mixed precision.
        progress: a bar in a terminal, plain lines elsewhere; outside of notebooks what the split kept, before it.
        warm_start: keep the model's present weights as the start.
        validate_every: epochs between validations.
        schedule: of the step sizes: "constant", or "cosine", which falls to zero over the training.
        patience: stop after so many validations in a row without a new best. Not under schedule="cosine", whose last
            epochs are meant to be the best; nothing without a validation part.
        on_epoch: called after every epoch, validated and kept, with the run so far; if it returns true, training stops.
            What it draws from torch's generators does not change the training. Of several processes the first calls it.
        stop_after: make only the first so many of the epochs: a training whose best epoch is known is repeated so.
        extend: go on with a run of fewer epochs even if an unbroken run would be another: what is annealed is held at
            its last value. The manifest says so.
        shard_items: split the items of the output layer over the processes, if there are several, where one device
            cannot hold it. The run's folder is that of one process.
        compile: let torch.compile fuse each phase's loss, which takes a minute at the first updates, needs a C++
            compiler, and changes results by rounding alone.

    Raises:
        ConfigError: options out of range or that do not fit, or ``out`` holds a run with other settings, or with a
            number of epochs that cannot be changed, or is being written; or several processes cannot share the model.
        DataError: a file of the run in ``out`` is damaged, or belongs to another run.
        TrainingError: the loss became nan or infinite, or another process is gone; the last checkpoint is whole.
    """
    _check_split(model, split)
    if on_epoch is not None and not callable(on_epoch):
        raise ConfigError(f"fit: on_epoch={shown(on_epoch)}: must be a function of the run so far, or None")
    if patience is not None and schedule == "cosine":
        raise ConfigError(
            f"patience={patience} does not fit schedule='cosine', whose last epochs are meant to be the best: give none"
        )
    if metric is None:
        metric = "rmse" if model.rates else "ndcg@100"
    lower_is_better = parse_metric(metric).lower_is_better
    if split.valid is not None:
        check_metrics(model, split.valid, (metric,))
    settings = {
        "model": model.slug,
        "config": model.config,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "metric": metric,
        "precision": precision,
        "validate_every": validate_every,
        "schedule": schedule,
        "warm_start": warm_start,
        "train_sha256": split.train.sha256,
        "valid_sha256": split.valid and [split.valid.history.sha256, split.valid.targets.sha256],
        "items_sha256": None if split.items is None else split.items.sha256,
    }
    folder = None if out is None else Path(out)
    lock = distributed.entered_by_first(locked(folder, (BEST, CHECKPOINT, MANIFEST, PEOPLE)))
    with distributed.shared(device) as device, lock, _own_generators(device):
        distributed.check_same(settings | {"shard_items": shard_items})
        out = folder if distributed.place().rank == 0 else None  # one process writes
        torch.manual_seed(seed)
        resumed = folder is not None and distributed.by_first(lambda: (folder / CHECKPOINT).exists())
        progress = progress and distributed.place().rank == 0
        if progress and not (resumed or warm_start) and (demands := model.demands(split.train, device)) is not None:
            print(demands, file=sys.stdout if in_kernel() else sys.stderr)
        started = time.perf_counter()
        trainer = Trainer(  # what the checkpoint holds is neither drawn nor solved again
            model, split, epochs, batch_size, precision, schedule, device, warm_start or resumed, shard_items, compile
        )
        split = trainer.split
        run = Run(model, metric, device=str(device), people=split.people, source=split.source)
        run.seconds_to_start = math.nan if resumed else time.perf_counter() - started
        epochs = epochs if trainer.phases else 0
        goal = epochs if stop_after is None else min(epochs, stop_after)
        extended, new = None, folder is not None and not resumed
        if folder is not None:
            asked, state = settings, trainer.state()
            settings, extended, run.history, run.best_epoch = distributed.by_first(
                lambda: _resume(trainer, out, asked, goal, extend, state)
            )
            trainer.epochs = settings["epochs"]
            trainer.follow_first(state)
            del state  # which may be as large as the model
        run.settings = settings
        if out is not None:
            save_people(run, out)
        run.stopped = _out_of_patience(run, trainer, patience) if trainer.epoch < goal else None
        sitting = out is not None and (new or (trainer.epoch < goal and run.stopped is None))
        if sitting:
            limits = {"epochs": epochs, "stop_after": stop_after, "patience": patience, "extended": extended}
            limits |= describe(device) | {"processes": distributed.place().count}
            about = {"run": _key(settings), **settings, "split": split.source}
            open_sitting(out, about, trainer.epoch, limits)
        if progress and split.kept is not None and not in_kernel():
            print(split.kept, file=sys.stderr)
        bar = _Progress(goal, trainer.epoch, progress)
        best_state = None
        while trainer.epoch < goal and run.stopped is None:
            started = time.perf_counter()
            row = trainer.run_epoch()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            row |= {"epoch": trainer.epoch, "seconds": time.perf_counter() - started}
            last = trainer.epoch == epochs
            if split.valid is not None and (trainer.epoch % validate_every == 0 or last):
                row[metric] = evaluate(model, split.valid, (metric,), batch_size)[metric].mean
            run.history.append(row)
            if _is_best(run.history[trainer.stage()[0] :], metric, lower_is_better):
                run.best_epoch = trainer.epoch
                best_state = None if folder is not None else _copy(model)
                if folder is not None:
                    _save_best(run, out, settings)
            if trainer.hands_on_best():
                _load_weights(model, best_state if out is None else _load_best(out, settings, run.best_epoch), device)
            if folder is not None:
                _save(trainer, run, out, settings)
            bar.update(trainer.epoch, row, metric)
            stop = False
            if on_epoch is not None:
                stop = distributed.by_first(lambda: _ask(on_epoch, run, device))
            if trainer.epoch < goal:
                run.stopped = "on_epoch asked for it" if stop else _out_of_patience(run, trainer, patience)
        if run.stopped is None and trainer.epoch < epochs:
            run.stopped = f"stop_after={stop_after} of {epochs} epochs"
        bar.close(trainer.epoch, run.stopped)
        if new and trainer.epoch == 0:
            _save_best(run, out, settings)
            _save(trainer, run, out, settings)
        if out is not None:
            best_state = _load_best(out, settings, run.best_epoch)
            write_json(out / "history.json", run.history)
            if sitting:
                close_sitting(out, trainer.epoch, run.stopped)
            run.manifest = read_manifest(out) or None
        if folder is not None or shard_items or best_state:
            _load_weights(model, best_state, device)
    model.eval()
    return run


def _load_weights(model: Model, state: dict[str, Tensor] | None, device: torch.device) -> None:
    """Take up the weights that the first process has, if there are any; of an output layer in parts, each its own."""
    state = distributed.tensors_of_first(state or {}, device, sharding.split_names(model))
    if state:
        model.load_state_dict(state)


def _own_generators(device: torch.device) -> AbstractContextManager:
    """Leave torch's generators as they were found."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _ask(on_epoch: Callable[[Run], bool | None], run: Run, device: torch.device) -> bool:
    """Return whether the callback wants the training to stop; it runs in one process, and draws what it likes."""
    with distributed.alone(), _own_generators(device):
        return bool(on_epoch(run))


def _out_of_patience(run: Run, trainer: Trainer, patience: int | None) -> str | None:
    """Return why to stop, if ``patience`` or more validations have brought no new best since the best epoch.

    Before the last stage of a training there is no reason.
    """
    since = sum(run.metric in row for row in run.history[run.best_epoch :])
    if patience is None or since < patience or trainer.stage()[1] < trainer.epochs:
        return None
    return f"no better {run.metric} in {since} validation{'s' if since > 1 else ''} since epoch {run.best_epoch}"


def _copy(model: Model) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _is_best(history: list[dict], metric: str, lower_is_better: bool) -> bool:
    """Tell whether the last epoch is the best so far; without validation the last always is."""
    if metric not in history[-1]:
        return not any(metric in row for row in history)
    seen = [row[metric] for row in history if metric in row]
    return seen[-1] == (min(seen) if lower_is_better else max(seen)) and seen.index(seen[-1]) == len(seen) - 1


CHECKPOINT = "checkpoint.safetensors"


def _key(settings: dict) -> str:
    """Return what tells the files of one run from those of another."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=plain).encode()).hexdigest()


def _save_best(run: Run, out: Path | None, settings: dict) -> None:
    """Write the model as it is, and what :func:`~vaecf_lib.load_run` says of it; without ``out``, only give a part."""
    note = {"trained_with": settings, "source": run.source, "epoch": run.best_epoch}
    weights = run.model.state_dict()
    if out is not None:
        save_model(run.model, out / BEST, weights, run=_key(settings), **note)


def _load_best(out: Path, settings: dict, epoch: int | None = None) -> dict[str, Tensor]:
    """Return the weights of the run's best epoch; of no other than ``epoch``, if it is given."""
    tensors, note = load_tensors(out / BEST)
    if note.get("run") != _key(settings) or epoch not in (None, note.get("epoch")):
        raise DataError(
            f"{out / BEST} is of another run than {CHECKPOINT} beside it, or of another "
            "epoch than its best: put it back, or train anew"
        )
    return tensors


def _save(trainer: Trainer, run: Run, out: Path | None, settings: dict) -> None:
    """Write all that a later call needs to go on; without ``out``, only give a part of it."""
    note = {"settings": settings, "epoch": trainer.epoch, "history": run.history, "best_epoch": run.best_epoch}
    state = trainer.state()
    if out is not None:
        save_tensors(out / CHECKPOINT, state, note)


def _resume(
    trainer: Trainer, out: Path, settings: dict, goal: int, extend: bool, state: dict[str, Tensor]
) -> tuple[dict, str | None, list[dict], int]:
    """Put the checkpoint in ``out`` into ``state``, if there is one of the same settings, to go on to ``goal`` epochs.

    ``state`` is that of the trainer until then.

    Returns:
        The settings that the run was begun with, whose ``epochs`` the schedule runs over; if these are other than
        asked for now, in words from how many epochs the run is extended; the history and the best epoch so far.
    """
    path = out / CHECKPOINT
    if not path.exists():
        if (out / BEST).exists() and load_tensors(out / BEST)[1].get("run") != _key(settings):
            raise ConfigError(f"{out} holds {BEST} of another run, without its {CHECKPOINT}: give another folder")
        return settings, None, [], 0
    tensors, note = load_tensors(path)
    if "settings" not in note:
        raise DataError(f"{path}: a model, not the checkpoint of a training: put that back, or give another folder")
    older = DataError(f"{path}: written by an older version, which alone can go on with it: give another folder")
    if "done.epochs" not in tensors:
        raise older
    old, new = note["settings"], settings
    if any(old.get(key) != new[key] for key in ("train_sha256", "valid_sha256", "items_sha256")):
        raise ConfigError(f"{out} holds a run on other data, or on another split of them: give another folder")
    changed = [
        f"{key}: {old.get(key)!r} there, {new[key]!r} now"
        for key in new
        if key != "epochs" and old.get(key) != new[key]
    ]
    if changed:
        raise ConfigError(
            f"{out} holds a run with other settings ({'; '.join(changed)}): give the same ones to go on with it, "
            "or another folder to train anew"
        )
    if not {name for name in state if name.startswith("model.")} <= tensors.keys():
        raise older
    extended = None
    if trainer.phases:
        if note["epoch"] > goal:
            raise ConfigError(
                f"{out} holds a run that is past epoch {goal}, at epoch {note['epoch']}: ask for that many or more, or "
                "give another folder to train anew"
            )
        extended = _extension(trainer, note, new["epochs"], extend, out)
    _load_best(out, old)
    state |= tensors
    return old, extended, note["history"], note["best_epoch"]


def _extension(trainer: Trainer, note: dict, epochs: int, extend: bool, out: Path) -> str | None:
    """Return in words what a run becomes that is given another number of epochs; None if it has that number.

    Raises:
        ConfigError: that would not be the run that so many epochs in one go are, and ``extend`` does not ask for it,
            or it cannot be done at all.
    """
    old = note["settings"]
    planned, metric, every = old["epochs"], old["metric"], old["validate_every"]
    if planned == epochs:
        return None
    validated = [row["epoch"] for row in note["history"] if metric in row]
    out_of_turn = [epoch for epoch in validated if epoch % every and epoch < epochs]
    if old["schedule"] == "cosine":
        reason = "its step sizes fall along a cosine that ends with its last epoch"
    elif trainer.model.anneals:
        reason = f"{trainer.model.slug} anneals a weight of its loss over all epochs"
    elif any(phase.span != (0, 1) for phase in trainer.phases):
        reason = f"{trainer.model.slug} is trained in stages that are shares of all epochs"
    elif out_of_turn:
        reason = f"epoch {out_of_turn[0]} was validated out of turn, for it was the last"
    else:
        return f"begun with epochs={planned}"
    possible = epochs > planned and old["schedule"] != "cosine"
    if possible and extend:
        return f"begun with epochs={planned}, and not what epochs={epochs} in one go would be: {reason}"
    remedy = ", or extend=True (--extend) to go on all the same, with what is annealed held" if possible else ""
    raise ConfigError(
        f"{out} holds a run with other settings (epochs: {planned} there, {epochs} now), and another number of epochs "
        f"is another run: {reason}. Give another folder to train anew{remedy}"
    )
