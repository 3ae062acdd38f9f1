"""Seconds of one system's epoch here, at an earlier commit and in other programs, turn by turn.

``python benchmarks/paired.py recvae --shape ml-20m --before ../checkout --peer benchmarks/dense_recvae.py``: each
contender in a process of its own, one thread, on the same synthetic data; one epoch to warm up, then the best of some,
in CPU-seconds, for the machine may be shared. They take turns, so that other load meets all alike, and ratios are
taken within a turn. ``--before`` is a checkout of an earlier commit (``git worktree add``); a peer is a file with
``train_epochs(train, n_epochs)``, which yields after each epoch, and runs with torch's default allocator.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import vaecf_lib as vc
from vaecf_lib.checkpoints import write_json
from vaecf_lib.data import Interactions, Split
from vaecf_lib.environment import machine
from vaecf_lib.lab.bench import synthetic
from vaecf_lib.training import peak_memory_mb

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {"ml-1m": (2000, 3533, 95), "ml-20m": (1000, 20_108, 73)}  # users timed, items, interactions per user


def library_epochs(system: str, options: dict, train: Interactions):
    """Yield after each epoch of the library that was imported, this one or an earlier."""
    model = vc.build(system, train.n_items, **options)
    if model.rates:
        values = np.random.default_rng(1).integers(1, 6, train.nnz)
        train = Interactions.from_pairs(*train.pairs(), values, shape=train.shape)
    trainer = vc.Trainer(model, Split("all", train, None, None, np.arange(train.n_items)), device="cpu")
    while True:
        yield trainer.run_epoch()["loss"]


def peer_epochs(path: str, train: Interactions, n_epochs: int):
    """Return the epochs of another program."""
    sys.path.insert(0, str(Path(path).parent))
    spec = importlib.util.spec_from_file_location("peer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.train_epochs(train, n_epochs)


def measure(system: str, options: dict, shape: str, n_epochs: int, peer: str | None) -> dict:
    """Time the epochs of one contender in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train = synthetic(*SHAPES[shape])
    before, seconds = peak_memory_mb("cpu"), []
    epochs = peer_epochs(peer, train, n_epochs + 1) if peer else library_epochs(system, options, train)
    for _ in range(n_epochs + 1):
        started = time.process_time()
        loss = next(epochs)
        seconds.append(time.process_time() - started)
    rate = train.n_users / min(seconds[1:])
    return {"users_per_second": rate, "memory_mb": peak_memory_mb("cpu") - before, "loss": loss, "code": vc.__file__}


def in_own_process(checkout: Path, *arguments) -> dict:
    """Return what :func:`measure` does with the library of ``checkout``."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    env.pop("THP_MEM_ALLOC_ENABLE", None)
    if arguments[-1]:  # a peer's own program would run with torch's default
        env["THP_MEM_ALLOC_ENABLE"] = "0"
    command = [sys.executable, __file__, "--one", json.dumps(arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{arguments}: {done.stderr.strip().splitlines()[-1]}")
    result = json.loads(done.stdout.splitlines()[-1])
    if not Path(result.pop("code")).is_relative_to(checkout):
        sys.exit(f"the library of {checkout} was not the one that ran")
    return result


def summary(runs: dict[str, list[dict]]) -> dict:
    """Return medians over the turns, and ours over each other contender's users per second, turn by turn."""
    report = {"turns": len(runs["ours"]), "machine": machine("cpu"), "load": round(os.getloadavg()[0], 1)}
    for key in ("users_per_second", "memory_mb"):
        report[key] = {name: round(statistics.median(r[key] for r in results), 1) for name, results in runs.items()}
    for name in list(runs)[1:]:
        turns = zip(runs["ours"], runs[name], strict=True)
        ratios = [mine["users_per_second"] / other["users_per_second"] for mine, other in turns]
        spread = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        report[f"ratio_to_{name}"] = {key: round(value, 2) for key, value in spread.items()}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", nargs="?")
    parser.add_argument("--options", default="{}", help="of the system, as JSON")
    parser.add_argument("--shape", choices=SHAPES, default="ml-20m")
    parser.add_argument("--before", type=Path, help="checkout of an earlier commit")
    parser.add_argument("--peer", action="append", default=[], help="FILE.py, or NAME=FILE.py")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2, help="timed in each turn, after one to warm up")
    parser.add_argument("--out", type=Path, help="JSON to which the result is added")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*json.loads(given.one))))
        return
    contenders = {"ours": (ROOT, None)}
    if given.before:
        contenders["before"] = (given.before.resolve(), None)
    for peer in given.peer:
        name, _, path = peer.rpartition("=")
        contenders[name or Path(path).stem] = (ROOT, str(Path(path).resolve()))
    runs: dict[str, list[dict]] = {name: [] for name in contenders}
    options = json.loads(given.options)
    for _ in range(given.pairs):
        for name, (checkout, peer) in contenders.items():
            runs[name].append(in_own_process(checkout, given.system, options, given.shape, given.epochs, peer))
        report = summary(runs) | {"system": given.system, "options": options, "shape": given.shape}
        print(json.dumps(report), flush=True)
        if given.out:
            kept = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else []
            others = [row for row in kept if any(row[key] != report[key] for key in ("system", "options", "shape"))]
            write_json(given.out, [*others, report])


if __name__ == "__main__":
    main()
