"""Strangers of the systems that know their users: folded in where the maths allows it."""

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.data import Batch, Pairs
from vaecf_lib.models.ratings import ridge

OPTIONS = {
    "biased-mf": {"latent_dim": 6, "penalty": 0.05},
    "autorec-i": {"hidden": 12, "penalty": 0.02},
    "vae-bmf": {"latent_dim": 4, "data_dim": 6, "hidden": 8},
}


@pytest.fixture(scope="module")
def fitted(planted):
    split = vc.split_ratings(planted.select(planted.user < 200))
    models = {slug: vc.build(slug, split.n_items, **options) for slug, options in OPTIONS.items()}
    for model in models.values():
        vc.fit(model, split, epochs=3, device="cpu", progress=False)
    return models, split


def as_strangers(batch):
    return Batch(torch.full_like(batch.users, -1), batch.counts, batch.rows, batch.items, batch.values, batch.n_items)


def test_ridge_equals_the_textbook():
    rng = np.random.default_rng(0)
    features, targets, penalties = rng.normal(size=(7, 3)), rng.normal(size=7), np.array([0.5, 0.0, 2.0])
    expected = np.linalg.solve(features.T @ features + np.diag(penalties), features.T @ targets)
    assert np.allclose(ridge(*map(torch.from_numpy, (features, targets, penalties))).numpy(), expected, atol=1e-5)


def test_a_folded_in_embedding_is_where_the_loss_of_biased_mf_is_least(fitted):
    models, split = fitted
    model, user = models["biased-mf"], torch.tensor([3])
    batch = split.train.rows(user)
    with torch.no_grad():
        model.users.weight[3] = model.fold_in(model.users.weight, as_strangers(batch), model._user)[0]
    pairs = Pairs(user.expand(len(batch.items)), batch.items, batch.values)
    model.zero_grad()
    model.loss(pairs, 0.5)[0].backward()
    assert model.users.weight.grad[3].abs().max() < 1e-5 < model.items.weight.grad.abs().max()


def test_folded_in_weights_are_where_the_loss_of_autorec_is_least(fitted):
    models, split = fitted
    model, batch = models["autorec-i"], split.train.rows(torch.tensor([3]))
    known = torch.cat([model.output.weight, model.output.bias[:, None]], 1).detach()
    found = model.fold_in(known, as_strangers(batch), model._user)[0]
    with torch.no_grad():
        model.output.weight[3], model.output.bias[3] = found[:-1], found[-1]
    everything = model.by_item.rows(torch.arange(model.n_items))
    model.zero_grad()
    model.loss(everything, 0.5)[0].backward()
    slope = model.output.weight.grad[3] + 2 * model.config["penalty"] * model.output.weight[3]
    assert slope.abs().max() < 1e-4 and model.output.bias.grad[3].abs() < 1e-4
    assert model.output.weight.grad[4].abs().max() > 1e-4


def test_a_stranger_of_vae_bmf_is_encoded_like_a_user(fitted):
    models, split = fitted
    model, batch = models["vae-bmf"], split.train.rows(torch.tensor([3, 9]))
    mu, _ = model.encode_users(model.by_user.rows(torch.tensor([3, 9])))
    known = model.likelihood.items + model.above[[3, 9]][:, None]
    assert torch.allclose(model.scores(as_strangers(batch)), known + mu @ model.v_mean.T, atol=1e-5)


@pytest.mark.parametrize("slug", OPTIONS)
def test_users_keep_their_own_factors_beside_a_stranger(fitted, slug):
    """And single items, all items and the order of the batch agree; nobody with an empty history is a special case."""
    models, split = fitted
    model, batch = models[slug], split.train.rows(torch.tensor([5, 6, 7]))
    mixed = Batch(torch.tensor([5, -1, 7]), batch.counts, batch.rows, batch.items, batch.values, batch.n_items)
    with torch.no_grad():
        alone, together, strangers = model.scores(batch), model.scores(mixed), model.scores(as_strangers(batch))
        rows, items = torch.tensor([2, 1, 0]), torch.tensor([4, 4, 9])
        assert torch.allclose(model.pair_scores(mixed, rows, items), together[rows, items], atol=1e-5)
    assert torch.allclose(together[[0, 2]], alone[[0, 2]], atol=1e-5)
    assert torch.allclose(together[1], strangers[1], atol=1e-5)
    assert not torch.allclose(strangers[0], strangers[1], atol=1e-3)
    empty = vc.data.Interactions.from_pairs([], [], np.empty(0), shape=(1, model.n_items)).rows(torch.tensor([0]))
    nobody = model.scores(as_strangers(empty))
    assert torch.isfinite(nobody).all() and 2 < nobody.mean() < 5


@pytest.mark.parametrize("slug", OPTIONS)
def test_users_outside_the_training_data_are_refused(fitted, slug):
    models, split = fitted
    batch = split.train.rows(torch.tensor([5]))
    for user in (-2, split.train.n_users):
        wrong = Batch(torch.tensor([user]), batch.counts, batch.rows, batch.items, batch.values, batch.n_items)
        with pytest.raises(vc.ConfigError, match=f"^{slug} rates only for the users it was trained on"):
            models[slug].scores(wrong)
