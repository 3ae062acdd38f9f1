"""Seconds and peak memory from a ratings.csv of ML-20M's size and layout to a split by the strong protocol.

``python benchmarks/preprocessing.py [--rows N] [--folder DIR] [--out FILE]`` writes a synthetic ``ratings.csv`` (sorted
by user and film as the real one is, and once more with its lines shuffled) and ``movies.csv``, and reads them as the
named data set ``ml-20m`` and as somebody's own file: each run in a process of its own, so that its peak memory is its
own, first with an empty cache and then with the cache that this left. With ``--folder`` the files stay there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HEADER = "userId,movieId,rating,timestamp\n"
USERS, FILMS, ROWS = 138_493, 26_744, 20_000_263  # of ML-20M; the catalogue takes no other number of ratings
WAYS = ("ml-20m", "ratings.csv", "shuffled.csv")


def write_ratings(folder: Path, rows: int, seed: int = 0) -> None:
    """Write both ratings files, with log-normal activity and Zipf popularity, and the titles."""
    rng = np.random.default_rng(seed)
    n_users = max(USERS * rows // ROWS, 10)
    counts = rng.lognormal(0.0, 1.2, n_users)
    counts = np.clip(counts * (rows / counts.sum()), 20, FILMS // 4).astype(np.int64)
    popularity = np.cumsum(1 / np.arange(30, FILMS + 30))
    films, key = rng.permutation(FILMS), np.empty(0, dtype=np.int64)
    while len(key) < rows:  # repeated pairs fall away
        user = np.repeat(np.arange(n_users), counts // 4 + 1)
        item = films[np.searchsorted(popularity, rng.random(len(user)) * popularity[-1])]
        key = np.union1d(key, user * FILMS + item)
    key = np.sort(rng.choice(key, rows, replace=False))
    ids = np.sort(rng.choice(np.arange(1, 131_263), FILMS, replace=False))
    first_seen = rng.integers(789_652_009, 1_427_784_002, n_users)
    columns = {
        "user": key // FILMS + 1,
        "item": ids[key % FILMS],
        "rating": rng.choice(10, rows, p=np.array([12, 34, 14, 72, 44, 215, 110, 278, 77, 144]) / 1000),
        "time": first_seen[key // FILMS] + rng.integers(0, 1_000_000, rows),
    }
    del key
    named = folder / "ml-20m"
    named.mkdir(parents=True, exist_ok=True)
    stars = [f"{half / 2:.1f}" for half in range(1, 11)]
    for path, order in (
        (named / "ratings.csv", np.arange(rows)),
        (folder / "shuffled.csv", rng.permutation(rows)),
    ):
        with path.open("w", encoding="ascii") as file:
            file.write(HEADER)
            for start in range(0, rows, 1_000_000):
                at = order[start : start + 1_000_000]
                lines = zip(*(column[at].tolist() for column in columns.values()), strict=True)
                file.write("".join(f"{u},{i},{stars[r]},{t}\n" for u, i, r, t in lines))
    titles = "".join(f'{i},"Film {i}, The (1999)",Drama\n' for i in ids.tolist())
    (named / "movies.csv").write_text("movieId,title,genres\n" + titles, encoding="utf-8")


def measure(way: str, folder: Path) -> dict:
    """Read and split in this process; seconds of each stage and peak memory after it."""
    import vaecf_lib as vc
    from vaecf_lib.training import peak_memory_mb

    stages = {"imports": {"peak_mb": round(peak_memory_mb("cpu"))}}

    def stage(name, make):
        wall, cpu = time.perf_counter(), time.process_time()
        made = make()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = round(peak_memory_mb("cpu"))
        stages[name] = {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "peak_mb": peak}
        return made

    if way == "ml-20m":
        log = stage("read", lambda: vc.load_dataset("ml-20m"))
    else:
        path = folder / "ml-20m" / way if way == "ratings.csv" else folder / way
        log = stage("read", lambda: vc.data.read_own_file(path))
    split = stage("split", lambda: vc.split_strong(log, n_heldout=log.n_users // 14))
    parts = (split.train, split.valid.history, split.valid.targets, split.test.history, split.test.targets)
    return {
        "way": way,
        **{what: round(stages["read"][what] + stages["split"][what], 2) for what in ("seconds", "cpu_seconds")},
        "peak_mb": stages["split"]["peak_mb"],
        "stages": stages,
        "log": log.sha256[:16],
        "parts": [part.sha256[:16] for part in parts],
    }


def main() -> None:
    """Write the files, measure every way with an empty and with a full cache, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--folder", type=Path, help="keep the files in this folder, and use those that lie there")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--out", type=Path, help="write the report to this file, too")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder)))
        return
    folder = options.folder or Path(tempfile.mkdtemp())
    try:
        if not (folder / "ml-20m" / "movies.csv").exists():  # written last
            write_ratings(folder, options.rows)
        report = {"rows": options.rows, "cores": os.cpu_count(), "runs": []}
        with tempfile.TemporaryDirectory() as cache:
            env = os.environ | {"VAECF_DATA": str(folder), "VAECF_CACHE": cache}
            for way in options.ways:
                for state in ("empty", "full"):
                    command = [sys.executable, __file__, "--folder", str(folder), "--measure", way]
                    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, check=True)
                    report["runs"].append({"cache": state} | json.loads(done.stdout))
                    print(json.dumps(report["runs"][-1]), file=sys.stderr, flush=True)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
