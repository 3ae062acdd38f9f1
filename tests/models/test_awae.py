"""aWAE: its loss against plain NumPy."""

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.data import Batch


def test_loss_equals_plain_numpy():
    torch.manual_seed(0)
    model = vc.models.AWAE(40, latent_dim=5, hidden=8, mmd=7.0, l1=0.3, dropout=0.0)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.4)
    x = (torch.rand(6, 40) < 0.3).float()
    torch.manual_seed(7)
    loss, _ = model.loss(Batch.from_dense(x), 0.0)
    torch.manual_seed(7)
    prior = torch.randn(6, 5).double().numpy()
    w = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    x = x.double().numpy()
    h = np.tanh(x / np.sqrt((x**2).sum(1, keepdims=True)) @ w["input.weight"] + w["input.bias"])
    z = h @ w["code.weight"].T + w["code.bias"]
    eta = (
        np.tanh(z @ w["decoder.hidden.weight"].T + w["decoder.hidden.bias"]) @ w["decoder.output.weight"].T
        + w["decoder.output.bias"]
    )
    distortion = (x.sum(1) * np.logaddexp.reduce(eta, axis=1) - (x * eta).sum(1)).mean()

    def k(a, b):
        return 10 / (10 + ((a[:, None] - b) ** 2).sum(-1))

    pairs = ~np.eye(6, dtype=bool)
    mmd = k(z, z)[pairs].mean() + k(prior, prior)[pairs].mean() - 2 * k(z, prior).mean()
    assert loss.item() == pytest.approx(distortion + 7 * mmd + 0.3 * np.abs(z).sum(1).mean(), rel=1e-5)


@pytest.mark.slow
def test_the_discrepancy_draws_the_codes_to_the_prior(planted_split):
    spread = {}
    for mmd in (0.0, 1000.0):
        model = vc.models.AWAE(planted_split.n_items, latent_dim=16, hidden=50, mmd=mmd, l1=0.0)
        run = vc.fit(model, planted_split, epochs=20, device="cpu", progress=False)
        spread[mmd] = run.curve("mmd")[-1]
    assert spread[1000.0] < 0.3 * spread[0.0]


@pytest.mark.slow
def test_l1_makes_small_codes(planted_split):
    norm = {}
    for l1 in (0.0, 1.0):
        model = vc.models.AWAE(planted_split.n_items, latent_dim=16, hidden=50, mmd=0.0, l1=l1)
        norm[l1] = vc.fit(model, planted_split, epochs=20, device="cpu", progress=False).curve("l1")[-1]
    assert norm[1.0] < 0.5 * norm[0.0]


def test_bad_options_are_named():
    with pytest.raises(vc.ConfigError, match="l1=-1"):
        vc.models.AWAE(40, l1=-1)
