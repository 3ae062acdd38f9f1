"""Train the grids of states that the book's sliders show, and keep them as small JSON (`make states`)."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch

import vaecf_lib as vc
from vaecf_lib.explore import save_states
from vaecf_lib.ledger import machine

STATES = Path(__file__).resolve().parents[1] / "results" / "states"

BETAS = (0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 12, 20)
BETA_SETTINGS = {"latent_dim": 32, "hidden": 200, "anneal": 0.0}
BETA_EPOCHS, BETA_SEEDS = 60, (0, 1, 2)


def beta_state(split, beta: float, seeds=BETA_SEEDS) -> dict:
    """Train Mult-VAE at one beta; return rate, distortion and test NDCG@100, means over seeds."""
    runs = []
    for seed in seeds:
        model = vc.models.MultVAE(split.n_items, beta=beta, **BETA_SETTINGS)
        vc.fit(model, split, epochs=BETA_EPOCHS, seed=seed, device="cpu", progress=False)
        terms = model.elbo_terms(split.train)
        ndcg = vc.evaluate(model, split.test, ("ndcg@100",))["ndcg@100"].mean
        runs.append((float(terms["distortion"]), terms["rate"].sort(descending=True).values, ndcg))
    ndcgs = [ndcg for *_, ndcg in runs]
    return {
        "distortion": round(statistics.mean(d for d, *_ in runs), 2),
        "rate": [round(float(r), 3) for r in torch.stack([rate for _, rate, _ in runs]).mean(0)],
        "ndcg": round(statistics.mean(ndcgs), 4),
        "ndcg_sd": round(statistics.stdev(ndcgs), 4) if len(ndcgs) > 1 else None,
        "ndcg_first_seed": round(ndcgs[0], 4),
    }


def main() -> None:
    torch.set_num_threads(1)
    log = vc.load_dataset("planted")
    split = vc.split_strong(log)
    states = {}
    for beta in BETAS:
        states[(beta,)] = beta_state(split, beta)
        print(f"beta {beta}: {states[(beta,)]['ndcg']}", file=sys.stderr, flush=True)
    provenance = {
        "model": "mult-vae",
        "settings": BETA_SETTINGS | {"epochs": BETA_EPOCHS},
        "seeds": BETA_SEEDS,
        "dataset": log.name,
        "data_sha256": log.sha256,
        "machine": machine("cpu"),
        "command": "make states",
    }
    STATES.mkdir(parents=True, exist_ok=True)
    save_states(STATES / "mult_vae_beta.json", states, provenance)


if __name__ == "__main__":
    main()
