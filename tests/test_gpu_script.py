"""benchmarks/gpu.sh, which nobody can try before the forty minutes that it is for: rehearsed on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def rehearse(folder, *arguments):
    command = ["sh", str(ROOT / "benchmarks" / "gpu.sh"), "--rehearse", "--out", str(folder), *arguments]
    env = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_every_step_runs_and_is_kept(tmp_path):
    """From end to end with tiny sizes; then only what is missing is made, and a step that fails does not fail the rest."""
    done = rehearse(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert not [step for step, result in summary.items() if "FAILED" in result], done.stdout + done.stderr
    assert summary["book likelihoods planted 0"].startswith("1 of ")
    assert list((tmp_path / "measured").glob("planted.*popularity*.json"))

    missing, kept, broken = (tmp_path / f"{step}.json" for step in ("evaluation", "recvae-fp32", "waits"))
    missing.unlink()
    broken.unlink()
    broken.mkdir()  # in the way of the step's result
    before = kept.stat().st_mtime_ns
    done = rehearse(tmp_path)
    assert done.returncode == 1 and "waits: FAILED" in done.stdout
    assert missing.exists() and kept.stat().st_mtime_ns == before


@pytest.mark.slow
def test_without_time_nothing_is_begun(tmp_path):
    done = rehearse(tmp_path, "--minutes", "0")
    assert done.returncode == 0 and "no time" in done.stdout
    assert [path.name for path in tmp_path.glob("*.json")] == ["summary.json"]
