"""The one training loop: phases, validation, selection of the best epoch, checkpoints, resume."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from .checkpoints import load_tensors, save_model, save_tensors, write_json
from .data import RowSweep, Split, Sweep
from .environment import in_kernel
from .errors import ConfigError, DataError, TrainingError
from .evaluation import check_metrics, evaluate, parse_metric
from .models.base import Model, Phase
from .options import checked, plain


@dataclass
class Run:
    """What :func:`fit` did. ``history``: one dict an epoch (loss, its terms, the validation metric, seconds)."""

    model: Model
    metric: str
    history: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    device: str = "cpu"

    @property
    def seconds_per_epoch(self) -> float:
        """Median seconds of an epoch's updates, validation not counted; nan without epochs."""
        seconds = sorted(row["seconds"] for row in self.history)
        return seconds[len(seconds) // 2] if seconds else math.nan

    @property
    def best(self) -> dict:
        """The history's row of the epoch whose weights were kept; empty without epochs."""
        return self.history[self.best_epoch - 1] if self.history else {}

    def curve(self, name: str) -> list[float]:
        """Return one column of the history, epoch by epoch."""
        return [row[name] for row in self.history]


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device: "auto" takes cuda, then mps, then cpu.

    Raises:
        ConfigError: the device asked for is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.zeros(1, device=device).item()  # "meta" gives tensors without content
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"device={device!s} cannot be used here ({reason}). Use 'auto' or 'cpu'") from error
    return device


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
            self._print(f"going on after epoch {done} of {epochs}")
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

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _optimiser(phase: Phase, device: torch.device) -> torch.optim.Optimizer:
    if phase.optimiser == "rmsprop":
        return torch.optim.RMSprop(phase.parameters, lr=phase.lr)
    return torch.optim.Adam(phase.parameters, lr=phase.lr, fused=device.type in ("cpu", "cuda"))


class _Trainer:
    """State of a training: model, optimisers, random generators, epoch and update counts."""

    def __init__(
        self, model: Model, split: Split, epochs: int, batch_size: int, precision: str, schedule: str,
        device: torch.device,
    ):  # fmt: skip
        self.model, self.split, self.epochs, self.batch_size = model, split, epochs, batch_size
        self.schedule = schedule
        self.device, self.precision = device, precision
        self.phases = model.phases()
        self.optimisers = [_optimiser(phase, device) for phase in self.phases]
        self.epoch, self.step = 0, 0
        steps = sum(self._sweep(phase).count(batch_size) * phase.passes for phase in self.phases)
        self.total_steps = max(1, epochs * steps)
        self.unchecked: list[tuple[int, int, str, Tensor]] = []

    def _sweep(self, phase: Phase) -> Sweep:
        return phase.sweep or RowSweep(self.split.train)

    def _schedule(self) -> Iterator[tuple[int, int, Any]]:
        """Yield (phase number, batch number, batch) for one epoch; neighbours with per="batch" interleave.

        Those that interleave run over what the first of them runs over.
        """
        number = 0
        while number < len(self.phases):
            phase = self.phases[number]
            if phase.per == "epoch":
                for _ in range(phase.passes):
                    batches = self._sweep(phase).shuffled(self.batch_size)
                    yield from ((number, b, batch) for b, batch in enumerate(batches))
                group = [number]
            else:
                group = [number]
                while group[-1] + 1 < len(self.phases) and self.phases[group[-1] + 1].per == "batch":
                    group.append(group[-1] + 1)
                for b, batch in enumerate(self._sweep(phase).shuffled(self.batch_size)):
                    yield from ((n, b, batch) for n in group for _ in range(self.phases[n].passes))
            for n in group:
                if self.phases[n].after is not None:
                    self.phases[n].after()
            number = group[-1] + 1

    def run_epoch(self) -> dict[str, float]:
        """Make one epoch's updates; return the mean loss and terms over its batches, weighted by users."""
        self.model.train()
        sums: dict[str, Tensor | float] = {}
        weights: dict[str, int] = {}
        for number, batch_number, batch in self._schedule():
            loss, terms = self._update(self.phases[number], self.optimisers[number], batch, batch_number)
            prefix = f"{self.phases[number].name}/" if len(self.phases) > 1 else ""
            for name, value in {"loss": loss, **terms}.items():
                value = value.detach() if isinstance(value, Tensor) else value
                sums[prefix + name] = sums.get(prefix + name, 0.0) + value * len(batch)
                weights[prefix + name] = weights.get(prefix + name, 0) + len(batch)
        self._check_finite()
        self._check_weights()
        self.epoch += 1
        means = {name: float(value) / weights[name] for name, value in sums.items()}
        return {"loss": sum(v for n, v in means.items() if n.split("/")[-1] == "loss"), **means}

    def _update(self, phase: Phase, optimiser, batch: Any, batch_number: int) -> tuple[Tensor, dict]:
        mixed = torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        progress = self.step / self.total_steps
        if self.schedule == "cosine":
            for group in optimiser.param_groups:
                group["lr"] = phase.lr * 0.5 * (1 + math.cos(math.pi * progress))
        with mixed:
            loss, terms = phase.loss(batch, progress)
        self.unchecked.append((self.step, batch_number, phase.name, loss.detach()))
        if self.device.type == "cpu" or len(self.unchecked) >= 50:  # on a GPU each look would wait for the device
            self._check_finite()
        # Phases may share weights (an adversary's gradients pass through the generator): clear only our own.
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        self.step += 1
        return loss, terms

    def _check_finite(self) -> None:
        losses, self.unchecked = self.unchecked, []
        if losses and not bool(torch.stack([loss for *_, loss in losses]).isfinite().all()):
            step, batch, phase, loss = next(entry for entry in losses if not bool(entry[3].isfinite()))
            raise TrainingError(
                f"the loss is {float(loss)} at update {step} (epoch {self.epoch + 1}, phase {phase}, batch {batch}). "
                "Lower lr or a loss weight; with precision='bf16' try 'fp32'; check the data for extreme values"
            )

    def _check_weights(self) -> None:
        """Refuse weights that the epoch's last update spoilt, whose loss nobody will see."""
        for name, weight in self.model.named_parameters():
            if not bool(weight.isfinite().all()):
                raise TrainingError(
                    f"the weights {name} are not finite after epoch {self.epoch + 1}. Lower lr or a loss weight; "
                    "with precision='bf16' try 'fp32'; check the data for extreme values"
                )

    def state(self) -> dict[str, Tensor]:
        """Return everything that decides how training goes on, as named tensors."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for i, optimiser in enumerate(self.optimisers):
            for j, state in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{i}.{j}.{key}": torch.as_tensor(value) for key, value in state.items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over a state of :meth:`state`."""
        groups: dict[str, dict] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            groups.setdefault(kind, {})[rest] = tensor
        self.model.load_state_dict(groups["model"])
        for i, optimiser in enumerate(self.optimisers):
            states: dict[int, dict] = {}
            for name, tensor in groups.get("optimiser", {}).items():
                phase, parameter, key = name.split(".")
                if int(phase) == i:
                    states.setdefault(int(parameter), {})[key] = tensor
            optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
        torch.set_rng_state(groups["rng"]["cpu"])
        if "cuda" in groups["rng"]:
            torch.cuda.set_rng_state(groups["rng"]["cuda"], self.device)


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
) -> Run:
    """Train ``model`` on ``split.train``; leave it with the weights of the best epoch on ``split.valid``.

    The same arguments give the same weights: the weights are drawn anew from ``seed`` first (unless
    ``warm_start``), and torch's global generator is left as it was found.

    Args:
        model: any ``Model``; it is trained in place.
        split: from one of the split functions. Without a validation part the last epoch is kept.
        epochs: passes over the training users; 0 only prepares the model.
        batch_size: users per update.
        seed: of the weights, the order of users and all noise.
        device: "auto" (cuda, mps, cpu) or a torch device; the model stays there.
        out: folder for the run. A checkpoint is written after each epoch; if the folder holds one of the same
            settings, training goes on from there and ends with the weights of an unbroken run. A run with other
            settings is left untouched, and so is one that another process is writing.
        metric: validation metric to select by: ndcg@100, or rmse (lower is better) for a model that predicts ratings.
        precision: "fp32", or "bf16" for automatic mixed precision.
        progress: a bar in a terminal, plain lines elsewhere; outside of notebooks what the split kept, before it.
        warm_start: keep the model's present weights as the start.
        validate_every: epochs between validations.
        schedule: of the step sizes: "constant", or "cosine", which falls to zero over the training.

    Raises:
        ConfigError: options out of range or that do not fit, or ``out`` holds a run with other settings or is being
            written.
        DataError: a file of the run in ``out`` is damaged, or belongs to another run.
        TrainingError: the loss became nan or infinite; the last checkpoint is whole.
    """
    if split.n_items != model.n_items:
        raise ConfigError(
            f"the model has {model.n_items} items, the split {split.n_items}: build it with n_items=split.n_items"
        )
    if metric is None:
        metric = "rmse" if model.rates else "ndcg@100"
    lower_is_better = not parse_metric(metric).ranks
    if split.valid is not None:
        check_metrics(model, split.valid, (metric,))
    device = pick_device(device)
    out = None if out is None else Path(out)
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
    with _locked(out), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if not warm_start:
            model.reset_parameters()
        model.describe(split)
        model.to(device)
        split = split.to(device)
        model.prepare(split.train)
        if not warm_start:
            model.start(split.train)
        trainer = _Trainer(model, split, epochs if model.phases() else 0, batch_size, precision, schedule, device)
        run = Run(model, metric, device=str(device))
        if out is not None:
            _resume(trainer, run, out, settings)
        if progress and split.kept is not None and not in_kernel():
            print(split.kept, file=sys.stderr)
        bar = _Progress(trainer.epochs, trainer.epoch, progress)
        best_state = None
        while trainer.epoch < trainer.epochs:
            started = time.perf_counter()
            row = trainer.run_epoch()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            row |= {"epoch": trainer.epoch, "seconds": time.perf_counter() - started}
            last = trainer.epoch == trainer.epochs
            if split.valid is not None and (trainer.epoch % validate_every == 0 or last):
                row[metric] = evaluate(model, split.valid, (metric,), batch_size)[metric].mean
            run.history.append(row)
            if _is_best(run.history, metric, lower_is_better):
                run.best_epoch = trainer.epoch
                best_state = None if out is not None else _copy(model)
                if out is not None:
                    save_model(model, out / BEST, run=_key(settings), epoch=trainer.epoch)
            if out is not None:
                _save(trainer, run, out, settings)
            bar.update(trainer.epoch, row, metric)
        bar.close()
        if out is not None and trainer.epochs == 0 and not (out / CHECKPOINT).exists():
            save_model(model, out / BEST, run=_key(settings), epoch=trainer.epoch)
            _save(trainer, run, out, settings)
        if out is not None:
            best_state = _load_best(out, settings, run.best_epoch)
            write_json(out / "history.json", run.history)
        if best_state is not None:
            model.load_state_dict(best_state)
    model.eval()
    return run


def _copy(model: Model) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _is_best(history: list[dict], metric: str, lower_is_better: bool) -> bool:
    """Tell whether the last epoch is the best so far; without validation the last always is."""
    if metric not in history[-1]:
        return not any(metric in row for row in history)
    seen = [row[metric] for row in history if metric in row]
    return seen[-1] == (min(seen) if lower_is_better else max(seen)) and seen.index(seen[-1]) == len(seen) - 1


BEST, CHECKPOINT = "best.safetensors", "checkpoint.safetensors"


@contextmanager
def _locked(out: Path | None) -> Iterator[None]:
    """Keep other processes out of the run's folder; the lock dies with this process, however that ends.

    Raises:
        ConfigError: another process has it.
    """
    if out is None:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"{out} is being written by another process: wait for it, or give another folder") from error
    try:
        for name in (BEST, CHECKPOINT):  # what a process killed while it wrote has left
            for stale in out.glob(f".{name}.*.tmp"):
                stale.unlink()
        yield
    finally:
        lock.release()


def _key(settings: dict) -> str:
    """Return what tells the files of one run from those of another."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=plain).encode()).hexdigest()


def _load_best(out: Path, settings: dict, epoch: int | None = None) -> dict[str, Tensor]:
    """Return the weights of the run's best epoch; of no other than ``epoch``, if it is given."""
    tensors, note = load_tensors(out / BEST)
    if note.get("run") != _key(settings) or epoch not in (None, note.get("epoch")):
        raise DataError(
            f"{out / BEST} is of another run than {CHECKPOINT} beside it, or of another "
            "epoch than its best: put it back, or train anew"
        )
    return tensors


def _save(trainer: _Trainer, run: Run, out: Path, settings: dict) -> None:
    """Write all that a later call needs to go on."""
    note = {"settings": settings, "epoch": trainer.epoch, "step": trainer.step}
    save_tensors(out / CHECKPOINT, trainer.state(), note | {"history": run.history, "best_epoch": run.best_epoch})


def _resume(trainer: _Trainer, run: Run, out: Path, settings: dict) -> None:
    """Take over the checkpoint in ``out``, if there is one of the same settings."""
    path = out / CHECKPOINT
    if not path.exists():
        if (out / BEST).exists() and load_tensors(out / BEST)[1].get("run") != _key(settings):
            raise ConfigError(f"{out} holds {BEST} of another run, without its {CHECKPOINT}: give another folder")
        return
    tensors, note = load_tensors(path)
    if "settings" not in note:
        raise DataError(f"{path}: a model, not the checkpoint of a training: put that back, or give another folder")
    if note["settings"] != settings:
        old, new = note["settings"], settings
        if any(old.get(key) != new[key] for key in ("train_sha256", "valid_sha256", "items_sha256")):
            raise ConfigError(f"{out} holds a run on other data, or on another split of them: give another folder")
        changed = [f"{key}: {old.get(key)!r} there, {new[key]!r} now" for key in new if old.get(key) != new[key]]
        raise ConfigError(
            f"{out} holds a run with other settings ({'; '.join(changed)}): give the same ones to go on with it, "
            "or another folder to train anew"
        )
    _load_best(out, settings)
    trainer.load_state(tensors)
    trainer.epoch, trainer.step = note["epoch"], note["step"]
    run.history, run.best_epoch = note["history"], note["best_epoch"]
