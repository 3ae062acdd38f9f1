"""Who gains from the exact likelihood (``vaecf gains``)? Paired by user and seed; writes aggregates alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from ..checkpoints import write_json
from ..data import Interactions, load_dataset, split_strong
from ..environment import machine
from ..evaluation import per_user_metrics
from ..maths import log_elementary_symmetric
from ..models import Model, MultVAE
from ..training import fit
from . import RESULTS

SEEDS = (0, 1, 2)


def surprise_of_no_repeats(model: Model, history: Interactions) -> torch.Tensor:
    """Return -log P(k draws of the model's multinomial have no repeat) per user, k the clicks of its history."""
    parts = []
    with torch.no_grad():
        for batch in history.to(model.device).batches(500):
            log_pi = torch.log_softmax(model.scores(batch).double(), -1)
            parts.append(-log_elementary_symmetric(log_pi, batch.counts) - torch.lgamma(batch.counts + 1.0))
    return torch.cat(parts).cpu()


def fifths(by: np.ndarray, gain: np.ndarray) -> list[dict]:
    """Return the mean gain and its 95 % interval within each fifth of the users, sorted ``by`` a quantity."""
    groups = np.array_split(np.argsort(by, kind="stable"), 5)
    return [
        {
            "from": round(float(by[g].min()), 2),
            "to": round(float(by[g].max()), 2),
            "mean": round(float(by[g].mean()), 2),
            "gain": round(float(gain[g].mean()), 4),
            "ci": round(float(1.96 * gain[g].std(ddof=1) / len(g) ** 0.5), 4),
        }
        for g in groups
    ]


def measure(dataset: str, n_heldout: int, epochs: int, folder: Path = RESULTS) -> None:
    """Train Mult-VAE under both likelihoods, and write the gain in NDCG@100 by activity and by -log P(no repeats)."""
    torch.set_num_threads(1)
    log = load_dataset(dataset)
    split = split_strong(log, n_heldout=n_heldout)
    gains, surprises = [], []
    for seed in SEEDS:
        values = {}
        for likelihood in ("multinomial", "n_choose_k"):
            model = MultVAE(split.n_items, likelihood=likelihood)
            fit(model, split, epochs=epochs, seed=seed, device="cpu", progress=False)
            values[likelihood] = per_user_metrics(model, split.test, ("ndcg@100",))["ndcg@100"].numpy()
            if likelihood == "multinomial":
                surprises.append(surprise_of_no_repeats(model, split.test.history).numpy())
        gains.append(values["n_choose_k"] - values["multinomial"])
        print(f"seed {seed}: {np.nanmean(gains[-1]):+.4f}", file=sys.stderr, flush=True)
    scored = ~np.isnan(gains[0])
    gain, surprise = np.mean(gains, 0)[scored], np.mean(surprises, 0)[scored]
    activity = split.test.history.counts.numpy()[scored].astype(float)
    ranks = [np.argsort(np.argsort(v)) for v in (activity, surprise, gain)]
    result = {
        "dataset": dataset,
        "data_sha256": log.sha256,
        "seeds": SEEDS,
        "epochs": epochs,
        "machine": machine("cpu"),
        "command": f"vaecf gains {dataset} --n-heldout {n_heldout} --epochs {epochs}",
        "n_users": int(scored.sum()),
        "by_seed": [round(float(g[scored].mean()), 4) for g in gains],
        "gain": round(float(gain.mean()), 4),
        "ci": round(float(1.96 * gain.std(ddof=1) / len(gain) ** 0.5), 4),
        "rank_correlation_activity": round(float(np.corrcoef(ranks[0], ranks[2])[0, 1]), 3),
        "rank_correlation_no_repeats": round(float(np.corrcoef(ranks[1], ranks[2])[0, 1]), 3),
        "activity": fifths(activity, gain),
        "no_repeats": fifths(surprise, gain),
    }
    (folder / "gains").mkdir(parents=True, exist_ok=True)
    write_json(folder / "gains" / f"{dataset}.json", result)
