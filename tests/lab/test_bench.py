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


def load_peer(name="dense"):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)
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


def test_the_peer_of_recvae_is_the_same_model(planted_split):
    """With the same weights and noise, dropout off, its loss is that of the encoder's passes here."""
    load_peer()
    peer = load_peer("dense_recvae").DenseRecVAE(planted_split.n_items, 8, 20).eval()
    ours = vc.models.RecVAE(planted_split.n_items, latent_dim=8, hidden=20).eval()
    with torch.no_grad():
        for mine, theirs in ((ours.encoder, peer.encoder), (ours.old_encoder, peer.old_encoder)):
            mine.input.weight.copy_(theirs.layers[0].weight.T)
            mine.input.bias.copy_(theirs.layers[0].bias)
            parts = [*mine.layers, *mine.norms, mine.mu, mine.logvar]
            for layer, other in zip(parts, [*theirs.layers[1:], *theirs.norms, theirs.mu, theirs.logvar], strict=True):
                layer.load_state_dict(other.state_dict())
        ours.decoder.output.load_state_dict(peer.decoder.state_dict())
        peer.old_encoder.mu.bias.add_(0.3)  # the prior's share is seen
        ours.old_encoder.mu.bias.add_(0.3)
    batch = planted_split.train.rows(torch.arange(64))
    torch.manual_seed(0)
    expected = peer.loss(batch.dense(), 0.0)
    torch.manual_seed(0)
    assert torch.isclose(ours.encoder_loss(batch, 1.0)[0], expected, rtol=1e-5)


def test_the_peer_of_recvae_learns():
    load_peer()
    losses = list(load_peer("dense_recvae").train_epochs(bench.synthetic(1000, 300, positives=20), 4))
    assert len(losses) == 4 and losses[-1] < losses[0]


def test_the_reference_evaluation_has_the_library_s_numbers():
    """benchmarks/evaluation.py times two ways to the same numbers; a wrong one would be the faster for it."""
    evaluation = load_peer("evaluation")
    heldout = evaluation.held_out(120, 300)
    model = evaluation.Given(300)
    model.given = evaluation.scores_of(heldout)
    history, targets = (evaluation.sparse.csr_matrix(part.to_scipy()) for part in (heldout.history, heldout.targets))
    ours = vc.evaluate(model, heldout, evaluation.METRICS, batch_size=50)
    theirs = evaluation.reference(model.given.numpy().copy(), history, targets)
    assert {name: value.mean for name, value in ours.items()} == pytest.approx(theirs, abs=1e-9)


def test_ratios_are_taken_turn_by_turn():
    """Load that comes and goes meets both of a turn: the ratio of the medians would be another."""
    rows = {"ours": (10, 100, 30), "before": (5, 100, 10)}
    runs = {name: [{"users_per_second": v, "memory_mb": 1} for v in values] for name, values in rows.items()}
    report = load_peer("paired").summary(runs)
    assert report["ratio_to_before"] == {"median": 2.0, "min": 1.0, "max": 3.0} and report["turns"] == 3
    assert report["users_per_second"] == {"ours": 30, "before": 10}


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
