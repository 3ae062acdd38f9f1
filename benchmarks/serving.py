"""People served a second by a Mult-VAE of ML-1M's size, table and all, on one thread.

``VAECF_DATA=… python benchmarks/serving.py [--dataset ml-1m] [--repeats 7]``: all users by their ids, then the same
people as a table of histories. "floor" is the decoder's last product alone, without which no such list can be made.
Prints JSON; each figure is the best of the repeats, beside all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import pandas as pd
import torch

import vaecf_lib as vc
from vaecf_lib.serving import BATCH
from vaecf_lib.training import peak_memory_mb


def people_per_second(serve: Callable[[], object], people: int, repeats: int) -> dict:
    """Time some calls that serve all ``people``."""
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        serve()
        rates.append(round(people / (time.perf_counter() - started)))
    return {"best": max(rates), "all": rates}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    log = vc.load_dataset(arguments.dataset)
    split = vc.split_weak(log, min_items=1)
    model = vc.models.MultVAE(split.n_items)
    run = vc.fit(model, split, epochs=0, device="cpu", progress=False)  # untrained weights take as long
    people, before = len(run.people.ids), peak_memory_mb("cpu")
    hidden = torch.randn(BATCH, model.output.in_features)
    table = pd.DataFrame({"user": log.user_ids[log.user], "item": log.item_ids[log.item]})

    @torch.inference_mode()
    def floor() -> None:
        for _ in range(-(-people // BATCH)):
            model.output(hidden)

    result = {
        "people": people,
        "items": split.n_items,
        "interactions": len(log),
        "floor": people_per_second(floor, people, arguments.repeats),
        "by id": people_per_second(run.recommend, people, arguments.repeats),
        "memory added MB": round(peak_memory_mb("cpu") - before),
        "by history": people_per_second(lambda: run.recommend(histories=table), people, arguments.repeats),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
