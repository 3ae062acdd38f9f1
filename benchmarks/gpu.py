"""What a GPU gives: is it right, how fast is it, and then the studies that are missing (see gpu.sh).

Each step runs in a process of its own, so that none can fail another and each has its own peak memory. Its result is
kept as JSON at once; a step whose result is there is not made again, one that failed is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import vaecf_lib as vc
from vaecf_lib.checkpoints import write_json
from vaecf_lib.data import HeldOut, Interactions, Split
from vaecf_lib.environment import machine
from vaecf_lib.lab import RESULTS
from vaecf_lib.lab.bench import synthetic
from vaecf_lib.lab.reproduction import plan
from vaecf_lib.training import peak_memory_mb

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)


class Size(NamedTuple):
    """How much is done: the real thing, or a rehearsal."""

    device: str
    dataset: str
    epochs: int  # of a training that is to be compared with another one
    users: int  # of the large synthetic matrix, and its items
    items: int
    heldout: int  # users to validate on
    long: int  # epochs of the whole training that is timed
    model: dict[str, Any]
    systems: tuple[str, ...] | None  # None: all of those for clicks


REAL = Size("cuda", "ml-1m", 6, 116_677, 20_108, 10_000, 50, {}, None)
REHEARSAL = Size("cpu", "planted", 1, 1_500, 400, 500, 2, {"latent_dim": 4, "hidden": 8}, ("mult-vae", "popularity"))

# Precision, whether compiled, and whether float32 products may be made in TF32.
WAYS = {
    "fp32": ("fp32", False, False),
    "tf32": ("fp32", False, True),
    "bf16": ("bf16", False, False),
    "tf32-compiled": ("fp32", True, True),
    "bf16-compiled": ("bf16", True, False),
}
# The most valuable first; data sets that are not there cost a second each.
STUDIES = [
    ("recvae", "1", "ml-20m", "0"),
    ("book", "systems", "ml-1m", "0,1,2"),
    ("book", "ablation-alternating", "ml-1m", "0,1,2"),
    ("book", "ablation-at-once", "ml-1m", "0,1,2"),
    ("book", "grid", "ml-1m", "0,1,2"),
    ("recvae", "2", "ml-20m", "0"),
    ("sivae", "3", "ml-20m", "0"),
    ("book", "weak-baselines", "ml-1m", "0,1,2"),
    ("book", "weak-1m", "ml-1m", "0,1,2"),
    ("book", "bmf", "ml-1m", "0,1,2"),
    ("recvae", "1", "ml-20m", "1,2"),
    ("vaegan", "1", "ml-20m", "0"),
    ("book", "patience", "ml-1m", "0,1,2"),
]


# --- is it right? ----------------------------------------------------------------------------------------------------


def setup(size: Size) -> dict:
    """What is here; the other steps need the GPU."""
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "cores": os.cpu_count()}
    if size.device == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit("torch finds no GPU: install a CUDA build of torch, or give --rehearse")
        seen = torch.cuda.get_device_properties(0)
        found |= {"memory_gb": round(seen.total_memory / 1e9, 1), "capability": f"{seen.major}.{seen.minor}"}
        smi = ["nvidia-smi", "--query-gpu=name,driver_version,utilization.gpu,memory.used", "--format=csv,noheader"]
        found["nvidia-smi"] = subprocess.run(smi, capture_output=True, text=True).stdout.strip()
    return found


def waits(size: Size) -> dict:
    """Does anything in an epoch wait for the GPU? torch raises where it would; the look at its end is left out."""
    found = {}
    train = synthetic(2 * 500, 300)
    for slug in clicks_systems(size):
        trainer = vc.Trainer(vc.build(slug, train.n_items, **options_of(slug, size)), whole(train), device=size.device)
        trainer.run_epoch()
        trainer._check_finite = trainer._check_weights = lambda: None
        try:
            if size.device == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            for phase, batch in trainer.updates():
                trainer.step(batch, phase)
            found[slug] = "nothing waits"
        except RuntimeError as error:
            found[slug] = str(error).splitlines()[0]
        finally:
            if size.device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return found | {"ok": set(found.values()) <= {"nothing waits"}}


def metrics_of(size: Size, slug: str, device: str, precision: str = "fp32") -> list[float]:
    """NDCG@100 on the test users after a few epochs, by seed."""
    split = strong(size)
    found = []
    for seed in SEEDS:
        model = vc.build(slug, split.n_items, **options_of(slug, size))
        training = {"epochs": size.epochs, "seed": seed, "precision": precision, "progress": False}
        vc.fit(model, split, device=device, validate_every=size.epochs or 1, **training)
        found.append(vc.evaluate(model, split.test, ("ndcg@100",))["ndcg@100"].mean)
    return found


def agree(a: list[float], b: list[float]) -> dict:
    """Whether two sets of seeds have the same mean, within three standard errors of the difference and 0.001."""
    gap = statistics.mean(a) - statistics.mean(b)
    error = math.sqrt((statistics.variance(a) + statistics.variance(b)) / len(a))
    return {"values": [a, b], "gap": gap, "standard_error": error, "ok": abs(gap) <= 3 * error + 0.001}


def same_as_cpu(size: Size) -> dict:
    found = {}
    for slug in ("mult-vae", "recvae"):
        found[slug] = agree(metrics_of(size, slug, "cpu"), metrics_of(size, slug, size.device))
    return found | {"ok": all(one["ok"] for one in found.values())}


def bf16(size: Size) -> dict:
    found = {}
    for slug in ("mult-vae", "recvae"):
        found[slug] = agree(*(metrics_of(size, slug, size.device, precision) for precision in ("fp32", "bf16")))
    return found | {"ok": all(one["ok"] for one in found.values())}


def resume(size: Size) -> dict:
    """Whether a resumed training ends with the weights of an unbroken one, or as near as a second unbroken one does."""
    split, epochs = strong(size), 2 * size.epochs

    def trained(folder: Path | None = None, **limits: int) -> torch.Tensor:
        model = vc.build("recvae", split.n_items, **options_of("recvae", size))
        training = {"epochs": epochs, "device": size.device, "progress": False, "seed": 0}
        vc.fit(model, split, out=folder, **training, **limits)
        return torch.cat([weight.detach().flatten().cpu() for weight in model.parameters()])

    unbroken, again = trained(), trained()
    with tempfile.TemporaryDirectory() as folder:
        trained(Path(folder), stop_after=size.epochs)
        resumed = trained(Path(folder))
    between = {"repeated": (again - unbroken).abs().max().item(), "resumed": (resumed - unbroken).abs().max().item()}
    return {"largest_difference": between, "ok": between["resumed"] <= 3 * between["repeated"]}


# --- how fast is it? -------------------------------------------------------------------------------------------------


def large(size: Size) -> Split:
    """Return synthetic users of ML-20M's number and items; of those held out a fifth of the clicks are targets."""
    heldout = synthetic(size.heldout, size.items, seed=1)
    users, items = (part.numpy() for part in heldout.pairs())
    target = np.random.default_rng(0).random(len(users)) < 0.2
    parts = [Interactions.from_pairs(users[some], items[some], shape=heldout.shape) for some in (~target, target)]
    return whole(synthetic(size.users, size.items), HeldOut(*parts, strangers=True))


def recvae(size: Size, way: str, epochs: int) -> dict:
    """Train RecVAE on the large matrix: seconds per epoch of 3 + 1 passes with validation, and without it."""
    precision, compile, tf32 = WAYS[way]
    compile = compile and size is REAL  # a rehearsal has no minutes for the compiler
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    split = large(size)
    model = vc.build("recvae", split.n_items, **size.model)
    started = time.perf_counter()
    training = {"epochs": epochs, "device": size.device, "precision": precision, "compile": compile, "seed": 0}
    run = vc.fit(model, split, progress=False, **training)
    seconds, of_epochs = time.perf_counter() - started, run.curve("seconds")
    usual = statistics.median(of_epochs[1:] or of_epochs)
    return {
        "seconds": seconds,
        "epochs": epochs,
        "seconds_per_epoch": usual,
        "first_epoch": of_epochs[0],
        "users_per_second": split.train.n_users / usual,
        "ndcg@100": run.best["ndcg@100"],
        "peak_memory_mb": peak_memory_mb(size.device),
    }


def recvae_long(size: Size, out: Path) -> dict:
    """The whole training in the fastest of the ways that were measured; the goal is 60 seconds."""
    speeds = {way: kept(out, f"recvae-{way}").get("users_per_second", 0) for way in WAYS}
    way = max(speeds, key=speeds.get)
    found = recvae(size, way, size.long)
    return found | {"way": way, "goal_seconds": 60, "ok": found["seconds"] <= 60}


def recvae_authors(size: Size, out: Path) -> dict:
    """The authors' way of training on the same device: dense batches, plain Adam; the goal is a tenth of its time."""
    sys.path.insert(0, str(HERE))
    from dense_recvae import train_epochs

    train = synthetic(size.users, size.items)
    seconds, started = [], time.perf_counter()
    for _ in train_epochs(train, 2, device=size.device):
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    found = {"seconds_per_epoch": seconds[-1], "users_per_second": train.n_users / seconds[-1]}
    found["peak_memory_mb"] = peak_memory_mb(size.device)
    ours = max(kept(out, f"recvae-{way}").get("users_per_second", 0) for way in WAYS)
    ratios = {"plain": kept(out, "recvae-fp32").get("users_per_second", 0), "fastest": ours}
    return found | {f"ours_{name}_times": speed / found["users_per_second"] for name, speed in ratios.items()}


def systems(size: Size) -> dict:
    """Seconds per epoch and peak memory of every system for clicks, at ML-1M's shape."""
    train = synthetic(6_038 if size is REAL else 600, 3_533 if size is REAL else 100, 95)
    found = {}
    for slug in clicks_systems(size):
        try:
            if size.device == "cuda":
                torch.cuda.empty_cache(), torch.cuda.reset_peak_memory_stats()
            model = vc.build(slug, train.n_items, **options_of(slug, size))
            run = vc.fit(model, whole(train), epochs=4, device=size.device, progress=False)
            seconds = statistics.median(run.curve("seconds")[1:])
            found[slug] = {"seconds_per_epoch": seconds, "peak_memory_mb": peak_memory_mb(size.device)}
        except (vc.VaecfError, RuntimeError) as error:
            found[slug] = {"failed": str(error).splitlines()[0]}
    return found


def evaluation(size: Size) -> dict:
    """Recall@20, recall@50 and NDCG@100 of the large matrix's held-out users, by an untrained Mult-VAE."""
    split = large(size)
    model = vc.build("mult-vae", split.n_items, **size.model).to(size.device)
    heldout, seconds = split.valid.to(size.device), []
    for _ in range(4):
        started = time.perf_counter()
        vc.evaluate(model, heldout)
        seconds.append(time.perf_counter() - started)
    return {"users": size.heldout, "seconds": min(seconds), "users_per_second": size.heldout / min(seconds)}


# --- what they share -------------------------------------------------------------------------------------------------


def whole(train: Interactions, valid: HeldOut | None = None) -> Split:
    return Split("synthetic", train, valid, None, np.arange(train.n_items))


def strong(size: Size) -> Split:
    return vc.split_strong(vc.load_dataset(size.dataset), n_heldout=500)


def options_of(slug: str, size: Size) -> dict[str, Any]:
    return {name: value for name, value in size.model.items() if name in vc.systems.SYSTEMS[slug].options}


def clicks_systems(size: Size) -> list[str]:
    """Systems that learn from clicks in epochs."""
    if size.systems is not None:
        return [slug for slug in size.systems if vc.build(slug, 2).phases()]
    names = (slug for slug, system in vc.systems.SYSTEMS.items() if "n_users" not in system.options)
    return [
        slug for slug in names if slug != "macridvae" and not vc.build(slug, 2).rates and vc.build(slug, 2).phases()
    ]


def kept(out: Path, step: str) -> dict:
    path = out / f"{step}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


# In this order; each gets the size and the folder of results.
STEPS: dict[str, Callable[[Size, Path], dict]] = {
    "setup": lambda size, out: setup(size),
    "waits": lambda size, out: waits(size),
    "resume": lambda size, out: resume(size),
    "same-as-cpu": lambda size, out: same_as_cpu(size),
    "bf16": lambda size, out: bf16(size),
    **{f"recvae-{way}": lambda size, out, way=way: recvae(size, way, 3) for way in WAYS},
    "recvae-50": recvae_long,
    "recvae-authors": recvae_authors,
    "systems": lambda size, out: systems(size),
    "evaluation": lambda size, out: evaluation(size),
}


def in_own_process(command: list[str], seconds: float) -> str | None:
    """Run a command; return in a line why it failed, or None."""
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=max(1, seconds))
    except subprocess.TimeoutExpired:
        return "out of time"
    lines = done.stderr.strip().splitlines()
    return (lines[-1] if lines else f"exit code {done.returncode}") if done.returncode else None


def studies(size: Size, results: Path, deadline: float) -> dict[str, str]:
    """Make the runs that are missing; `vaecf reproduce` keeps each as soon as it is done."""
    summary = {}
    wanted = STUDIES if size is REAL else [("book", "likelihoods", "planted", "0")]
    for paper, table, dataset, seeds in wanted:
        name = f"{paper} {table} {dataset} {seeds}"
        numbers = [int(seed) for seed in seeds.split(",")]
        runs = plan(paper, table, dataset=dataset, seeds=numbers)
        missing = [run for run in runs if not (results / "measured" / run.name).exists()]
        if time.monotonic() > deadline or not missing:
            summary[name] = "no time" if missing else "all there"
            continue
        command = [sys.executable, "-m", "vaecf_lib", "reproduce", paper, table, "--dataset", dataset]
        command += ["--seeds", seeds, "--device", size.device, "--results", str(results)]
        if size is REHEARSAL:
            command += ["--models", "popularity"]
        failure = in_own_process(command, deadline - time.monotonic())
        made = sum((results / "measured" / run.name).exists() for run in missing)
        summary[name] = f"{made} of {len(missing)} missing runs made" + (f"; {failure}" if failure else "")
        print(f"{name}: {summary[name]}", flush=True)
    return summary


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=40, help="begin nothing after so long, and end what runs")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--out", type=Path, help="folder of results, else benchmarks/results/gpu and book/results")
    parser.add_argument("--step", choices=STEPS, help="only this one, in this process")
    given = parser.parse_args()
    size = REHEARSAL if given.rehearse else REAL
    if given.rehearse and given.out is None:
        parser.error("--rehearse needs --out: its results are no measurements")
    out = given.out or HERE / "results" / "gpu"
    out.mkdir(parents=True, exist_ok=True)
    if given.step:
        found = STEPS[given.step](size, out)
        write_json(out / f"{given.step}.json", found | {"machine": machine(size.device), "rehearsal": given.rehearse})
        return 0
    deadline = time.monotonic() + 60 * given.minutes
    summary = {}
    for step in STEPS:
        if not kept(out, step):
            if time.monotonic() > deadline:
                summary[step] = "no time"
                continue
            command = [sys.executable, __file__, "--step", step, "--out", str(out)]
            failure = in_own_process(command + ["--rehearse"] * given.rehearse, deadline - time.monotonic())
            if failure:
                summary[step] = f"FAILED: {failure}"
                print(f"{step}: {summary[step]}", flush=True)
                if step == "setup":
                    return 1
                continue
        found = kept(out, step)
        summary[step] = {True: "ok", False: "NOT AS IT SHOULD BE", None: "measured"}[found.get("ok")]
        print(f"{step}: {summary[step]} {json.dumps(found)[:600]}", flush=True)
    summary |= studies(size, given.out or RESULTS, deadline)
    write_json(out / "summary.json", summary)
    print("\n".join(["", "summary", *(f"{step:32s} {result}" for step, result in summary.items())]))
    return int(any(result.startswith(("FAILED", "NOT")) for result in summary.values()))


if __name__ == "__main__":
    raise SystemExit(main())
