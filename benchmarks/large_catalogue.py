"""Training with a million items: seconds per update and peak memory, in a process of its own for each way.

    python benchmarks/large_catalogue.py --items 1000000 --out book/results/scale/large_catalogue.json

Mult-VAE with layers of 200, batches of 500, 73 clicks a user, one thread. The logits of a batch would be 2 GB; they are
computed by rows, twice, or, with ``n_sampled``, only of some items.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

WAYS = {
    "multinomial": {},
    "n_choose_k": {"likelihood": "n_choose_k"},
    "multinomial, 8,192 items drawn": {"n_sampled": 8192},
    "recvae, layers of 600 and 200": {"system": "recvae", "hidden": 600},
}


def measure(n_items: int, n_users: int, options: dict) -> dict:
    """Make one epoch's updates for ``n_users`` users."""
    import numpy as np
    import torch

    import vaecf_lib as vc
    from vaecf_lib.environment import machine
    from vaecf_lib.lab.bench import synthetic
    from vaecf_lib.training import peak_memory_mb

    torch.set_num_threads(1)
    train = synthetic(n_users, n_items)
    options = {"system": "mult-vae", "hidden": 200} | options
    model = vc.build(options.pop("system"), n_items, **options)
    split = vc.data.Split("all", train, valid=None, test=None, item_index=np.arange(n_items))
    before, started, cpu = peak_memory_mb("cpu"), time.perf_counter(), time.process_time()
    loss = vc.Trainer(model, split, epochs=1, device="cpu").run_epoch()["loss"]
    return {
        "machine": machine("cpu"),
        "users": train.n_users,
        "items": n_items,
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_memory_mb": round(peak_memory_mb("cpu")),
        "before_training_mb": round(before),
        "weights_mb": round(sum(p.numel() for p in model.parameters()) * 4 / 1e6),
        "loss": round(loss, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--way", choices=WAYS, help="only this one")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.way and not given.out:
        print(json.dumps(measure(given.items, given.users, WAYS[given.way])))
        return
    found = {}
    for way in [given.way] if given.way else WAYS:
        command = [sys.executable, __file__, "--items", str(given.items), "--users", str(given.users), "--way", way]
        done = subprocess.run(command, capture_output=True, text=True)
        found[way] = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr[-300:]}
        print(way, found[way], flush=True)
        if given.out:
            given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
