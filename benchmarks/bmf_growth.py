"""Memory and seconds of one VAE-BMF update as users and items double, against the latent input as it is printed.

``python benchmarks/bmf_growth.py [--out FILE]``: each measurement in a process of its own, one thread. "naive" builds
the rows of Z_U and Z_V, J K and I K numbers wide, and multiplies them with the first layer; everything else is shared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from vaecf_lib.data import Interactions
from vaecf_lib.environment import machine
from vaecf_lib.lab.bench import synthetic
from vaecf_lib.models import VAEBMF
from vaecf_lib.models.vae_bmf import Tower
from vaecf_lib.training import peak_memory_mb

SHAPES = ((1500, 1000), (3000, 2000), (6000, 4000), (12_000, 8000), (24_000, 16_000), (48_000, 32_000))
UPDATES, SECONDS = 7, 120


def naive_forward(self, batch, kept, embeddings):
    """Tower.forward with the latent input written out."""
    data = self.data_rest(torch.relu(self.data.bag(batch, batch.values) + self.data.bias))
    z = (batch.dense() != 0)[:, :, None] * embeddings  # (B, J, K): the rated items' embeddings, zeros elsewhere
    first = z.flatten(1) @ self.phi.flatten(0, 1) + self.phi_bias
    return self.output(self.head(torch.cat([data, self.latent_rest(torch.relu(first))], -1)))


def measure(which: str, n_users: int, n_items: int) -> dict:
    """Time a few updates in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clicks = synthetic(n_users, n_items, positives=60)
    train = Interactions(clicks.indptr, clicks.indices, torch.randint(1, 6, (clicks.nnz,)).float(), clicks.shape)
    if which == "naive":
        Tower.forward = naive_forward
    model = VAEBMF(n_items, attention=None)
    model.prepare(train)
    model.start(train)
    (phase,) = model.phases()
    optimiser = torch.optim.Adam(phase.parameters, lr=phase.lr, fused=True)
    before, seconds = peak_memory_mb("cpu"), []
    for block in phase.sweep.shuffled(0):
        started = time.perf_counter()
        loss, _ = phase.loss(block, 0.0)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        seconds.append(time.perf_counter() - started)
        if len(seconds) == UPDATES or sum(seconds) > SECONDS:
            break
    weights = sum(p.numel() for p in model.parameters())
    return {
        "seconds_per_update": round(statistics.median(seconds[1:] or seconds), 4),
        "training_memory_mb": round(peak_memory_mb("cpu") - before),
        "weights": weights,
        "ratings": train.nnz,
    }


def main() -> None:
    """Measure all shapes, ours and naive in turn, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--naive-up-to", type=int, default=24_000, help="largest number of users for the naive version")
    parser.add_argument("--measure", nargs=3, metavar=("WHICH", "USERS", "ITEMS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], *map(int, options.measure[1:]))))
        return
    rows = []
    for n_users, n_items in SHAPES:
        row = {"users": n_users, "items": n_items}
        for which in ("ours", "naive"):
            if which == "naive" and n_users > options.naive_up_to:
                continue
            command = [sys.executable, __file__, "--measure", which, str(n_users), str(n_items)]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            row[which] = json.loads(done.stdout) if done.returncode == 0 else f"failed: {done.stderr[-200:]}"
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    torch.set_num_threads(1)
    report = {"blocks": [500, 500], "latent_dim": 10, "hidden": 50, "machine": machine("cpu"), "rows": rows}
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
