"""Seconds per epoch of every ranking system on one data set (``vaecf timing``)."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch

from ..checkpoints import write_json
from ..data import load_dataset, split_strong
from ..environment import machine
from ..systems import build
from ..training import fit
from . import RESULTS
from .studies import STUDIES

EPOCHS = 5


def measure(dataset: str, n_heldout: int, folder: Path = RESULTS) -> None:
    """Train each system of three studies for a few epochs, one after the other, and write the median seconds."""
    torch.set_num_threads(1)
    split = split_strong(load_dataset(dataset), n_heldout=n_heldout)
    seconds = {}
    for study in ("likelihoods", "recvae", "systems"):
        for label, row in STUDIES[study].rows.items():
            model = build(row.system, split.n_items, **row.options)
            if model.phases():
                run = fit(model, split, epochs=EPOCHS, device="cpu", progress=False, validate_every=EPOCHS)
                seconds[label] = round(statistics.median(run.curve("seconds")), 3)
                print(f"{label}: {seconds[label]}", file=sys.stderr, flush=True)
    command = f"vaecf timing {dataset} --n-heldout {n_heldout}"
    result = {"seconds_per_epoch": seconds, "epochs": EPOCHS, "machine": machine("cpu"), "command": command}
    (folder / "timing").mkdir(parents=True, exist_ok=True)
    write_json(folder / "timing" / f"{dataset}.json", result)
