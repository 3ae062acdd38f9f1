"""What an epoch of every system costs, beside its own limit (``vaecf bench --all``).

Each system is trained in a process of its own, on one thread, on synthetic data of a real data set's shape. Its limit
is the time that the matrix products of the same epoch would take at the best rate that this machine reaches in such
products; what an epoch takes beyond it are passes over memory, the optimiser and Python.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ..checkpoints import write_json
from ..data import Interactions, Split
from ..environment import machine
from ..errors import ConfigError
from ..models import Model
from ..systems import SYSTEMS, build
from ..training import Trainer, peak_memory_mb
from .bench import in_own_process, synthetic


class Shape(NamedTuple):
    """Users, items and mean interactions per user of a data set, and how many of its users an epoch is timed on."""

    users: int
    items: int
    positives: int
    timed: int


SHAPES = {
    "ml-1m": Shape(6034, 3533, 95, 2000),
    "ml-20m": Shape(116_677, 20_108, 73, 1000),  # the training users of Liang et al. 2018
}
EPOCHS, ENOUGH = 3, 8.0  # epochs timed, after one to warm up; CPU-seconds after which no further one is begun
LIMIT = 600.0  # seconds that a system may take, all together
LARGEST = 8e9  # bytes of weights, gradients and Adam's moments
PRODUCTS = ("mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_", "mv", "addmv", "addmv_", "mkldnn_convolution",
            "convolution_backward")  # fmt: skip


def _product(a, b) -> int:
    """Return the FLOPs of the product of matrices, or batches of them, of these shapes; b may be a vector."""
    return 2 * math.prod(a) * (b[-1] if len(b) > 1 else 1)


def count_flops(work) -> int:
    """Call ``work`` and return the FLOPs of all matrix products and convolutions in it, backward passes included."""
    aten = torch.ops.aten
    mapping = {aten.mv: lambda a, b, **_: _product(a, b)}
    # torch counts the products of which these are the variants in place, and those without a vector.
    for operator in (aten.addmm_, aten.baddbmm_, aten.addmv, aten.addmv_):
        mapping[operator] = lambda _, a, b, **__: _product(a, b)
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        work()
    return counter.get_total_flops()


def product_rate(seconds: float = 1.0) -> float:
    """Return the best rate of this machine, FLOPs per CPU-second, in products of the sizes that training has.

    They are those of a batch of 500 and a hidden layer of 600 with 512 items: for the logits, the hidden layer's
    gradient and the weights'.
    """
    h, w, g = torch.randn(500, 600), torch.randn(512, 600), torch.randn(500, 512)
    products = ((h, w.T, torch.empty(500, 512)), (g, w, torch.empty(500, 600)), (g.T, h, torch.empty(512, 600)))
    best, started = math.inf, time.process_time()
    while time.process_time() - started < seconds:
        for a, b, out in products:
            before = time.process_time()
            torch.mm(a, b, out=out)
            best = min(best, time.process_time() - before)
    return 2 * 500 * 600 * 512 / best


def shares(work) -> tuple[float, dict[str, float]]:
    """Call ``work``; return the share of its operators' time that is matrix products, and the largest others'."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    times = {e.key.removeprefix("aten::"): e.self_cpu_time_total for e in profiled.key_averages()}
    total = sum(times.values()) or math.inf
    products = sum(times.pop(name, 0.0) for name in PRODUCTS)
    largest = sorted(times, key=times.get, reverse=True)[:5]
    return round(products / total, 3), {name: round(times[name] / total, 3) for name in largest}


def _data(shape: Shape, ratings: bool) -> Split:
    train = synthetic(shape.timed, shape.items, shape.positives)
    if ratings:
        user, item = train.pairs()
        values = np.random.default_rng(1).integers(1, 6, len(item))
        train = Interactions.from_pairs(user, item, values, shape=train.shape)
    return Split("all", train, None, None, np.arange(shape.items))


def measure(slug: str, shape: Shape) -> dict[str, Any]:
    """Train a system for a few epochs in this process and return what they cost.

    Raises:
        ConfigError: its weights would take more than LARGEST bytes.

    Returns:
        ``seconds`` CPU-seconds of the best epoch (of ``prepare``, if it has no epochs) · ``users_per_second`` ·
        ``seconds_full`` of an epoch of all users of the shape, computed from it · ``memory_mb`` peak of the process
        beyond its peak before training · ``gflop`` of the epoch's products · ``gflops`` this machine's rate ·
        ``share_of_limit`` · ``products`` share of the time of torch's operators that goes to products · ``others`` the
        largest shares of other operators · ``epochs`` that were timed.
    """
    torch.set_num_threads(1)
    trains = SYSTEMS[slug].model.phases is not Model.phases
    with torch.device("meta" if trains else "cpu"):  # without the memory for its weights
        plan = build(slug, shape.items)
    weights = sum(parameter.numel() for parameter in plan.parameters())
    if 16 * weights > LARGEST:
        raise ConfigError(
            f"its {weights / 1e6:,.0f} million weights take {16 * weights / 1e9:.0f} GB with gradients and Adam's "
            f"moments, more than the {LARGEST / 1e9:.0f} GB allowed here"
        )
    split = _data(shape, plan.rates)
    torch.manual_seed(0)
    memory = peak_memory_mb("cpu")
    model = build(slug, shape.items)
    started = time.process_time()
    trainer = Trainer(model, split, device="cpu")
    seconds = [time.process_time() - started]
    row: dict[str, Any] = {"interactions_per_user": round(split.train.nnz / shape.timed, 1)}
    if trainer.phases:
        began = time.process_time()
        trainer.run_epoch()  # the first allocates the optimisers' state
        seconds = []
        while not seconds or (len(seconds) < EPOCHS and time.process_time() - began < ENOUGH):
            started = time.process_time()
            trainer.run_epoch()
            seconds.append(time.process_time() - started)
    best = min(seconds)
    row |= {"memory_mb": round(peak_memory_mb("cpu") - memory), "seconds": round(best, 4)}
    row |= {
        "users_per_second": round(shape.timed / best, 1),
        "seconds_full": round(best * shape.users / shape.timed, 2),
    }
    if trainer.phases:
        rate, flops = product_rate(), count_flops(trainer.run_epoch)
        row |= {"gflop": round(flops / 1e9, 3), "gflops": round(rate / 1e9, 1), "epochs": len(seconds)}
        row["share_of_limit"] = round(flops / rate / best, 3)
        row["products"], row["others"] = shares(trainer.run_epoch)
    return row


def row_of(slug: str, shape: Shape) -> dict[str, Any]:
    """Return what :func:`measure` does in a process of its own, and the machine's load; or ``{"not_run": why}``."""
    load = {"load": round(os.getloadavg()[0], 1)} if hasattr(os, "getloadavg") else {}
    try:
        return in_own_process(f"costs.measure({slug!r}, costs.Shape{tuple(shape)})", seconds=LIMIT) | load
    except ConfigError as error:
        return {"not_run": str(error)}


def run(
    shapes: list[str], systems: list[str] | None = None, out: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Measure systems at shapes, one after the other; keep each row in ``out`` as it is done, and skip those it has.

    Raises:
        ConfigError: a shape or a system is unknown, or ``out`` was measured on another machine or shape.
    """
    systems = systems or list(SYSTEMS)
    for what, names, known in (("shape", shapes, SHAPES), ("system", systems, SYSTEMS)):
        for name in names:
            if name not in known:
                raise ConfigError(f"bench: unknown {what} {name!r}. Known: {', '.join(known)}")
    torch.set_num_threads(1)
    report: dict[str, Any] = {"machine": machine("cpu"), "batch_size": 500, "shapes": {}}
    if out is not None and out.exists():
        kept = json.loads(out.read_text(encoding="utf-8"))
        if kept.get("machine") != report["machine"]:
            raise ConfigError(f"bench: {out} was measured on {kept.get('machine')}, this is {report['machine']}: "
                              "give another file")  # fmt: skip
        report = kept
    for name in shapes:
        shape = SHAPES[name]
        table = report["shapes"].setdefault(name, shape._asdict() | {"systems": {}})
        if any(table[key] != value for key, value in shape._asdict().items()):
            raise ConfigError(f"bench: {out} holds another shape {name}: give another file")
        for slug in systems:
            if slug in table["systems"]:
                continue
            table["systems"][slug] = row_of(slug, shape)
            if out is not None:
                write_json(out, report)
            if progress:
                print(f"{name} {slug}: {table['systems'][slug]}", file=sys.stderr, flush=True)
    return report
