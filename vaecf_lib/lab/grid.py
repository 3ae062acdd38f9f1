"""What a grid of states is: systems trained at every combination of some values, for sliders to show."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..data import RatingLog, Split, split_strong
from ..models import Model
from ..systems import build
from ..training import Run, fit
from .study import Options

Noted = dict[str, float | Tensor]
State = dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """A model to take notes of, with its ``run`` and ``split``; ``row`` of the run's history is the epoch it is at."""

    model: Model
    run: Run
    split: Split
    row: dict[str, float]


@dataclass(frozen=True)
class Grid:
    """A library's system trained on the planted data at every combination of its sliders' values.

    ``sliders``: by option, the values it takes; where they have names, each stands for several options · ``note``: what
    is noted of a trained model, numbers and tensors (n,) · ``digits``: how many of them a state keeps of each note, in
    the order of a state; what is not noted is left out · ``options``, ``fit``, ``epochs``: of every training ·
    ``spread``: a note of which the deviation over seeds and the first seed's value are kept, too.
    """

    system: str
    sliders: dict[str, Sequence[Any] | Mapping[str, Options]]
    note: Callable[[Trained], Noted]
    digits: dict[str, int]
    options: Options
    epochs: int
    fit: Options = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    spread: str | None = None
    split: Callable[[RatingLog], Split] = split_strong

    @property
    def settings(self) -> Options:
        """The options of every training, for the record."""
        return self.options | self.fit | {"epochs": self.epochs}

    def options_at(self, *values: Any) -> Options:
        """Return the system's options at one value of each slider."""
        options = dict(self.options)
        for (name, stops), value in zip(self.sliders.items(), values, strict=True):
            options |= stops[value] if isinstance(stops, Mapping) else {name: value}
        return options

    def state(self, split: Split, *values: Any) -> State:
        """Train at one value of each slider, with every seed; return the means of what is noted."""
        noted = []
        for seed in self.seeds:
            model = build(self.system, split.n_items, **self.options_at(*values))
            run = fit(model, split, epochs=self.epochs, seed=seed, device="cpu", progress=False, **self.fit)
            noted.append(self.note(Trained(model, run, split, run.history[-1])))
        return self.summary(noted)

    def states(self, log: RatingLog) -> Iterator[tuple[tuple, State]]:
        """Yield each combination of values with its state."""
        split = self.split(log)
        for values in itertools.product(*self.sliders.values()):
            yield values, self.state(split, *values)

    def summary(self, noted: list[Noted]) -> State:
        """Return the means over seeds, rounded."""
        state: State = {}
        for name, digits in self.digits.items():
            values = [notes[name] for notes in noted if name in notes]
            if not values:
                continue
            if isinstance(values[0], Tensor):
                state[name] = [round(value, digits) for value in torch.stack(values).mean(0).tolist()]
                continue
            state[name] = round(statistics.mean(values), digits)
            if name == self.spread:
                deviation = round(statistics.stdev(values), digits) if len(values) > 1 else None
                state |= {f"{name}_sd": deviation, f"{name}_first_seed": round(values[0], digits)}
        return state


@dataclass(frozen=True)
class GridByEpoch(Grid):
    """A grid whose first slider is time: a state after each epoch of ``at``, by the first seed."""

    at: tuple[int, ...] = ()

    def states(self, log: RatingLog) -> Iterator[tuple[tuple, State]]:
        """Train at each combination of values, and yield it, an epoch first, with the state after that epoch."""
        split = self.split(log)
        for values in itertools.product(*self.sliders.values()):
            model = build(self.system, split.n_items, **self.options_at(*values))
            states: dict[int, State] = {}
            look = partial(self._look, states, split)
            fit(model, split, epochs=self.epochs, seed=self.seeds[0], device="cpu", progress=False, on_epoch=look,
                **self.fit)  # fmt: skip
            yield from (((epoch, *values), states[epoch]) for epoch in self.at)

    def _look(self, states: dict[int, State], split: Split, run: Run) -> None:
        """Add the state after the run's last epoch, if it is one of ``at``."""
        if len(run.history) in self.at:
            run.model.eval()  # the next epoch sets it to train
            states[len(run.history)] = self.summary([self.note(Trained(run.model, run, split, run.history[-1]))])


@dataclass(frozen=True)
class Toy:
    """States of something small that is no system of the library: ``state`` of each of one slider's ``stops``.

    ``system``: what it is, in words · ``settings``: for the record.
    """

    system: str
    stops: tuple[int, ...]
    state: Callable[[int], State]
    options: Options
    seeds: tuple[int, ...] = (0,)

    @property
    def settings(self) -> Options:
        """The options, for the record."""
        return self.options | {"epochs": 0}

    def states(self, log: RatingLog) -> Iterator[tuple[tuple, State]]:
        """Yield each stop with its state; the toys know the planted world, and need no log."""
        for stop in self.stops:
            yield (stop,), self.state(stop)
