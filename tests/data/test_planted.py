"""The embedded world: the same bytes everywhere, and drawn from the model it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.data import CAST
from vaecf_lib.data.planted import cast_of


def test_same_bytes_on_every_machine(planted):
    assert planted.sha256 == "b81916ef76d30c334c42b01955a637b57b1c43e0cc22bd29d50d3291175e6750"


def test_shape_of_the_world(planted):
    assert (planted.n_users, planted.n_items) == (3000, 500)
    assert set(planted.rating.tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert len(set(planted.titles)) == 500
    counts = np.sort(np.bincount(planted.item))[::-1]
    assert counts[:50].sum() > 0.3 * counts.sum(), "a tenth of the films has a large share"
    activity = np.log(np.bincount(planted.user))
    assert 0.4 < activity.std() < 0.9


def test_likes_follow_the_stated_probabilities(planted):
    world = vc.planted_world()
    p = 1 / (1 + np.exp(-(world.logits(world.taste) + world.shift[:, None])))
    liked = np.zeros_like(p, dtype=bool)
    good = planted.rating >= 4
    liked[planted.user[good], planted.item[good]] = True
    for low in np.arange(0, 1, 0.1):
        cell = (p >= low) & (p < low + 0.1)
        error = liked[cell].mean() - p[cell].mean()
        assert abs(error) < 4 * np.sqrt(0.25 / cell.sum()) + 1e-3


def test_counts_meet_the_expected_activity(planted):
    good = planted.select(planted.rating >= 4)
    for code, _, expected in CAST.values():
        assert abs((good.user == code).sum() - expected) < 4 * np.sqrt(expected)


@pytest.mark.slow
def test_oracle_beats_everything_it_should(planted_split):
    scores = {}
    for cls in (vc.baselines.PlantedOracle, vc.baselines.Popularity, vc.baselines.Random):
        model = cls(planted_split.n_items)
        vc.fit(model, planted_split, progress=False)
        scores[cls.slug] = vc.evaluate(model, planted_split.test, ("ndcg@100",))["ndcg@100"].mean
    assert scores["planted-oracle"] > scores["popularity"] + 0.1 > scores["random"] + 0.2


def test_oracle_refuses_films_it_does_not_know(planted):
    """Also where they are no more than the planted ones: their columns would be taken for planted films."""
    split = vc.split_strong(replace(planted, item_ids=planted.item_ids + 1))
    with pytest.raises(vc.ConfigError, match="knows the planted films alone"):
        vc.fit(vc.baselines.PlantedOracle(split.n_items, points=5), split, device="cpu", progress=False)


def test_oracle_is_bayes_rule_by_hand(planted_split):
    oracle = vc.baselines.PlantedOracle(planted_split.n_items, points=15)
    oracle.item_index.copy_(torch.from_numpy(planted_split.item_index))
    batch = planted_split.test.history.rows(torch.tensor([3]))
    axis = np.linspace(-3.5, 3.5, 15)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    eta = torch.from_numpy(vc.planted_world().logits(z))[:, torch.from_numpy(planted_split.item_index)]
    k = len(batch.items)
    log_w = torch.from_numpy(-0.5 * (z**2).sum(1)) + eta[:, batch.items].sum(1)
    log_w -= vc.maths.log_elementary_symmetric(eta, k, "exact")
    expected = (torch.softmax(log_w, 0) @ vc.maths.inclusion_probabilities(eta, k)).float()
    assert torch.allclose(oracle.scores(batch)[0], expected, atol=2e-2)
    assert oracle.scores(batch)[0].argmax() == expected.argmax()


def test_cast_elsewhere_is_of_four_activity_levels(planted):
    assert cast_of(planted)["Dalia"] == CAST["Dalia"][0]
    other = planted.select(planted.user >= 100)
    object.__setattr__(other, "name", "other")
    counts = np.bincount(other.user, minlength=other.n_users)
    chosen = {name: counts[code] for name, code in cast_of(other).items()}
    assert chosen["Dalia"] <= chosen["Chen"] <= chosen["Ada"] <= chosen["Bruno"]
