"""What sampled softmax costs in accuracy: NDCG@100 and the normaliser's bias by the number of items drawn.

    python benchmarks/sampled.py --dataset ml-1m --n-heldout 500 --epochs 50 --out book/results/scale/sampled.json

Mult-VAE, once with every item in the normaliser and then with 1,024 to 16,384 draws at each update; the bias is that of
the log-probability per click, at the exactly trained weights, over the test users' histories.
"""

import argparse
import json
from pathlib import Path

import torch

import vaecf_lib as vc
from vaecf_lib.environment import machine

DRAWS = (1024, 4096, 16_384)


@torch.no_grad()
def bias(model, histories, n_sampled: int, repeats: int = 20) -> dict:
    """Return the mean and the deviation of (estimated - exact log-probability) / clicks, in nats."""
    errors = []
    for batch in histories.batches(500):
        h = model.decoder.features(model.encode(batch, drop=False)[0])
        exact = model.decoder.output.log_prob(h, batch, "multinomial")
        chances = model.item_counts + 1.0
        for _ in range(repeats):
            estimate = model.decoder.output.sampled_log_prob(h, batch, chances, n_sampled)
            errors.append((estimate - exact) / batch.counts.clamp_min(1))
    errors = torch.cat(errors)
    return {"bias_nats_per_click": float(errors.mean()), "deviation": float(errors.std())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--n-heldout", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    split = vc.split_strong(vc.load_dataset(given.dataset), n_heldout=given.n_heldout)
    exact, found = None, {"machine": machine("cpu"), "items": split.n_items, "settings": vars(given) | {"out": None}}
    for n_sampled in (None, *DRAWS):
        values, seconds = [], []
        for seed in range(given.seeds):
            model = vc.build("mult-vae", split.n_items, n_sampled=n_sampled)
            run = vc.fit(model, split, epochs=given.epochs, seed=seed, device="cpu", progress=False)
            values.append(vc.evaluate(model, split.test, ("ndcg@100",))["ndcg@100"].mean)
            seconds.append(sum(row["seconds"] for row in run.history) / given.epochs)
            exact = exact or model.eval()
        torch.manual_seed(0)
        row = {"ndcg@100": values, "seconds_per_epoch": round(sum(seconds) / len(seconds), 2)}
        found[str(n_sampled)] = row | ({} if n_sampled is None else bias(exact, split.test.history, n_sampled))
        print(n_sampled, found[str(n_sampled)], flush=True)
        if given.out:
            given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
