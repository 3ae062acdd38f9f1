"""Seconds per epoch of every system on one data set, one after the other, with nothing else running.

``python book/_ext/timing.py ml-1m 500``: data set, held-out users.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch

import vaecf_lib as vc
from vaecf_lib.checkpoints import write_json
from vaecf_lib.ledger import machine
from vaecf_lib.studies import STUDIES
from vaecf_lib.systems import build

TIMING = Path(__file__).resolve().parents[1] / "results" / "timing"
EPOCHS = 5


def main(dataset: str, n_heldout: int) -> None:
    torch.set_num_threads(1)
    split = vc.split_strong(vc.load_dataset(dataset), n_heldout=n_heldout)
    seconds = {}
    for study in ("likelihoods", "recvae", "systems"):
        for label, (slug, options) in STUDIES[study]["rows"].items():
            model = build(slug, split.n_items, **options)
            if model.phases():
                run = vc.fit(model, split, epochs=EPOCHS, device="cpu", progress=False, validate_every=EPOCHS)
                seconds[label] = round(statistics.median(run.curve("seconds")), 3)
                print(f"{label}: {seconds[label]}", file=sys.stderr, flush=True)
    command = f"python book/_ext/timing.py {dataset} {n_heldout}"
    result = {"seconds_per_epoch": seconds, "epochs": EPOCHS, "machine": machine("cpu"), "command": command}
    TIMING.mkdir(parents=True, exist_ok=True)
    write_json(TIMING / f"{dataset}.json", result)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
