"""People served a second by a Mult-VAE of ML-1M's size, table and all, on one thread.

``VAECF_DATA=… python benchmarks/serving.py [--dataset ml-1m] [--repeats 7]``: all users by their ids, then the same
people as a table of histories. "floor" is the decoder's last product alone, without which no such list can be made.
Prints JSON: people a second by the clock and by processor time.
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


def people_per_second(serve: Callable[[], object], people: int) -> tuple[int, int]:
    """Time a call that serves all ``people``, by the clock and by the processor's time, which others cannot take."""
    clock, processor = time.perf_counter(), time.process_time()
    serve()
    return round(people / (time.perf_counter() - clock)), round(people / (time.process_time() - processor))


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

    calls = {"floor": floor, "by id": run.recommend, "by history": lambda: run.recommend(histories=table)}
    rates: dict[str, list] = {name: [] for name in calls}
    for _ in range(arguments.repeats):
        for name, call in calls.items():  # in turn, so that all meet the same neighbours
            rates[name].append(people_per_second(call, people))
    result = {"people": people, "items": split.n_items, "interactions": len(log)}
    for name, pairs in rates.items():
        clock, processor = zip(*pairs, strict=True)
        result[name] = {"best": max(clock), "best of processor time": max(processor), "all": clock}
    print(json.dumps(result | {"memory added MB": round(peak_memory_mb("cpu") - before)}))


if __name__ == "__main__":
    main()
