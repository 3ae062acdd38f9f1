"""The benchmark runs and its parts are what they say; nothing is timed against a limit."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.lab import bench

ROOT = Path(__file__).resolve().parents[2]


def load_peer():
    spec = importlib.util.spec_from_file_location("dense", ROOT / "benchmarks" / "dense.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_synthetic_matrix_has_the_stated_shape():
    matrix = bench.synthetic(2000, 20_108)
    assert matrix.shape == (2000, 20_108)
    assert abs(matrix.nnz / 2000 - bench.POSITIVES) < 5


def test_the_peer_is_the_same_model(planted_split):
    """With the same weights and noise, dropout off, the peer's loss is ours."""
    peer = load_peer().DenseMultVAE(planted_split.n_items, 8, 20).eval()
    ours = vc.models.MultVAE(planted_split.n_items, latent_dim=8, hidden=20, beta=0.2, anneal=0.0).eval()
    with torch.no_grad():
        ours.encoder.input.weight.copy_(peer.q1.weight.T)
        ours.encoder.input.bias.copy_(peer.q1.bias)
        layers = (ours.encoder.posterior, ours.decoder.hidden, ours.decoder.output)
        for mine, theirs in zip(layers, (peer.q2, peer.p1, peer.p2), strict=True):
            mine.load_state_dict(theirs.state_dict())
    batch = planted_split.train.rows(torch.arange(64))
    torch.manual_seed(0)
    expected = peer.loss(batch.dense(), 0.2)
    torch.manual_seed(0)
    assert torch.isclose(ours.loss(batch, 1.0)[0], expected, rtol=1e-5)


def test_both_losses_fall():
    train = bench.synthetic(1000, 300, positives=20)
    for steps in (bench.our_steps(train, 30), load_peer().train_steps(train, 30)):
        losses = [float(loss) for loss in steps]
        assert len(losses) == 30 and losses[-1] < losses[0]


@pytest.mark.slow
def test_report(tmp_path):
    command = ["bench", "--users", "1000", "--items", "200", "--pairs", "1", "--against", "dense", "--growth"]
    done = subprocess.run([sys.executable, "-m", "vaecf_lib", *command], capture_output=True, text=True, cwd=ROOT)
    report = json.loads(done.stdout)
    assert {"ours", "dense"} == set(report["users_per_second"]) == set(report["peak_memory_mb"])
    assert report["ratio_to_dense"]["median"] > 0 and 0 < report["share_of_floor"]
    assert len(report["growth"]) == 4
