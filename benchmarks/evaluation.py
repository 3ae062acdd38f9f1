"""Ranking metrics of given scores: the library's against the reference way of NumPy, one thread, CPU-seconds.

``python benchmarks/evaluation.py [--users N --items N --turns N --out FILE]``. The scores are made beforehand, so that
only histories struck out, lists and metrics are timed: NDCG@100, Recall@20 and Recall@50. The reference is written as
in the public notebook of Mult-VAE (Liang et al. 2018): ``argpartition`` for each metric (bottleneck's where it is
installed, else NumPy's) and dense Boolean arrays of hits. Both take batches of 500 users and take turns; their numbers
must agree to 1e-9.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

import vaecf_lib as vc
from vaecf_lib.checkpoints import write_json
from vaecf_lib.data import HeldOut, Interactions
from vaecf_lib.environment import machine
from vaecf_lib.lab.bench import synthetic

try:
    from bottleneck import argpartition
except ImportError:
    from numpy import argpartition

METRICS = ("ndcg@100", "recall@20", "recall@50")
BATCH = 500


class Given(vc.models.Model):
    """Hands out scores that it was given, of consecutive users."""

    slug, about = "given", "given scores"

    def __init__(self, n_items: int):
        super().__init__(n_items)
        self.given = torch.empty(0)

    def scores(self, batch):
        first = int(batch.users[0])
        return self.given[first : first + len(batch)]


def ndcg(scores, targets, k=100):
    """Return (B,) values, with targets a (B, n_items) sparse matrix."""
    rows = np.arange(len(scores))[:, None]
    some = argpartition(-scores, k, axis=1)[:, :k]
    top = some[rows, np.argsort(-scores[rows, some], axis=1)]
    discount = 1 / np.log2(np.arange(2, k + 2))
    best = np.array([discount[: min(n, k)].sum() for n in targets.getnnz(axis=1)])
    return (targets[rows, top].toarray() * discount).sum(1) / best


def recall(scores, targets, k):
    """Return (B,) values, as :func:`ndcg`."""
    listed = np.zeros_like(scores, dtype=bool)
    listed[np.arange(len(scores))[:, None], argpartition(-scores, k, axis=1)[:, :k]] = True
    wanted = (targets > 0).toarray()
    return np.logical_and(wanted, listed).sum(1) / np.minimum(k, wanted.sum(1))


def reference(scores: np.ndarray, history, targets) -> dict[str, float]:
    """Return the means of the metrics; overwrites the scores of histories."""
    values = []
    for start in range(0, len(scores), BATCH):
        part, some = scores[start : start + BATCH], targets[start : start + BATCH]
        part[history[start : start + BATCH].nonzero()] = -np.inf
        values.append([ndcg(part, some), recall(part, some, 20), recall(part, some, 50)])
    return dict(zip(METRICS, np.concatenate(values, axis=1).mean(1).tolist(), strict=True))


def held_out(n_users: int, n_items: int) -> HeldOut:
    """Return synthetic users, a fifth of whose items, and one at least, are to be found."""
    whole = synthetic(n_users, n_items)
    user, item = (part.numpy() for part in whole.pairs())
    hidden = np.random.default_rng(0).random(len(user)) < 0.2
    hidden[whole.indptr[:-1].numpy()] = True
    parts = (Interactions.from_pairs(user[of], item[of], shape=whole.shape) for of in (~hidden, hidden))
    return HeldOut(*parts)


def scores_of(heldout: HeldOut) -> torch.Tensor:
    """Return scores that follow popularity, with noise, and without ties in the lists: those go by other rules."""
    torch.manual_seed(0)
    popular = (heldout.history.item_counts + 1.0).log()
    scores = torch.randn(heldout.history.shape) + popular
    for row in range(0, len(scores), BATCH):
        part = scores[row : row + BATCH]
        while bool((tied := (part.topk(min(1000, scores.shape[1])).values.diff(dim=1) == 0).any(1)).any()):
            part[tied] = torch.randn(int(tied.sum()), scores.shape[1]) + popular
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=20_108)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    heldout = held_out(given.users, given.items)
    model = Given(given.items)
    model.given = scores_of(heldout)
    history, targets = (sparse.csr_matrix(part.to_scipy()) for part in (heldout.history, heldout.targets))
    seconds: dict[str, list[float]] = {"ours": [], "reference": []}
    for _ in range(given.turns):
        started = time.process_time()
        ours = vc.evaluate(model, heldout, METRICS, batch_size=BATCH)
        seconds["ours"].append(time.process_time() - started)
        scores = model.given.numpy().copy()
        started = time.process_time()
        theirs = reference(scores, history, targets)
        seconds["reference"].append(time.process_time() - started)
    for name, value in theirs.items():
        if abs(ours[name].mean - value) > 1e-9:
            sys.exit(f"{name}: {ours[name].mean} here, {value} in the reference")
    ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
    spread = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    report = {
        "users": given.users,
        "items": given.items,
        "metrics": theirs,
        "reference": argpartition.__module__.split(".")[0],
        "cpu_seconds": {name: round(statistics.median(values), 2) for name, values in seconds.items()},
        "ratio": {name: round(value, 2) for name, value in spread.items()},
        "turns": given.turns,
        "machine": machine("cpu"),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(report, indent=1))
    if given.out:
        write_json(given.out, report)


if __name__ == "__main__":
    main()
