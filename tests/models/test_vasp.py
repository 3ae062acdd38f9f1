"""VASP: its losses against plain NumPy, the halves of the clicks, B without a diagonal, and its memory."""

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.data import Batch
from vaecf_lib.maths import LIKELIHOODS
from vaecf_lib.models.vasp import focal_loss, halves

SMALL = {"latent_dim": 3, "hidden": 4, "layers": 3, "decoder_layers": 2}


def clicks(n_users=6, n_items=20):
    x = (torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    x[2], x[4] = 0, 0
    x[4, 7] = 1
    return x


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


@pytest.mark.parametrize("likelihood", ["focal", "multinomial", "bernoulli", "n_choose_k"])
def test_loss_and_scores_equal_plain_numpy(likelihood):
    torch.manual_seed(0)
    model = vc.models.VASP(20, likelihood=likelihood, beta=0.6, alpha=0.3, gamma=1.5, **SMALL)
    for p in model.parameters():
        torch.nn.init.normal_(p, 0.1, 0.5)
    model.forget_identity()
    w = {name: p.detach().double().numpy() for name, p in model.state_dict().items()}
    batch = Batch.from_dense(clicks())
    torch.manual_seed(7)
    loss, terms = model.loss(batch, 0.5)
    torch.manual_seed(7)
    inputs, targets = halves(batch)
    noise = torch.randn(12, 3).double().numpy()

    def linear(name, h):
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def skip(name, a, n):
        h = []
        for at in range(n):
            a = a if at == 0 else linear(f"{name}.layers.{at - 1}", h[-1]) + sum(h)
            s = a * sigmoid(a)
            s = (s - s.mean(-1, keepdims=True)) / np.sqrt(s.var(-1, keepdims=True) + 1e-3)
            h.append(s * w[f"{name}.norms.{at}.weight"] + w[f"{name}.norms.{at}.bias"])
        return h[-1]

    def encode(x):
        h = skip("encoder", x @ w["input.weight"] + w["input.bias"], 3)
        return linear("mu", h), linear("logvar", h)

    def click(z, x):
        deep = sigmoid(linear("output", skip("decoder", linear("first", z), 2))) * sigmoid(linear("output_of_z", z))
        return deep * sigmoid(x @ w["B"])

    x, y = inputs.dense().double().numpy(), targets.dense().double().numpy()
    mu, logvar = encode(x)
    p = click(mu + np.exp(logvar / 2) * noise, x)
    if likelihood == "focal":
        right = np.where(y == 1, p, 1 - p)
        distortion = -(np.where(y == 1, 0.3, 0.7) * (1 - right) ** 1.5 * np.log(right)).sum(1)
    else:
        log_odds, target = torch.from_numpy(np.log(p / (1 - p))), torch.from_numpy(y)
        distortion = -LIKELIHOODS[likelihood](log_odds, target).numpy()
    kl = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar)
    assert terms["distortion"].item() == pytest.approx(distortion.mean(), rel=1e-5)
    assert terms["rate"].item() == pytest.approx(kl.sum(1).mean(), rel=1e-5)
    assert loss.item() == pytest.approx(distortion.mean() + 0.6 * kl.mean(), rel=1e-5)
    whole = clicks().double().numpy()
    scores = model.eval().scores(batch).detach().numpy()
    assert np.allclose(scores, np.log(click(encode(whole)[0], whole)), rtol=1e-4, atol=1e-5)


def test_the_focal_loss_without_focus_is_half_the_bernoullis():
    """With gamma 0 and alpha 1/2, to which the log-odds of one product of probabilities also lead."""
    logits, x = torch.randn(6, 20, generator=torch.Generator().manual_seed(1)), clicks()
    got = focal_loss(torch.nn.functional.logsigmoid(logits), Batch.from_dense(x), 0.5, 0.0)
    assert torch.allclose(got, -0.5 * vc.maths.bernoulli_log_prob(logits, x), rtol=1e-5)


def test_every_click_is_input_once_and_target_once():
    x = clicks()
    batch = Batch.from_dense(x)
    torch.manual_seed(0)
    inputs, targets = halves(batch)
    one, other = inputs.dense(), targets.dense()
    assert len(inputs) == len(targets) == 12 and torch.equal(one[:6], other[6:]) and torch.equal(one[6:], other[:6])
    assert torch.equal(one + other, x.repeat(2, 1)), "the halves have nothing in common and make up the whole"
    assert torch.equal(inputs.counts[:6], batch.counts // 2) and torch.equal(one.sum(1).long(), inputs.counts)
    assert torch.equal(targets.counts, other.sum(1).long())
    assert (inputs.rows.diff() >= 0).all() and (targets.rows.diff() >= 0).all()
    assert not torch.equal(halves(batch)[0].dense(), one), "drawn anew"


def test_each_click_is_as_often_in_either_half():
    batch = Batch.from_dense(torch.ones(1, 8))
    torch.manual_seed(0)
    share = torch.stack([halves(batch)[0].dense()[0] for _ in range(2000)]).mean(0)
    assert (share - 0.5).abs().max() < 5 * 0.5 / 2000**0.5


def test_no_item_ever_predicts_itself(planted_split):
    model = vc.models.VASP(planted_split.n_items, **SMALL)
    assert not model.B.diagonal().any() and model.B.any()
    trainer = vc.Trainer(model, planted_split, epochs=1, device="cpu")
    for number, batch in trainer.updates():
        trainer.step(batch, number)
        trainer.model.loss(batch, 0.5)
        assert not model.B.diagonal().any()
    assert not model.B.diagonal().any()
    vc.fit(model, planted_split, epochs=1, device="cpu", progress=False)
    assert not model.B.diagonal().any() and model.B.abs().sum() > 0


def test_the_loss_is_finite_where_all_is_sure():
    """Logits so large that a float32 probability is one: the opposite's logarithm and its gradient stay finite."""
    model = vc.models.VASP(20, **SMALL)
    with torch.no_grad():
        for p in (model.output.bias, model.output_of_z.bias, model.B):
            p.fill_(200.0)
    for likelihood in ("focal", "n_choose_k"):
        model.config["likelihood"] = likelihood
        loss, _ = model.loss(Batch.from_dense(clicks()), 0.5)
        loss.backward()
        assert torch.isfinite(loss) and all(p.grad.isfinite().all() for p in model.parameters())


def test_a_catalogue_too_large_is_refused_before_anything_is_allocated():
    with pytest.raises(vc.ConfigError, match=r"^vasp needs 1\.6e\+04 GB for 1,000,000 items"):
        vc.models.VASP(1_000_000)
    with pytest.raises(
        vc.ConfigError, match=r"^vasp needs 0\.016 GB for 1,000 items, more than memory_gb=0\.01: raise"
    ):
        vc.models.VASP(1000, memory_gb=0.01)
