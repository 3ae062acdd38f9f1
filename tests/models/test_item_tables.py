"""The option implicit_slim: when the tables are renewed, that what is kept of them notices, and resuming."""

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.nn import times_gram, weights_key

SMALL = {"latent_dim": 5, "hidden": 8}
SLIM = {"implicit_slim": 2, "slim_penalty": 20.0, "slim_threshold": 10}
SYSTEMS = ["mult-vae", "recvae", "vae-nck"]


def renewed(table, train, **others):
    options = {"penalty": 20.0, "alpha": 1.0, "threshold": 10} | others
    return vc.maths.implicit_slim(table, lambda M: times_gram(train, M), train.item_counts, **options)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_every_second_epoch_begins_with_both_tables_renewed(planted_split, slug):
    model = vc.build(slug, planted_split.n_items, slim_alpha=0.5, **SLIM, **SMALL)
    trainer = vc.Trainer(model, planted_split, epochs=4, device="cpu")
    for epoch in range(1, 5):
        before = [table.detach().clone() for table in model.item_tables()]
        updates = trainer.updates()
        next(updates)
        for table, old in zip(model.item_tables(), before, strict=True):
            new = renewed(old, planted_split.train, alpha=0.5) if epoch % 2 == 0 else old
            assert torch.equal(table, new) and torch.equal(new, old) == bool(epoch % 2)
            assert table.shape[0] == planted_split.n_items and table.requires_grad
        for _ in updates:
            pass


@pytest.mark.parametrize("slug", SYSTEMS)
def test_without_the_option_nothing_is_renewed(planted_split, slug):
    model = vc.build(slug, planted_split.n_items, **SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.before_epoch(10, planted_split.train)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_recvae_does_not_take_the_renewed_encoder_for_the_remembered_one(planted_split):
    """The table of kept posteriors stands for the encoder only while nobody writes to its weights."""
    model = vc.models.RecVAE(planted_split.n_items, **SLIM, **SMALL)
    model.prepare(planted_split.train)
    model.update_prior()
    batch = planted_split.train.rows(torch.arange(20))
    old = model.old_posterior(batch)[0]
    model.before_epoch(2, planted_split.train)
    assert model.remembered != weights_key(model.encoder)
    assert torch.equal(model.old_posterior(batch)[0], old), "the old posterior is still the old one"
    model.update_prior()
    with torch.no_grad():
        assert torch.allclose(model.old_posterior(batch)[0], model.encoder(batch, drop=False)[0], atol=1e-6)
    assert not torch.allclose(model.old_posterior(batch)[0], old, atol=1e-3)


@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("slug", SYSTEMS)
def test_a_resumed_training_is_the_unbroken_one(planted_split, slug, stop, tmp_path):
    """Stopped before, at and after an epoch that renews the tables."""

    def fit(**settings):
        model = vc.build(slug, planted_split.n_items, **SLIM, **SMALL)
        run = vc.fit(model, planted_split, epochs=4, batch_size=1000, device="cpu", progress=False, **settings)
        return model, run

    unbroken, _ = fit()
    fit(out=tmp_path, stop_after=stop)
    resumed, run = fit(out=tmp_path)
    loaded = vc.load_model(tmp_path)
    batch = planted_split.test.history.rows(torch.arange(10))
    with torch.no_grad():
        assert torch.equal(unbroken.scores(batch), resumed.scores(batch))
        assert torch.equal(unbroken.scores(batch), loaded.scores(batch))
    assert loaded.config["implicit_slim"] == 2 and np.isfinite(run.curve("loss")).all()


def test_a_threshold_that_nobody_reaches_is_refused(planted_split):
    """The tables would become zeros, and the training go on as if nothing had happened."""
    model = vc.models.MultVAE(planted_split.n_items, implicit_slim=10, slim_threshold=10**6, **SMALL)
    with pytest.raises(
        vc.ConfigError, match=r"^mult-vae: slim_threshold=1000000: no item has so many users, .*\d: low"
    ):
        vc.fit(model, planted_split, epochs=1, device="cpu", progress=False)
    most = int(planted_split.train.item_counts.max())
    vc.models.MultVAE(planted_split.n_items, implicit_slim=10, slim_threshold=most).prepare(planted_split.train)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["multinomial", "n_choose_k"])
@pytest.mark.parametrize("slug", ["mult-vae", "recvae"])
def test_learns_the_planted_world(planted_split, slug, likelihood):
    model = vc.build(slug, planted_split.n_items, latent_dim=32, hidden=100, likelihood=likelihood, implicit_slim=10)
    vc.fit(model, planted_split, epochs=30, device="cpu", progress=False)
    assert vc.evaluate(model, planted_split.test)["ndcg@100"].mean > 0.38
