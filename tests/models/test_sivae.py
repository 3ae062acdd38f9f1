"""SIVAE: the surrogate bound against plain NumPy and against an ELBO that is known."""

import itertools

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.data import Batch
from vaecf_lib.maths import gaussian_log_prob, gaussian_mixture_log_prob


def clicks(n_users=6, n_items=40, seed=0):
    x = (torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(seed)) < 0.3).float()
    x[2] = 0
    return x


@pytest.mark.parametrize("layers", [1, 3])
def test_loss_equals_plain_numpy(layers):
    torch.manual_seed(0)
    model = vc.models.SIVAE(
        40, latent_dim=5, hidden=8, layers=layers, noise_dim=3, n_mixing=2, beta=0.6, anneal=0.5, dropout=0.0
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.4)
    x = clicks()
    torch.manual_seed(7)
    loss, terms = model.loss(Batch.from_dense(x), progress=0.25)
    torch.manual_seed(7)
    noise = torch.randn(layers, 3, 6, 3).double().numpy()
    final = torch.randn(6, 5).double().numpy()
    w = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    distortion = rate = 0.0
    for user, row in enumerate(x.double().numpy()):
        length = np.sqrt((row**2).sum())
        injected = (row / length if length else row) @ w["input.weight"] + w["input.bias"]
        psi = []
        for k in range(3):
            state = 0.0
            for t in range(layers):
                before = w[f"layers.{t - 1}.weight"] @ state if t else 0.0
                state = np.tanh(before + w[f"inject.{t}.weight"] @ noise[t, k, user] + injected[8 * t : 8 * t + 8])
            heads = w["posterior.weight"] @ state + w["posterior.bias"] + injected[8 * layers :]
            psi.append((heads[:5], heads[5:]))
        z = psi[0][0] + np.exp(psi[0][1] / 2) * final[user]
        density = [np.exp(-0.5 * ((z - m) ** 2 / np.exp(v) + v + np.log(2 * np.pi)).sum()) for m, v in psi]
        rate += (np.log(np.mean(density)) + 0.5 * (z**2 + np.log(2 * np.pi)).sum()) / len(x)
        eta = (
            w["decoder.output.weight"] @ np.tanh(w["decoder.hidden.weight"] @ z + w["decoder.hidden.bias"])
            + w["decoder.output.bias"]
        )
        distortion += (row.sum() * np.logaddexp.reduce(eta) - row @ eta) / len(x)
    assert terms["distortion"].item() == pytest.approx(distortion, rel=1e-5)
    assert loss.item() == pytest.approx(distortion + 0.3 * rate, rel=1e-5)


def surrogate(n_mixing, own=True, draws=40_000):
    """E[log p(z) - log mean_k q(z|psi_k)] for psi ~ N(0.5, 1), z ~ N(psi, 0.3^2), p = N(0, 1); mean and error."""
    generator = torch.Generator().manual_seed(n_mixing)
    psi = 0.5 + torch.randn(n_mixing + 1, draws, 1, generator=generator, dtype=torch.float64)
    logvar = torch.full_like(psi, 2 * np.log(0.3))
    z = psi[0] + 0.3 * torch.randn(draws, 1, generator=generator, dtype=torch.float64)
    first = 0 if own else 1
    value = gaussian_log_prob(z, torch.zeros_like(z), torch.zeros_like(z))
    value = value - gaussian_mixture_log_prob(z, psi[first:], logvar[first:])
    return value.mean().item(), value.std().item() / draws**0.5


def known_elbo():
    """-KL[N(0.5, 1 + 0.09) || N(0, 1)], the ELBO's part that the surrogate replaces."""
    return -0.5 * (0.25 + 1.09 - 1 - np.log(1.09))


def test_surrogate_rises_with_k_to_the_elbo():
    values = [surrogate(k) for k in (0, 1, 3, 10, 50, 200)]
    for (low, error), (high, _) in itertools.pairwise(values):
        assert low < high + 3 * error
    assert values[0][0] < known_elbo() - 0.5
    assert all(value < known_elbo() + 4 * error for value, error in values)
    assert values[-1][0] > known_elbo() - 0.03


def test_without_its_own_component_it_is_an_upper_bound():
    for k in (1, 10, 50):
        value, error = surrogate(k, own=False)
        assert value > known_elbo() + 4 * error


def test_x_enters_once_whatever_the_number_of_draws(planted_split):
    model = vc.models.SIVAE(planted_split.n_items, latent_dim=5, hidden=8, layers=3, n_mixing=7)
    seen = []
    model.input.register_forward_hook(lambda *args: seen.append(args[2].shape))
    model.loss(planted_split.train.rows(torch.arange(20)), 0.5)
    assert seen == [(20, 3 * 8 + 2 * 5)]


def test_scores_average_all_draws_of_the_noise():
    """The posterior's mean is that over all sixteen draws kept for scoring, drawn one by one here."""
    torch.manual_seed(0)
    model = vc.models.SIVAE(40, latent_dim=5, hidden=8, layers=2, dropout=0.0).eval()
    batch = Batch.from_dense(clicks())
    with torch.no_grad():
        means = [model.encode(batch, model.scoring_noise[:, [k]])[0][0] for k in range(16)]
        assert torch.allclose(model.scores(batch), model.decode(sum(means) / 16), atol=1e-5)
    assert model.scoring_noise.shape[1] == 16 and not torch.allclose(means[0], sum(means) / 16, atol=0.01)


def test_bernoulli_noise_and_bad_options():
    model = vc.models.SIVAE(40, latent_dim=5, hidden=8, noise="bernoulli")
    assert set(model.draw_noise(4, 5).unique().tolist()) == {0.0, 1.0}
    with pytest.raises(vc.ConfigError, match="noise='coins': choose one of gaussian, bernoulli"):
        vc.models.SIVAE(40, noise="coins")
    with pytest.raises(vc.ConfigError, match="layers=0"):
        vc.models.SIVAE(40, layers=0)
