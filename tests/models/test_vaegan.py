"""VAEGAN: all three losses against plain NumPy, the critic's optimum, the mask, the Gram identity."""

import math

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.data import Batch
from vaecf_lib.maths import gaussian_kl, gaussian_log_prob

SMALL = {"latent_dim": 5, "hidden": 8, "noise_dim": 3, "critic_hidden": 4, "dropout": 0.0}


def clicks(n_users=6, n_items=40, seed=0):
    x = (torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(seed)) < 0.3).float()
    x[2] = 0
    return x


def rough(**options):
    torch.manual_seed(0)
    model = vc.build("vaegan-avb-d-c", 40, **(SMALL | options))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def elu(a):
    return np.where(a > 0, a, np.expm1(np.minimum(a, 0)))


class Plain:
    """The three networks in NumPy, one user at a time."""

    def __init__(self, model):
        self.w = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
        self.config = model.config

    def linear(self, name, h):
        return self.w[f"{name}.weight"] @ h + self.w.get(f"{name}.bias", 0.0)

    def sparse(self, name, row):
        length = np.sqrt((row**2).sum())
        return (row / length if length else row) @ self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def encode(self, row, first, second):
        x = self.sparse("input", row)
        if self.config["injection"] == "learned":
            h = np.tanh(x + self.linear("inject.0", first))
            z = self.linear("code", h) + self.linear("inject.1", second)
        else:
            h = np.tanh(x + first @ self.w["input.weight"])
            z = self.linear("code", h + second)
        return (np.tanh(z) if self.config["code"] == "tanh" else z), h

    def logits(self, z):
        return self.linear("decoder.output", np.tanh(self.linear("decoder.hidden", z)))

    def t(self, row, z):
        h = elu(self.sparse("posterior_critic.input", row) + self.linear("posterior_critic.code", z))
        return self.linear("posterior_critic.output", elu(self.linear("posterior_critic.hidden", h)))[0] + z @ z / 2

    def d(self, row, v, eps):
        h = np.tanh(self.sparse("click_critic.condition.input", row))
        heads = self.linear("click_critic.condition.posterior", h)
        z_c = heads[:5] + np.exp(heads[5:] / 2) * eps
        length = np.sqrt(row.sum()) or 1.0
        clicks = v / length @ self.w["click_critic.input.weight"] + self.w["click_critic.input.bias"]
        return self.linear("click_critic.output", elu(clicks + self.linear("click_critic.code", z_c)))[0]

    def jacobian(self, z, h):
        inner = np.diag(1 - h**2) @ self.w["code.weight"].T
        return self.w["input.weight"] @ inner @ (np.diag(1 - z**2) if self.config["code"] == "tanh" else np.eye(5))


def noise_like(model, n=6):
    sizes = (3, 3) if model.config["injection"] == "learned" else (40, 8)
    std = 1.0 if model.config["injection"] == "learned" else model.config["noise_std"]
    return [std * torch.randn(1, n, size)[0].double().numpy() for size in sizes]


@pytest.mark.parametrize("options", [{}, {"injection": "additive", "code": "tanh"}], ids=["default", "printed"])
def test_losses_equal_plain_numpy(options):
    model = rough(alpha=0.6, anneal=0.5, beta=0.7, gamma=0.01, **options)
    x, plain = clicks(), Plain(model)
    batch, rows = Batch.from_dense(x), x.double().numpy()

    torch.manual_seed(7)
    loss, _ = model.loss(batch, progress=0.25)
    torch.manual_seed(7)
    first, second = noise_like(model)
    eps = torch.randn(6, 5).double().numpy()
    total = 0.0
    for row, a, b, e in zip(rows, first, second, eps, strict=True):
        z, h = plain.encode(row, a, b)
        eta = plain.logits(z)
        distortion = np.logaddexp(0, eta).sum() - row @ eta
        fooled = -np.logaddexp(0, -plain.d(row, row / (1 + np.exp(-eta)), e))
        total += distortion + 0.3 * plain.t(row, z) - 0.7 * fooled + 0.01 * (plain.jacobian(z, h) ** 2).sum()
    assert loss.item() == pytest.approx(total / 6, rel=1e-5)

    torch.manual_seed(8)
    loss, _ = model.posterior_critic_loss(batch, 0.0)
    torch.manual_seed(8)
    first, second = noise_like(model)
    prior = torch.randn(6, 5).double().numpy()
    total = 0.0
    for row, a, b, p in zip(rows, first, second, prior, strict=True):
        z, _ = plain.encode(row, a, b)
        total += np.logaddexp(0, -plain.t(row, z)) + np.logaddexp(0, plain.t(row, p))
    assert loss.item() == pytest.approx(total / 6, rel=1e-5)

    torch.manual_seed(9)
    loss, _ = model.click_critic_loss(batch, 0.0)
    torch.manual_seed(9)
    first, second = noise_like(model)
    eps_real, eps_fake = (torch.randn(6, 5).double().numpy() for _ in range(2))
    total = 0.0
    for row, a, b, real, fake in zip(rows, first, second, eps_real, eps_fake, strict=True):
        eta = plain.logits(plain.encode(row, a, b)[0])
        total += np.logaddexp(0, -plain.d(row, row, real))
        total += np.logaddexp(0, plain.d(row, row / (1 + np.exp(-eta)), fake))
    assert loss.item() == pytest.approx(total / 6, rel=1e-5)


class GaussianPosterior(vc.models.VAEGAN):
    """A posterior that is known: user 0 has N(1.5, 0.5^2), user 1 has N(-1, 1), user 2 the prior."""

    mu, logvar = torch.tensor([[1.5], [-1.0], [0.0]]), torch.tensor([[0.25], [1.0], [1.0]]).log()

    def encode(self, batch, noise):
        users = batch.items  # user u clicked item u alone
        eps = torch.randn(len(noise[0]), len(batch), 1)
        return self.mu[users] + torch.exp(0.5 * self.logvar[users]) * eps, None


def train_critic(contrast, steps):
    torch.manual_seed(0)
    model = GaussianPosterior(3, latent_dim=1, hidden=8, critic_hidden=32, contrast=contrast, beta=0.0, gamma=0.0)
    optimiser = torch.optim.Adam(model.posterior_critic.parameters(), lr=5e-3)
    slower = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, steps)
    batch = Batch.from_dense(torch.eye(3).repeat(700, 1))
    for _ in range(steps):
        optimiser.zero_grad()
        model.posterior_critic_loss(batch, 0.0)[0].backward()
        optimiser.step()
        slower.step()
    return model


@pytest.mark.slow
def test_critic_approaches_the_log_ratio():
    model = train_critic(contrast=False, steps=800)
    with torch.no_grad():
        z = torch.linspace(-1.5, 1.5, 13)
        for user in range(3):
            batch = Batch.from_dense(torch.eye(3)[[user] * 13])
            mu, logvar = model.mu[[user] * 13], model.logvar[[user] * 13]
            at = (mu + torch.exp(0.5 * logvar) * z[:, None]).clamp(-2, 2)
            expected = gaussian_log_prob(at, mu, logvar) - gaussian_log_prob(at, 0 * at, 0 * at)
            assert (model.divergence(batch, at) - expected).abs().max() < 0.45
        batch = Batch.from_dense(torch.eye(3).repeat(20_000, 1))
        z = model.encode(batch, (torch.zeros(1, 1),))[0][0]
        means = model.divergence(batch, z).reshape(-1, 3).mean(0)
        assert torch.allclose(means, gaussian_kl(model.mu, model.logvar), atol=0.12)


@pytest.mark.slow
def test_adaptive_contrast_on_a_gaussian():
    model = train_critic(contrast=True, steps=250)
    batch = Batch.from_dense(torch.eye(3).repeat(2000, 1))
    mu, logvar = model.mu.repeat(2000, 1), model.logvar.repeat(2000, 1)
    with torch.no_grad():
        z = model.encode(batch, (torch.zeros(1, 1),))[0][0]
        means = model.divergence(batch, z, (mu, logvar)).reshape(-1, 3).mean(0)
    assert torch.allclose(means, gaussian_kl(model.mu, model.logvar), atol=0.12)


def test_critic_that_cannot_tell_pays_two_log_two():
    model = rough()
    torch.nn.init.zeros_(model.posterior_critic.output.weight)
    torch.nn.init.zeros_(model.posterior_critic.output.bias)
    model.posterior_critic.forward = lambda batch, z: torch.zeros(len(batch))
    assert model.posterior_critic_loss(Batch.from_dense(clicks()), 0.0)[0].item() == pytest.approx(2 * math.log(2))


def test_click_critic_is_silent_off_the_clicks():
    model, x = rough(), clicks()
    batch, logits = Batch.from_dense(x), torch.randn(6, 40, requires_grad=True)
    score = torch.nn.functional.logsigmoid(model.click_critic(batch, model.reconstruct(batch, logits))).sum()
    (gradient,) = torch.autograd.grad(score, logits)
    assert (gradient[x == 0] == 0).all() and (gradient[x == 1] != 0).all()


@pytest.mark.parametrize("code", ["linear", "tanh"])
def test_gram_identity_equals_autograds_jacobian(code):
    model = rough(code=code).double()
    row = torch.rand(40, dtype=torch.float64)
    noise = [torch.randn(1, 1, 3, dtype=torch.float64) for _ in range(2)]

    def z_of(x):  # the network's input is x itself here: neither normalised nor dropped out
        hidden = torch.tanh(x @ model.input.weight + model.input.bias + model.inject[0](noise[0][0, 0]))
        z = model.code(hidden) + model.inject[1](noise[1][0, 0])
        return torch.tanh(z) if code == "tanh" else z

    jacobian = torch.autograd.functional.jacobian(z_of, row)
    hidden = torch.tanh(row @ model.input.weight + model.input.bias + model.inject[0](noise[0][0, 0]))
    ours = model.contraction(z_of(row)[None], hidden[None])
    assert jacobian.shape == (5, 40)
    assert torch.allclose(ours[0], (jacobian**2).sum())


@pytest.mark.slow
def test_contraction_makes_codes_less_sensitive(planted_split):
    moved = []
    for gamma in (0.0, 0.1):
        model = vc.build(
            "vaegan-avb-d-c", planted_split.n_items, latent_dim=16, hidden=50, beta=0.0, gamma=gamma, lr=0.004
        )
        vc.fit(model, planted_split, epochs=8, batch_size=50, device="cpu", progress=False)
        rows = planted_split.test.history.rows(torch.arange(100)).dense()
        torch.manual_seed(0)
        fewer = rows * (torch.rand_like(rows) > 0.2)
        with torch.no_grad():
            codes = [model.encode(Batch.from_dense(x), model.scoring_noise)[0].mean(0) for x in (rows, fewer)]
        moved.append((codes[0] - codes[1]).norm(dim=1).mean())
    assert moved[1] < 0.7 * moved[0]


def test_players_take_turns_on_every_batch(planted_split):
    phases = vc.build("vaegan-avb-d-c", planted_split.n_items, **SMALL).phases()
    assert [phase.name for phase in phases] == ["T", "D", "G"] and {phase.per for phase in phases} == {"batch"}
    assert [phase.name for phase in vc.build("vaegan-avb", planted_split.n_items, **SMALL).phases()] == ["T", "G"]


def test_critics_have_their_own_adam():
    """Critics learn with ``critic_lr`` and beta_1 = 0.5, encoder and decoder with ``lr`` and Adam's own betas."""
    settings = {}
    for phase in vc.build("vaegan-avb-d-c", 40, critic_lr=0.03, lr=0.002, **SMALL).phases():
        (group,) = torch.optim.Adam(phase.parameters, lr=phase.lr).param_groups
        settings[phase.name] = (phase.optimiser, group["lr"], group["betas"])
    critic = ("adam", 0.03, (0.5, 0.999))
    assert settings == {"T": critic, "D": critic, "G": ("adam", 0.002, (0.9, 0.999))}


def test_alpha_is_annealed_from_zero():
    model, batch = rough(alpha=0.2, anneal=0.5), Batch.from_dense(clicks())
    assert [round(model.loss(batch, p)[1]["alpha"], 3) for p in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.1, 0.2, 0.2]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"contrast": True}, {"injection": "additive"}, {"code": "tanh"}])
def test_readings_of_the_paper_train(planted_split, options):
    model = vc.build("vaegan-avb-d-c", planted_split.n_items, latent_dim=8, hidden=20, lr=0.004, **options)
    run = vc.fit(model, planted_split, epochs=3, batch_size=50, device="cpu", progress=False)
    assert run.curve("G/distortion")[-1] < run.curve("G/distortion")[0]


def test_bad_options_are_named():
    with pytest.raises(vc.ConfigError, match="injection='none': choose one of learned, additive"):
        vc.build("vaegan-avb", 40, injection="none")
    with pytest.raises(vc.ConfigError, match="vaegan-avb: gamma=-1: must be"):
        vc.build("vaegan-avb", 40, gamma=-1)


@pytest.mark.parametrize("injection", ["learned", "additive"])
def test_scores_are_those_of_the_mean_code(injection):
    """Over all sixteen draws kept for scoring, or at no noise where it is added."""
    model = rough(injection=injection).eval()
    plain, x = Plain(model), clicks()
    if injection == "learned":
        draws = model.scoring_noise[:, :, 0].double().numpy().swapaxes(0, 1)
        assert draws.shape == (16, 2, 3)
    else:
        draws = [(np.zeros(40), np.zeros(8))]
    codes = [[plain.encode(row, *noise)[0] for noise in draws] for row in x.double().numpy()]
    with torch.no_grad():
        scores = model.scores(Batch.from_dense(x))
    np.testing.assert_allclose(scores, [plain.logits(np.mean(z, axis=0)) for z in codes], rtol=1e-4, atol=1e-5)
