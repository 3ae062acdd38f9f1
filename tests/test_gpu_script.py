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
    """From end to end with tiny sizes; then what failed is made again, and what is kept is not."""
    done = rehearse(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert not [step for step, result in summary.items() if "FAILED" in result], done.stdout + done.stderr
    assert summary["book likelihoods planted 0"].startswith("1 of ")
    assert list((tmp_path / "measured").glob("planted.*popularity*.json"))

    broken, whole = tmp_path / "evaluation.json", tmp_path / "recvae-fp32.json"
    broken.unlink()
    before = whole.stat().st_mtime_ns
    rehearse(tmp_path)
    assert broken.exists() and whole.stat().st_mtime_ns == before


@pytest.mark.slow
def test_without_time_nothing_is_begun(tmp_path):
    done = rehearse(tmp_path, "--minutes", "0")
    assert done.returncode == 0 and "no time" in done.stdout
    assert [path.name for path in tmp_path.glob("*.json")] == ["summary.json"]


@pytest.mark.slow
def test_a_step_that_fails_does_not_fail_the_rest(tmp_path):
    """Here: a folder is in the way of one result."""
    (tmp_path / "waits.json").mkdir()
    done = rehearse(tmp_path, "--minutes", "0.5")
    assert done.returncode == 1 and "waits: FAILED" in done.stdout and (tmp_path / "resume.json").exists()
