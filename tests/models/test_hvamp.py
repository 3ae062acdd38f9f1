"""H+Vamp: its loss against plain NumPy, its prior, what is dropped out, its first weights."""

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.data import Batch
from vaecf_lib.maths import LIKELIHOODS

SMALL = {"latent_dim": 3, "hidden": 4, "pseudo_inputs": 5}


def clicks(n_users=6, n_items=20):
    x = (torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    x[2] = 0
    return x


def log_normal(z, mu, logvar):
    return (-0.5 * ((z - mu) ** 2 / np.exp(logvar) + logvar + np.log(2 * np.pi))).sum(-1)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("likelihood", ["multinomial", "n_choose_k"])
def test_loss_and_scores_equal_plain_numpy(layers, gated, likelihood):
    torch.manual_seed(0)
    model = vc.models.HVamp(
        20, layers=layers, gated=gated, likelihood=likelihood, dropout=0.0, beta=0.7, anneal=0.0, **SMALL
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, 0.3, 0.5)
    w = {name: p.detach().double().numpy() for name, p in model.state_dict().items()}
    x = clicks()
    torch.manual_seed(7)
    loss, terms = model.loss(Batch.from_dense(x), 0.5)
    torch.manual_seed(7)
    noise = [torch.randn(6, 3).double().numpy() for _ in range(2)]  # of z2, then of z1

    def act(a):
        if not gated:
            return np.tanh(a)
        h, g = np.split(a, 2, axis=-1)
        return h / (1 + np.exp(-g))

    def linear(name, h):
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def net(name, h):
        while f"{name}.layers.{(at := net.at)}.linear.weight" in w:
            h, net.at = act(linear(f"{name}.layers.{at}.linear", h)), at + 1
        net.at = 0
        mu, logvar = np.split(linear(f"{name}.head", h), 2, axis=-1)
        return mu, np.clip(logvar, -12, 4)

    net.at = 0

    def q_z2(inputs):
        return net("q_z2", act(inputs @ w["input_z2.weight"] + w["input_z2.bias"]))

    unit = x.double().numpy() / np.sqrt(np.maximum(x.sum(1, keepdim=True).double().numpy(), 1))

    def q_z1(z2):
        mine = act(unit @ w["input_z1.weight"] + w["input_z1.bias"])
        return net("q_z1", np.concatenate([mine, act(linear("z2_for_q_z1.linear", z2))], -1))

    def logits(z1, z2):
        h = np.concatenate([act(linear(f"decoder.{name}.linear", z)) for name, z in (("z1", z1), ("z2", z2))], -1)
        for at in range(layers - 1):
            h = act(linear(f"decoder.joint.{at}.linear", h))
        return linear("decoder.output", h)

    mu2, logvar2 = q_z2(unit)
    z2 = mu2 + np.exp(logvar2 / 2) * noise[0]
    mu1, logvar1 = q_z1(z2)
    z1 = mu1 + np.exp(logvar1 / 2) * noise[1]
    pseudo = q_z2(np.clip(w["pseudo"], 0, 1))
    log_prior = np.logaddexp.reduce([log_normal(z2, m, v) for m, v in zip(*pseudo, strict=True)]) - np.log(5)
    rate = log_normal(z2, mu2, logvar2) + log_normal(z1, mu1, logvar1) - log_prior - log_normal(z1, *net("p_z1", z2))
    distortion = -LIKELIHOODS[likelihood](torch.from_numpy(logits(z1, z2)), x.double()).numpy()
    assert terms["distortion"].item() == pytest.approx(distortion.mean(), rel=1e-5)
    assert terms["rate"].item() == pytest.approx(rate.mean(), rel=1e-4)
    assert loss.item() == pytest.approx((distortion + 0.7 * rate).mean(), rel=1e-4)
    expected = logits(q_z1(mu2)[0], mu2)
    assert np.allclose(model.eval().scores(Batch.from_dense(x)).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-9), (torch.float32, 5e-3)])
def test_the_vamp_prior_is_the_mixture(dtype, within):
    """By products as component by component, also for narrow components far from the origin."""
    generator = torch.Generator().manual_seed(0)
    mu = 5 + torch.randn(7, 20, generator=generator, dtype=torch.float64)
    logvar = torch.empty(7, 20, dtype=torch.float64).uniform_(-6, 2, generator=generator)
    z = mu[torch.arange(30) % 7] + torch.randn(30, 20, generator=generator, dtype=torch.float64) * 0.3
    expected = vc.maths.gaussian_mixture_log_prob(z, mu[:, None], logvar[:, None])
    got = vc.maths.vamp_prior_log_prob(*(part.to(dtype) for part in (z, mu, logvar)))
    assert torch.allclose(got.double(), expected, rtol=within / 10, atol=within)


def test_the_vamp_priors_digits_survive_mixed_precision():
    z, mu, logvar = torch.randn(4, 9), torch.randn(5, 9), torch.randn(5, 9) - 3
    exact = vc.maths.vamp_prior_log_prob(z, mu, logvar)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vc.maths.vamp_prior_log_prob(z, mu, logvar), exact)


def test_users_and_pseudo_users_are_dropped_out_in_training_alone():
    model = vc.models.HVamp(20, dropout=0.9, **SMALL)
    batch, z2 = Batch.from_dense(clicks()), torch.zeros(6, 3)
    for training in (True, False):
        model.train(training)
        for call in (model.encode_z2, lambda b: model.encode_z1(b, z2), lambda b: (model.log_prior_z2(z2), None)):
            assert torch.equal(call(batch)[0], call(batch)[0]) != training


def test_first_weights_are_those_of_the_public_code():
    torch.manual_seed(0)
    model = vc.models.HVamp(500, latent_dim=50, hidden=80, pseudo_inputs=40)
    for weight, fan_in in (
        (model.input_z2.weight, 500), (model.input_z1.weight, 500), (model.q_z1.layers[0].linear.weight, 160),
        (model.p_z1.layers[0].linear.weight, 50), (model.decoder.output.weight, 80),
    ):  # fmt: skip
        assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.03)
    assert model.pseudo.mean().item() == pytest.approx(0.05, rel=0.01)
    assert model.pseudo.std().item() == pytest.approx(0.01, rel=0.03)
    before = {name: value.clone() for name, value in model.state_dict().items() if value.is_floating_point()}
    model.reset_parameters()
    drawn = [name for name in before if name not in ("rating_range",)]
    assert not any(torch.equal(model.state_dict()[name], before[name]) for name in drawn), "all drawn anew"
