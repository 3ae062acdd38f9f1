"""The reconstruction study: losses against plain NumPy, the VampPrior, the flow, the penalty."""

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.data import Batch
from vaecf_lib.maths import log_elementary_symmetric
from vaecf_lib.systems import build

SMALL = {"latent_dim": 5, "hidden": 8}
STUDY = ("vae-multinomial", "vae-logistic", "vae-vamp", "vae-iaf", "vae-reg", "vae-nck")


def clicks(n_users=6, n_items=40, seed=0):
    x = (torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(seed)) < 0.3).float()
    x[2] = 0
    return x


def log_normal(z, mu, logvar):
    return (-0.5 * ((z - mu) ** 2 / np.exp(logvar) + logvar + np.log(2 * np.pi))).sum()


def heads(w, row):
    length = np.sqrt((row**2).sum())
    h = np.tanh((row / length if length else row) @ w["encoder.input.weight"] + w["encoder.input.bias"])
    out = w["encoder.posterior.weight"] @ h + w["encoder.posterior.bias"]
    return out[:5], out[5:]


def flow_step(w, z):
    """Coordinate by coordinate, without masks: unit h may see z_j if h mod 4 >= j, output j may see it if j > h mod 4."""
    hidden = np.array(
        [
            np.tanh(sum(w["flow.inner.weight"][h, j] * z[j] for j in range(5) if h % 4 >= j) + w["flow.inner.bias"][h])
            for h in range(8)
        ]
    )
    gate, m = (
        np.array(
            [
                sum(w["flow.outer.weight"][at + j, h] * hidden[h] for h in range(8) if j > h % 4)
                + w["flow.outer.bias"][at + j]
                for j in range(5)
            ]
        )
        for at in (0, 5)
    )
    s = 1 / (1 + np.exp(-gate))
    return s * z + (1 - s) * m, np.log(s).sum()


@pytest.mark.parametrize("slug", STUDY)
@pytest.mark.parametrize("options", [{}, {"posterior": "iaf", "prior": "vamp", "beta": 0.7}], ids=["own", "both"])
def test_loss_equals_plain_numpy(slug, options):
    torch.manual_seed(0)
    model = build(slug, 40, anneal=0.5, dropout=0.0, **SMALL, **options)
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, 0.5 if name == "pseudo" else 0.0, 0.5)
    x = clicks()
    torch.manual_seed(7)
    loss, _ = model.loss(Batch.from_dense(x), progress=0.25)
    torch.manual_seed(7)
    noise = torch.randn(6, 5).double().numpy()
    w = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    config, total = model.config, 0.0
    assert config["beta"] == options.get("beta", 0.0 if slug in ("vae-multinomial", "vae-logistic") else 0.2)
    for row, eps in zip(x.double().numpy(), noise, strict=True):
        mu, logvar = heads(w, row)
        if config["prior"] == "vamp":
            logvar = np.clip(logvar, -12, 4)
        z = mu + np.exp(logvar / 2) * eps
        log_q, closed = log_normal(z, mu, logvar), 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).sum()
        if config["posterior"] == "iaf":
            z, log_det = flow_step(w, z)
            log_q -= log_det
        if config["prior"] == "vamp":
            parts = [heads(w, np.clip(u, 0, 1)) for u in w["pseudo"]]
            log_p = np.log(np.mean([np.exp(log_normal(z, m, np.clip(v, -12, 4))) for m, v in parts]))
        else:
            log_p = log_normal(z, 0.0, np.zeros(5))
        rate = closed if (config["posterior"], config["prior"]) == ("gaussian", "standard") else log_q - log_p
        eta = (
            w["decoder.output.weight"] @ np.tanh(w["decoder.hidden.weight"] @ z + w["decoder.hidden.bias"])
            + w["decoder.output.bias"]
        )
        k = int(row.sum())
        normaliser = {
            "multinomial": k * np.logaddexp.reduce(eta),
            "bernoulli": np.logaddexp(0, eta).sum(),
            "n_choose_k": log_elementary_symmetric(torch.tensor(eta), torch.tensor(k), "exact").item(),
        }[config["likelihood"]]
        total += (normaliser - row @ eta + config["beta"] * 0.5 * rate) / len(x)
    tolerance = 1e-3 if config["likelihood"] == "n_choose_k" else 1e-5  # the saddlepoint against the recurrence
    assert loss.item() == pytest.approx(total, rel=tolerance)


def test_the_exact_system_is_mult_vae_with_the_exact_likelihood(planted_split):
    ours = vc.build("vae-nck", planted_split.n_items, **SMALL)
    same = vc.models.MultVAE(planted_split.n_items, likelihood="n_choose_k", **SMALL)
    for model in (ours, same):
        vc.fit(model, planted_split, epochs=2, device="cpu", progress=False)
    for name, value in same.state_dict().items():
        assert torch.allclose(value, ours.state_dict()[name], atol=1e-6)


def test_vamp_prior_integrates_to_one_and_trains_its_pseudo_inputs():
    torch.manual_seed(0)
    model = vc.build("vae-vamp", 40, latent_dim=1, hidden=8)
    for p in model.parameters():
        torch.nn.init.normal_(p, 0.3, 0.5)
    z = torch.linspace(-60, 60, 20_001)[:, None]
    assert abs(torch.trapezoid(model.log_prior(z).exp(), z[:, 0]).item() - 1) < 1e-3
    loss, _ = model.loss(Batch.from_dense(clicks()), 1.0)
    loss.backward()
    inside = (model.pseudo > 0) & (model.pseudo < 1)
    assert (model.pseudo.grad[inside] != 0).any() and (model.pseudo.grad[~inside] == 0).all()


def test_closed_form_and_one_sample_rates_agree():
    """With one pseudo-input whose posterior is N(0, I), the VampPrior is the standard prior."""
    torch.manual_seed(0)
    plain = vc.build("vae-multinomial", 40, dropout=0.0, **SMALL)
    vamp = vc.build("vae-vamp", 40, dropout=0.0, pseudo_inputs=1, **SMALL)
    vamp.load_state_dict(plain.state_dict(), strict=False)
    batch = Batch.from_dense(clicks()[:1])
    vamp.log_prior = lambda z: vc.maths.gaussian_log_prob(z, torch.zeros_like(z), torch.zeros_like(z))
    with torch.no_grad():
        closed = plain.sample(batch)[1].sum()
        drawn = torch.stack([vamp.sample(batch)[1][0, 0] for _ in range(4000)])
    assert abs(drawn.mean() - closed) < 4 * drawn.std() / 4000**0.5


def test_penalty_acts_as_its_gradient_on_weight_matrices_alone():
    model = vc.build("vae-reg", 40, **SMALL)
    penalised, others = model.phases()[0].parameters
    assert penalised["weight_decay"] == 2 * 0.01
    assert all(p.ndim == 2 for p in penalised["params"]) and len(penalised["params"]) == 4
    assert others.get("weight_decay", 0) == 0 and all(p.ndim == 1 for p in others["params"])


def test_pseudo_inputs_are_trained_and_not_penalised():
    """A VampPrior with a penalty: the pseudo-inputs are a matrix too, but data rather than weights."""
    model = vc.build("vae-vamp", 40, penalty=0.01, **SMALL)
    names = {p: name for name, p in model.named_parameters()}
    decay = [
        (names[p], group.get("weight_decay", 0)) for group in model.phases()[0].parameters for p in group["params"]
    ]
    layers = ("encoder.input", "encoder.posterior", "decoder.hidden", "decoder.output")
    matrices = {f"{layer}.weight" for layer in layers}
    assert sorted(decay) == sorted((name, 0.02 if name in matrices else 0) for name in names.values())


def test_scores_go_through_the_flow():
    """VAE-IAF ranks by the decoder's answer to the flow of mu, not to mu, where its decoder was never trained."""
    torch.manual_seed(0)
    model = vc.build("vae-iaf", 40, **SMALL).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    x = clicks()
    w = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    for row, ours in zip(x.double().numpy(), model.scores(Batch.from_dense(x)).detach().numpy(), strict=True):
        z, _ = flow_step(w, heads(w, row)[0])
        eta = (
            w["decoder.output.weight"] @ np.tanh(w["decoder.hidden.weight"] @ z + w["decoder.hidden.bias"])
            + w["decoder.output.bias"]
        )
        assert np.allclose(ours, eta, atol=1e-5)


def test_bad_options_are_named():
    with pytest.raises(vc.ConfigError, match="posterior='flow': choose one of gaussian, iaf"):
        vc.build("vae-iaf", 40, posterior="flow")
    with pytest.raises(vc.ConfigError, match="pseudo_inputs=0"):
        vc.build("vae-vamp", 40, pseudo_inputs=0)
