"""Speed, memory and growth of Mult-VAE's training on a synthetic matrix (``vaecf bench``).

Each measurement runs in a process of its own, so that its peak memory is its own; ours and a peer take turns, and
their ratio is taken pair by pair.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import Interactions
from ..environment import machine, pick_device
from ..errors import ConfigError
from ..models import MultVAE
from ..training import peak_memory_mb

PEERS = Path("benchmarks")
POSITIVES = 73  # mean interactions per user, as in ML-20M after Liang et al.'s preprocessing


def synthetic(n_users: int, n_items: int, positives: int = POSITIVES, seed: int = 0) -> Interactions:
    """Return a random matrix with log-normal activity and Zipf popularity, about ``positives`` items a user."""
    rng = np.random.default_rng(seed)
    counts = rng.lognormal(0.0, 0.8, n_users)
    counts = np.clip(counts * positives / counts.mean(), 5, n_items // 4).astype(np.int64)
    weight = 1 / np.arange(10, n_items + 10)
    cumulative = np.cumsum(weight / weight.sum())
    user = np.repeat(np.arange(n_users), (counts * 1.12).astype(np.int64))  # repeats fall away below
    item = rng.permutation(n_items)[np.searchsorted(cumulative, rng.random(len(user))).clip(max=n_items - 1)]
    key = np.unique(user * n_items + item)
    return Interactions.from_pairs(key // n_items, key % n_items, shape=(n_users, n_items))


def our_steps(train: Interactions, n_steps: int, batch_size: int = 500, device: str = "cpu", **options):
    """Yield the loss after each update of the library's Mult-VAE."""
    torch.manual_seed(0)
    train = train.to(device)
    model = MultVAE(train.n_items, **options).to(device)
    phase = model.phases()[0]
    optimiser = torch.optim.Adam(phase.parameters, lr=phase.lr, fused=True)
    model.train()
    done = 0
    while True:
        order = torch.randperm(train.n_users)[: train.n_users // batch_size * batch_size].to(device)
        for batch in train.batches(batch_size, order=order):
            if done == n_steps:
                return
            loss, _ = phase.loss(batch, done / n_steps)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            done += 1
            yield loss.detach()


def _peer_steps(name: str):
    path = PEERS / f"{name}.py"
    if not path.exists():
        raise ConfigError(f"no peer {name!r}: {path} not found. Run this in a checkout of the book")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.train_steps


def _measure(which: str, n_users: int, n_items: int, n_steps: int, device: str) -> dict:
    """Time the updates of one implementation in this process: median users per second after three to warm up."""
    train = synthetic(n_users, n_items)
    before = peak_memory_mb(device)
    steps = our_steps(train, n_steps, device=device) if which == "ours" else _peer_steps(which)(train, n_steps)
    seconds, started = [], time.perf_counter()
    for _ in steps:
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    return {
        "users_per_second": 500 / statistics.median(seconds[3:]),
        "peak_memory_mb": peak_memory_mb(device),
        "training_memory_mb": peak_memory_mb(device) - before,
        "interactions_per_user": train.nnz / n_users,
    }


def output_layer_floor(n_items: int, threads: int = 1, batch_size: int = 500, hidden: int = 600) -> float:
    """Return the users per second if the output layer's three matrix products were all there is."""
    torch.set_num_threads(threads)
    a, w, g = torch.randn(batch_size, hidden), torch.randn(n_items, hidden), torch.randn(batch_size, n_items)
    seconds = []
    for product in (lambda: a @ w.T, lambda: g @ w, lambda: g.T @ a):
        product()
        times = []
        for _ in range(5):
            started = time.perf_counter()
            product()
            times.append(time.perf_counter() - started)
        seconds.append(statistics.median(times))
    return batch_size / sum(seconds)


def in_own_process(call: str, threads: int = 1, seconds: float | None = None, **environment: str) -> Any:
    """Return what ``call``, an expression over this package's modules ``bench`` and ``costs``, gives in a new process.

    On Linux a process begins with the peak memory of the one that starts it: that should have no large arrays.

    Raises:
        ConfigError: it failed, for the reason that its last line gives; or took longer than ``seconds``.
    """
    code = f"import json; from vaecf_lib.lab import bench, costs; print(json.dumps({call}))"
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} | environment
    try:
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"it takes more than {seconds:.0f} seconds") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ConfigError(lines[-1].split("Error: ", 1)[-1] if lines else "the process was ended, as by lack of memory")
    return json.loads(done.stdout.splitlines()[-1])


def _measured(which: str, n_users: int, n_items: int, n_steps: int, threads: int, device: str) -> dict:
    environment = {} if which == "ours" else {"THP_MEM_ALLOC_ENABLE": "0"}  # a peer's own would run with the default
    call = f"bench._measure({which!r}, {n_users}, {n_items}, {n_steps}, {device!r})"
    try:
        return in_own_process(call, threads, **environment)
    except ConfigError as error:
        raise ConfigError(f"the benchmark of {which} failed: {error}") from error


def run(
    n_users: int, n_items: int, pairs: int, threads: int, against: list[str], growth: bool, n_steps: int = 13
) -> dict:
    """Measure ours and each peer ``pairs`` times in turn; return medians, ratios and the floor.

    Raises:
        ConfigError: fewer users than a batch has, too few items, or nothing to run.
    """
    share = 2 if growth else 1  # the growth runs go down to half the users and items
    wanted = (
        ("users", n_users, 500 * share),
        ("items", n_items, 20 * share),
        ("pairs", pairs, 1),
        ("threads", threads, 1),
    )
    for name, value, least in wanted:
        if value < least:
            raise ConfigError(f"bench: {name}={value}: must be a whole number of at least {least}")
    torch.set_num_threads(threads)
    device = pick_device("auto").type
    device = device if device == "cuda" else "cpu"
    runs: dict[str, list[dict]] = {name: [] for name in ("ours", *against)}
    floors = []
    for _ in range(pairs):
        floors.append(in_own_process(f"bench.output_layer_floor({n_items}, {threads})", threads))
        for name, results in runs.items():
            where = device if name == "ours" else "cpu"
            results.append(_measured(name, n_users, n_items, n_steps, threads, where))
    speed = {name: [r["users_per_second"] for r in results] for name, results in runs.items()}
    report = {
        "shape": [n_users, n_items],
        "interactions_per_user": round(runs["ours"][0]["interactions_per_user"], 1),
        "batch_size": 500,
        "machine": machine(device),
        "runs": pairs,
        "users_per_second": {name: round(statistics.median(values), 1) for name, values in speed.items()},
        "peak_memory_mb": {n: round(max(r["peak_memory_mb"] for r in rs)) for n, rs in runs.items()},
        "training_memory_mb": {n: round(max(r["training_memory_mb"] for r in rs)) for n, rs in runs.items()},
    }
    if device == "cpu":
        report["floor_users_per_second"] = round(statistics.median(floors), 1)
        report["share_of_floor"] = round(report["users_per_second"]["ours"] / report["floor_users_per_second"], 3)
    for name in against:
        ratios = [mine / peer for mine, peer in zip(speed["ours"], speed[name], strict=True)]
        report[f"ratio_to_{name}"] = {
            "median": round(statistics.median(ratios), 2),
            "min": round(min(ratios), 2),
            "max": round(max(ratios), 2),
        }
    if growth:
        report["growth"] = [
            {"users": u, "items": i} | _measured("ours", u, i, n_steps, threads, device)
            for u, i in (
                (n_users // 2, n_items),
                (2 * n_users, n_items),
                (n_users, n_items // 2),
                (n_users, 2 * n_items),
            )
        ]
    return report
