"""Baselines for ratings: predictions and losses against plain NumPy, written from the papers' equations."""

import numpy as np
import pytest
import torch

from vaecf_lib.data import Interactions
from vaecf_lib.errors import ConfigError
from vaecf_lib.systems import build

X = np.random.default_rng(0).integers(1, 6, (6, 7)) * (np.random.default_rng(1).random((6, 7)) < 0.6)
X[2], X[:, 5] = 0, 0  # a user and an item without ratings
SEEN = X > 0
ORDER = [4, 2, 0, 5]  # the batch's users: not those of its rows


def made(slug, **options):
    """Return a system with weights that are far from their start, and a batch of its users, ready to predict."""
    matrix = Interactions.from_pairs(*X.nonzero(), X[SEEN], shape=X.shape)
    torch.manual_seed(0)
    model = build(slug, X.shape[1], **options)
    model.prepare(matrix)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return model.eval(), matrix.rows(torch.tensor(ORDER))


def numbers(model):
    return {name: p.detach().double().numpy() for name, p in model.named_parameters()}


def scores(model, batch):
    with torch.no_grad():
        return model.scores(batch).numpy()


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def unit(rows):
    """Rows divided by their L2 norm; a row of zeros stays one."""
    length = np.sqrt((rows**2).sum(-1, keepdims=True))
    return rows / np.where(length > 0, length, 1)


def means():
    """mu + b_i + b_u, each deviation drawn towards zero as by five ratings that have none; (users, items)."""
    overall = X.sum() / SEEN.sum()
    items = overall + (SEEN * (X - overall)).sum(0) / (SEEN.sum(0) + 5)
    return items + ((SEEN * (X - items)).sum(1) / (SEEN.sum(1) + 5))[:, None]


def kept(batch, dropout):
    """Return the mask that dropout draws next, (users, items): 0 or 1 / (1 - dropout)."""
    mask = torch.zeros(len(batch), X.shape[1])
    mask[batch.rows, batch.items] = torch.nn.functional.dropout(torch.ones(len(batch.items)), dropout)
    return mask.double().numpy()


def squares(predicted):
    """Return the squared errors on what the batch's users have rated, summed, per user of the batch."""
    return (SEEN[ORDER] * (X[ORDER] - predicted) ** 2).sum() / len(ORDER)


def loss_of(model, batch, progress=0.0):
    """Return the loss of training with the noise of seed 7, and start the same noise again."""
    torch.manual_seed(7)
    loss, _ = model.train().loss(batch, progress)
    torch.manual_seed(7)
    return loss.item()


# --- from embeddings ----------------------------------------------------------------------------------------------


def check_pairs(slug, predict, **options):
    """Compare predictions, and the mean over ratings of (r - r_hat)^2 + lambda (||p_u||^2 + ||q_i||^2)."""
    model, batch = made(slug, penalty=0.3, per_batch=9, **options)
    w = numbers(model)
    table = np.array([[predict(w, w["users.weight"][u], w["items.weight"][i]) for i in range(7)] for u in range(6)])
    assert np.allclose(scores(model, batch), table[ORDER], atol=1e-5)
    assert len(np.unique(table)) == table.size  # no two alike: no layer is dead
    pairs = next(iter(model.phases()[0].sweep.shuffled(0)))
    assert len(pairs.users) == 9
    users, items = pairs.users.numpy(), pairs.items.numpy()
    penalty = (w["users.weight"][users] ** 2).sum(1) + (w["items.weight"][items] ** 2).sum(1)
    expected = ((X[users, items] - table[users, items]) ** 2 + 0.3 * penalty).mean()
    assert loss_of(model, pairs) == pytest.approx(expected, rel=1e-5)
    assert len(model.phases()[0].parameters) == len(w) and all(torch.is_tensor(p) for p in model.phases()[0].parameters)


def test_biased_mf():
    """Koren, Bell and Volinsky 2009: mu + b_u + b_i + <p_u, q_i>, with a penalty on factors and biases."""
    check_pairs("biased-mf", lambda w, p, q: w["overall"] + p[-1] + q[-1] + p[:-1] @ q[:-1], latent_dim=3)


def test_ncf():
    """He et al. 2017, NeuMF: h^T [p_G * q_G; MLP(p_M, q_M)], each branch with embeddings of its own.

    Here the squared error of ratings asks for mu + instead of a sigmoid around.
    """

    def predict(w, p, q):
        hidden = np.concatenate([p[3:], q[3:]])
        for layer in ("mlp.0", "mlp.2"):
            hidden = np.maximum(w[f"{layer}.weight"] @ hidden + w[f"{layer}.bias"], 0)
        return w["overall"] + w["output.weight"][0] @ np.concatenate([p[:3] * q[:3], hidden])

    check_pairs("ncf", predict, latent_dim=3, widths=[5, 2])


def test_cnn_cf():
    """He et al. 2018, ConvNCF: w^T g(p_u q_i^T), g a stack of 2 x 2 convolutions that halve the map."""

    def predict(w, p, q):
        maps = np.outer(p, q)[None]
        for layer in ("convolutions.0", "convolutions.2"):
            filters, size = w[f"{layer}.weight"], maps.shape[1] // 2
            blocks = maps.reshape(len(maps), size, 2, size, 2)
            maps = np.einsum("ocde,cadbe->oab", filters, blocks) + w[f"{layer}.bias"][:, None, None]
            maps = np.maximum(maps, 0)
        return w["overall"] + w["output.weight"][0] @ maps[:, 0, 0]

    check_pairs("cnn-cf", predict, latent_dim=4, channels=12)


def test_cnn_cf_halves_down_to_one_number():
    """From two numbers up: one convolution is a system, none is not."""
    predicted = {k: made("cnn-cf", latent_dim=k)[0].ratings(torch.tensor([0]), torch.tensor([1])) for k in (2, 8)}
    assert all(rating.shape == (1,) for rating in predicted.values())
    for k in (1, 3, 6):
        with pytest.raises(ConfigError, match=rf"cnn-cf: latent_dim={k}: must be a power of two"):
            build("cnn-cf", 7, latent_dim=k)


# --- autoencoders -------------------------------------------------------------------------------------------------


def test_autorec_u():
    """Sedhain et al. 2015, U-AutoRec: W sigmoid(V r_u + mu) + b; the error on what the user has rated, squared."""
    model, batch = made("autorec-u", hidden=4)
    w = numbers(model)
    hidden = sigmoid(X[ORDER] @ w["input.weight"] + w["input.bias"])
    predicted = hidden @ w["output.weight"].T + w["output.bias"]
    assert np.allclose(scores(model, batch), predicted, atol=1e-5)
    assert loss_of(model, batch) == pytest.approx(squares(predicted), rel=1e-5)


def test_autorec_i():
    """Sedhain et al. 2015, I-AutoRec: the rows are items, r_ui = (W sigmoid(V r_i + mu) + b)_u."""
    model, batch = made("autorec-i", hidden=4, items_per_batch=3)
    model.encode_items()
    w = numbers(model)
    predicted = w["output.weight"] @ sigmoid(X.T @ w["input.weight"] + w["input.bias"]).T + w["output.bias"][:, None]
    assert np.allclose(scores(model, batch), predicted[ORDER], atol=1e-5)
    items = next(iter(model.phases()[0].sweep.shuffled(500)))
    which = items.users.numpy()
    assert len(which) == 3
    expected = (SEEN * (X - predicted) ** 2)[:, which].sum() / 3
    assert loss_of(model, items) == pytest.approx(expected, rel=1e-5)


def test_cdae():
    """Wu et al. 2016: W' sigmoid(W^T x~ + V_u + b) + b' with a node V_u for each user, x~ partly dropped.

    x~ is divided by its norm; what is predicted is the rest beyond the means.
    """
    model, batch = made("cdae", hidden=4, dropout=0.4)
    w = numbers(model)

    def predicted(mask):
        hidden = sigmoid((mask * unit(X[ORDER])) @ w["input.weight"] + w["input.bias"] + w["nodes.weight"][ORDER])
        return means()[ORDER] + hidden @ w["output.weight"].T + w["output.bias"]

    assert np.allclose(scores(model, batch), predicted(1), atol=1e-5)
    assert loss_of(model, batch) == pytest.approx(squares(predicted(kept(batch, 0.4))), rel=1e-5)


def test_dae_cf():
    """Liang et al. 2018, Mult-DAE with their Gaussian likelihood: 1/2 (r - r_hat)^2, r_hat from a tanh code."""
    model, batch = made("dae-cf", latent_dim=4, dropout=0.4)
    w = numbers(model)

    def predicted(mask):
        code = np.tanh((mask * unit(X[ORDER])) @ w["input.weight"] + w["input.bias"])
        return means()[ORDER] + code @ w["output.weight"].T + w["output.bias"]

    assert np.allclose(scores(model, batch), predicted(1), atol=1e-5)
    assert loss_of(model, batch) == pytest.approx(0.5 * squares(predicted(kept(batch, 0.4))), rel=1e-5)


def test_vae_cf():
    """Liang et al. 2018, Mult-VAE with their Gaussian likelihood: 1/2 (r - r_hat)^2 + beta KL[q(z|x) || N(0, I)]."""
    model, batch = made("vae-cf", latent_dim=3, hidden=4, dropout=0.4, beta=0.6, anneal=0.5)
    w = numbers(model)

    def encode(mask):
        hidden = np.tanh((mask * unit(X[ORDER])) @ w["encoder.input.weight"] + w["encoder.input.bias"])
        return np.split(hidden @ w["encoder.posterior.weight"].T + w["encoder.posterior.bias"], 2, axis=1)

    def predicted(z):
        hidden = np.tanh(z @ w["decoder.hidden.weight"].T + w["decoder.hidden.bias"])
        return means()[ORDER] + hidden @ w["decoder.output.weight"].T + w["decoder.output.bias"]

    assert np.allclose(scores(model, batch), predicted(encode(1)[0]), atol=1e-5)
    loss = loss_of(model, batch, progress=0.25)
    mu, logvar = encode(kept(batch, 0.4))
    z = mu + np.exp(logvar / 2) * torch.randn(4, 3).double().numpy()
    kl = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).sum() / 4
    assert loss == pytest.approx(0.5 * squares(predicted(z)) + 0.3 * kl, rel=1e-5)


@pytest.mark.parametrize("kl_of_mu", [False, True])
def test_macridvae(kl_of_mu):
    """Ma et al. 2019: memberships softmax(cos(h_i, m_k) / tau), a code for each concept from what is masked
    by it, mu_k of unit length, deviation sigma_0 exp(b_k / 2), prior N(0, sigma_0^2); decoder: <z_k, h_i> by membership.

    The public code's divergence is that of the deviations alone (``kl_of_mu=False``).
    """
    tau, sigma = 0.4, 0.3
    options = {"concepts": 3, "latent_dim": 2, "hidden": 4, "beta": 0.6, "anneal": 0.5, "dropout": 0.4}
    model, batch = made("macridvae", tau=tau, sigma=sigma, kl_of_mu=kl_of_mu, **options)
    w = numbers(model)
    items, concepts = unit(w["items.weight"]), unit(w["concepts.weight"])
    member = np.exp(items @ concepts.T / tau)
    member = member / member.sum(1, keepdims=True)

    def predicted(noise):
        """Predictions and divergence; ``noise(k)``: what is kept of the input, and the code's noise."""
        ratings, divergence = means()[ORDER] + w["bias"], 0.0
        for k in range(3):
            mask, eps = noise(k)
            hidden = np.tanh((mask * unit(X[ORDER] * member[:, k])) @ w["input.weight"] + w["input.bias"])
            a, b = np.split(hidden @ w["posterior.weight"].T + w["posterior.bias"], 2, axis=1)
            mu, deviation = unit(a), sigma * np.exp(b / 2)
            moved = mu**2 if kl_of_mu else 0
            divergence += (np.log(sigma / deviation) + (deviation**2 + moved) / (2 * sigma**2) - 0.5).sum() / 4
            ratings = ratings + w["scale"] * member[:, k] * ((mu + deviation * eps) @ items.T)
        return ratings, divergence

    assert np.allclose(scores(model, batch), predicted(lambda k: (1, 0))[0], atol=1e-5)
    loss = loss_of(model, batch, progress=0.25)
    ratings, divergence = predicted(lambda k: (kept(batch, 0.4), torch.randn(4, 2).double().numpy()))
    assert loss == pytest.approx(0.5 * squares(ratings) + 0.3 * divergence, rel=1e-5)


def test_macridvae_takes_the_norm_as_a_constant():
    """One rating alone is 1 after normalisation, whatever its membership; its gradient is not that of a constant."""
    model, _ = made("macridvae", concepts=3, latent_dim=5, hidden=4, tau=0.3)
    one = Interactions.from_pairs([0], [3], [4], shape=(1, 7)).rows(torch.tensor([0]))
    _, divergence = model(one)  # depends on the memberships through the encoder's input alone
    (gradient,) = torch.autograd.grad(divergence.sum(), model.items.weight)
    assert gradient[3].abs().max() > 1e-3


# --- around the equations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slug", "options", "matrices"),
    [
        ("autorec-u", {"hidden": 4}, {"input.weight", "output.weight"}),
        ("autorec-i", {"hidden": 4}, {"input.weight", "output.weight"}),
        ("cdae", {"hidden": 4}, {"input.weight", "nodes.weight", "output.weight"}),
        ("dae-cf", {"latent_dim": 4}, {"input.weight", "output.weight"}),
    ],
)
def test_penalty_is_that_of_the_weight_matrices(slug, options, matrices):
    """lambda ||W||^2 of AutoRec, CDAE and Mult-DAE acts as Adam's decay of 2 lambda; every bias is free."""
    model, _ = made(slug, penalty=0.3, **options)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decay = {names[p]: group.get("weight_decay", 0) for group in model.phases()[0].parameters for p in group["params"]}
    assert decay == {name: 0.6 if name in matrices else 0 for name in names.values()}


def test_training_starts_at_the_means():
    """Before the first update AutoRec's output biases are the shrunken means of its outputs, mu that of all ratings."""
    overall = X.sum() / SEEN.sum()
    for slug, axis in (("autorec-u", 0), ("autorec-i", 1)):
        model, _ = made(slug, hidden=4)
        model.start(Interactions.from_pairs(*X.nonzero(), X[SEEN], shape=X.shape))
        shrunken = overall + (SEEN * (X - overall)).sum(axis) / (SEEN.sum(axis) + 5)
        assert np.allclose(model.output.bias.detach(), shrunken, atol=1e-5)
    for slug in ("biased-mf", "ncf", "cnn-cf"):
        model, _ = made(slug, latent_dim=4)
        model.start(Interactions.from_pairs(*X.nonzero(), X[SEEN], shape=X.shape))
        assert model.overall.item() == pytest.approx(overall)
