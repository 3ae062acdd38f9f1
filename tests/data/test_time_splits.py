"""Splits by time: counted by hand, and nothing known before it happened."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import vaecf_lib as vc


def log_of(**columns):
    return vc.RatingLog.from_frame(pd.DataFrame(columns), name="toy")


def named(log, split, part):
    """{(user id, item id)} of a part whose rows are the split's people."""
    users, items = part.pairs()
    items = log.item_ids[split.item_index[items.numpy()]].tolist()
    return set(zip(split.people.ids[users.numpy()].tolist(), items, strict=True))


# User, item, moment and rating, in an order that is not that of time: ax bx ay cz cy by az bz dx aw.
ENTRIES = [
    ("b", "z", 8, 2.0),
    ("a", "x", 1, 5.0),
    ("b", "x", 2, 4.0),
    ("a", "y", 3, 3.0),
    ("d", "x", 9, 1.0),  # a newcomer
    ("c", "z", 4, 5.0),
    ("b", "y", 6, 4.0),
    ("a", "z", 7, 5.0),
    ("a", "w", 10, 4.0),  # an item nobody had before
    ("c", "y", 5, 2.0),
]
TOY = {name: [entry[at] for entry in ENTRIES] for at, name in enumerate(("user", "item", "timestamp", "rating"))}


def test_two_moments_cut_for_all():
    """Ten entries, 40 % train, 30 % validate: moments 1-4, 5-7 and 8-10; d is new then, and so is w."""
    log = log_of(**TOY)
    split = vc.split_time(log, valid=0.3, test=0.3, min_items=1)
    assert split.people.ids.tolist() == ["a", "b", "c"] and log.item_ids[split.item_index].tolist() == ["x", "y", "z"]
    assert named(log, split, split.train) == {("a", "x"), ("b", "x"), ("a", "y"), ("c", "z")}
    assert named(log, split, split.valid.history) == named(log, split, split.train)
    assert named(log, split, split.valid.targets) == {("c", "y"), ("b", "y"), ("a", "z")}
    assert named(log, split, split.test.targets) == {("b", "z")}
    assert named(log, split, split.test.history) == named(log, split, split.train) | {
        ("c", "y"),
        ("b", "y"),
        ("a", "z"),
    }
    assert split.test.n_without_targets == 2 and split.train.values is None
    assert named(log, split, split.people.histories) == named(log, split, split.test.history) | {("b", "z")}
    assert (
        split.people.train_rows.tolist() == [0, 1, 2] and split.kept.ratings == (8, 10) and split.kept.users == (3, 4)
    )
    assert split.source["protocol"] == split.protocol == "time" and json.dumps(split.source)


def test_who_takes_part_is_decided_by_the_training_part_alone():
    """b has three entries, but only one by then: two are asked for."""
    log = log_of(**TOY)
    split = vc.split_time(log, valid=0.0, test=0.5, min_items=2)
    assert split.people.ids.tolist() == ["a", "c"] and named(log, split, split.test.targets) == {("a", "z")}
    assert split.kept.ratings == (5, 10) and split.kept.users == (2, 4)


def test_what_only_left_out_users_had_is_no_column():
    log = log_of(user=[1, 1, 2, 3, 3, 1], item=["a", "b", "v", "a", "c", "c"], timestamp=[1, 3, 5, 2, 4, 9])
    split = vc.split_time(log, valid=0.0, test=0.15, min_items=2)
    assert split.people.ids.tolist() == [1, 3] and log.item_ids[split.item_index].tolist() == ["a", "b", "c"]
    assert named(log, split, split.test.targets) == {(1, "c")}


def test_ratings_and_thresholds_by_time():
    log = log_of(**TOY)
    split = vc.split_time(log, valid=0.3, test=0.3, min_items=1, ratings=True)
    assert split.train.values.tolist() == [5, 3, 4, 5] and split.test.targets.values.tolist() == [2]
    assert split.test.history.values.sum() == 17 + 2 + 4 + 5 and split.people.histories.values.sum() == 30
    liked = vc.split_time(log, valid=0.0, test=0.5, threshold=4, min_items=1)  # moments 1 2 4 | 6 7 10
    assert named(log, liked, liked.train) == {("a", "x"), ("b", "x"), ("c", "z")} and liked.valid is None
    assert named(log, liked, liked.test.targets) == {("a", "z")}, "nobody had y or w"
    assert liked.test.history is liked.train and liked.kept.threshold == 4 and liked.kept.ratings == (4, 10)


def test_entries_of_one_moment_stay_together():
    """On the later side: or else the future of a moment would train. One that half of all share is doubted."""
    user, item = np.repeat(np.arange(4), 4), np.tile(np.arange(4), 4)
    log = log_of(user=user, item=item, timestamp=np.array([1, 2, 2, 3])[(user + item) % 4])
    with pytest.warns(UserWarning, match=r"toy: 8 of 16 entries have the timestamp 2\. If that stands for a time"):
        split = vc.split_time(log, valid=0.3, test=0.2, min_items=1)  # 8 of 16 should train: moment 2 begins after 4
    assert (split.train.nnz, split.valid.targets.nnz, split.test.targets.nnz) == (4, 8, 4)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_known_before_it_happened(seed):
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(30 * 20)[:300]
    log = log_of(user=pairs // 20, item=pairs % 20, timestamp=rng.integers(0, 50, 300))
    split = vc.split_time(log, min_items=3)
    when = dict(
        zip(
            zip(log.user_ids[log.user].tolist(), log.item_ids[log.item].tolist(), strict=True),
            log.timestamp.tolist(),
            strict=True,
        )
    )
    first, second, third = (
        {when[pair] for pair in named(log, split, part)}
        for part in (split.train, split.valid.targets, split.test.targets)
    )
    assert max(first) < min(second) and max(second) < min(third)
    assert split.train.counts.min() >= 3 and split.train.item_counts.min() >= 1
    assert not named(log, split, split.test.history) & named(log, split, split.test.targets)
    n_train = sum(moment <= max(first) for moment in when.values())
    assert 0.7 * 300 < n_train <= 0.8 * 300, "shares of all entries, less the ties"


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"user": [1, 2], "item": [1, 2]}, {}, "toy has no timestamps to cut by: give a column timestamp"),
        (TOY, {"valid": 0.5, "test": 0.5}, "valid=0.5 and test=0.5 must be shares that leave something"),
        (TOY, {"test": 0.0}, "test=0 must be shares"),
        (TOY | {"timestamp": [1] * 10}, {"min_items": 1}, "left for training: all that is before the cuts has their moment"),
        (TOY, {}, "no user of toy has 5 items: lower min_items"),
        (TOY, {"min_items": 1, "valid": 0.0, "test": 0.1}, "nothing of toy is left for test: its users do nothing then"),
        ({key: TOY[key] for key in ("user", "item", "timestamp")}, {"ratings": True}, "toy has no ratings"),
    ],
    ids=range(7),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:toy. 10 of 10 entries have the timestamp")
def test_impossible_cuts_are_named(columns, options, message):
    with pytest.raises(vc.ConfigError, match=message):
        vc.split_time(log_of(**columns), **options)


# --- leave one out --------------------------------------------------------------------------------------------------


def test_the_last_entry_of_each_is_the_test():
    """By time, not by the order of the file; who has two entries has nothing in validation, who has one no target."""
    log = log_of(**TOY)
    split = vc.split_leave_one_out(log, min_items=1)
    assert split.people.ids.tolist() == ["a", "b", "c", "d"] and split.n_items == 4
    assert named(log, split, split.test.targets) == {("a", "w"), ("b", "z"), ("c", "y")}
    assert named(log, split, split.valid.targets) == {("a", "z"), ("b", "y")}
    assert named(log, split, split.train) == {("a", "x"), ("a", "y"), ("b", "x"), ("c", "z"), ("d", "x")}
    assert named(log, split, split.valid.history) == named(log, split, split.train)
    assert named(log, split, split.test.history) == named(log, split, split.train) | named(
        log, split, split.valid.targets
    )
    assert split.test.n_without_targets == 1 and split.kept.ratings == (10, 10)
    assert split.source["protocol"] == split.protocol == "leave-one-out"
    with pytest.warns(UserWarning, match="1 of 4 users kept"):
        liked = vc.split_leave_one_out(log, threshold=4, min_items=3)
    assert liked.people.ids.tolist() == ["a"] and named(log, liked, liked.test.targets) == {("a", "w")}
    assert log.item_ids[liked.item_index].tolist() == ["w", "x", "z"] and liked.kept.ratings == (3, 10)
    rated = vc.split_leave_one_out(log, min_items=3, ratings=True)
    assert rated.test.targets.values.tolist() == [4, 2] and rated.valid.targets.values.tolist() == [5, 4]


def test_of_one_moment_the_later_row_is_the_last():
    log = log_of(user=[1] * 4, item=[7, 5, 8, 6], timestamp=[3, 3, 1, 3])
    with pytest.warns(UserWarning, match="3 of 4 entries have the timestamp 3"):
        split = vc.split_leave_one_out(log, min_items=1)
    assert named(log, split, split.test.targets) == {(1, 6)} and named(log, split, split.valid.targets) == {(1, 5)}


def test_without_timestamps_random_entries_are_hidden():
    """Seeded, each entry in its turn."""
    log = log_of(user=np.repeat([0, 1, 2], 5), item=np.tile(np.arange(5), 3))
    splits = [vc.split_leave_one_out(log, seed=seed) for seed in range(40)]
    for split in splits:
        assert split.test.targets.counts.tolist() == split.valid.targets.counts.tolist() == [1, 1, 1]
        assert not named(log, split, split.test.targets) & named(log, split, split.valid.targets)
    assert set.union(*(named(log, split, split.test.targets) for split in splits)) == named(
        log, splits[0], splits[0].people.histories
    )
    assert torch.equal(splits[3].train.indices, vc.split_leave_one_out(log, seed=3).train.indices)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([1, 1], {"min_items": 1}, "nothing of toy is left for test: no user has two entries"),
        ([2, 1], {"min_items": 1}, "nothing of toy is left for validation: no user has three entries"),
        ([4, 4], {}, "no user of toy has 5 items"),
        ([5, 5], {"ratings": True}, "toy has no ratings"),
    ],
)
def test_too_little_to_leave_out(sizes, options, message):
    user = np.repeat(np.arange(len(sizes)), sizes)
    with pytest.raises(vc.ConfigError, match=message):
        vc.split_leave_one_out(log_of(user=user, item=np.arange(len(user))), **options)


@pytest.mark.parametrize("cut", [vc.split_time, vc.split_leave_one_out])
def test_systems_of_ratings_and_of_clicks_learn_by_time(cut):
    """Both kinds train, choose by validation and are tested on such a split."""
    rng = np.random.default_rng(0)
    pairs = rng.permutation(40 * 25)[:700]
    log = log_of(user=pairs // 25, item=pairs % 25, rating=rng.integers(1, 6, 700), timestamp=np.arange(700))
    run = vc.fit(vc.models.MultVAE(cut(log).n_items, hidden=8, latent_dim=4), cut(log), epochs=2, progress=False)
    assert run.best_epoch is not None
    rated = cut(log, ratings=True)
    means = vc.baselines.Means(rated.n_items)
    vc.fit(means, rated, epochs=0, progress=False)
    assert 1 < vc.evaluate(means, rated.test, ("rmse",))["rmse"].mean < 2
