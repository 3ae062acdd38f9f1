"""The papers' protocols: equality with the published procedure, and no leaks."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.experiment import PROTOCOLS, run_experiment


def pairs(interactions):
    return set(zip(*(index.tolist() for index in interactions.pairs()), strict=True))


def named_pairs(log, split, part, users):
    """(source user id, source item id) pairs of a part whose rows are the codes ``users``."""
    return {(log.user_ids[users[u]], log.item_ids[split.item_index[i]]) for u, i in pairs(part)}


def liang_notebook(log, n_heldout, threshold=4, seed=98765):
    """The procedure of the public notebook, step by step with pandas, written anew."""
    raw = pd.DataFrame({"uid": log.user_ids[log.user], "sid": log.item_ids[log.item], "rating": log.rating})
    raw = raw[raw["rating"] > threshold - 0.5]
    counts = raw.groupby("uid").size()
    raw = raw[raw["uid"].isin(counts.index[counts >= 5])]
    unique_uid = counts.index[counts >= 5].to_numpy()
    np.random.seed(seed)
    unique_uid = unique_uid[np.random.permutation(unique_uid.size)]
    n = unique_uid.size
    train_users = unique_uid[: n - 2 * n_heldout]
    groups = {"valid": unique_uid[n - 2 * n_heldout : n - n_heldout], "test": unique_uid[n - n_heldout :]}
    train = raw[raw["uid"].isin(train_users)]
    unique_sid = pd.unique(train["sid"])
    parts = {"train": train}
    for name, users in groups.items():
        plays = raw[raw["uid"].isin(users) & raw["sid"].isin(unique_sid)]
        history, targets = [], []
        np.random.seed(seed)
        for _, group in plays.groupby("uid"):
            count = len(group)
            if count >= 5:
                idx = np.zeros(count, dtype=bool)
                idx[np.random.choice(count, size=int(0.2 * count), replace=False).astype("int64")] = True
                history.append(group[~idx])
                targets.append(group[idx])
            else:
                history.append(group)
        parts[f"{name}_history"], parts[f"{name}_targets"] = pd.concat(history), pd.concat(targets)
    as_pairs = {k: set(zip(v["uid"], v["sid"], strict=True)) for k, v in parts.items()}
    return as_pairs, train_users, groups, set(unique_sid)


def check_against_notebook(log, n_heldout):
    expected, train_users, groups, items = liang_notebook(log, n_heldout)
    split = vc.split_strong(log, n_heldout=n_heldout)
    codes = {uid: code for code, uid in enumerate(log.user_ids.tolist())}

    def sorted_codes(users):
        return np.sort([codes[u] for u in users.tolist()])

    assert set(log.item_ids[split.item_index].tolist()) == {int(i) for i in items}
    assert named_pairs(log, split, split.train, sorted_codes(train_users)) == expected["train"]
    for name, part in (("valid", split.valid), ("test", split.test)):
        users = sorted_codes(groups[name])
        assert named_pairs(log, split, part.history, users) == expected[f"{name}_history"]
        assert named_pairs(log, split, part.targets, users) == expected[f"{name}_targets"]


def test_strong_split_equals_the_notebook_of_liang_et_al(planted):
    check_against_notebook(planted, 300)


def test_strong_split_equals_the_notebook_on_real_data(real_data):
    check_against_notebook(vc.load_dataset("ml-100k"), 100)


SPLITS = {
    "strong": vc.split_strong,
    "weak": lambda log: vc.split_weak(log, valid=0.1),
    "ratings": vc.split_ratings,
    "ratings70": lambda log: vc.split_ratings(log, train=0.7, valid=0.15, test=0.15),
}


@pytest.mark.parametrize("name", SPLITS)
def test_nothing_leaks(planted, name):
    split = SPLITS[name](planted)
    for part in (split.valid, split.test):
        assert not pairs(part.history) & pairs(part.targets)
    if name == "strong":
        assert split.train.n_users + split.valid.history.n_users + split.test.history.n_users <= planted.n_users
    else:
        train, valid, test = pairs(split.train), pairs(split.valid.targets), pairs(split.test.targets)
        assert not train & valid and not train & test and not valid & test
        known = train | valid if name == "weak" else train  # a validation click is known by the time of the test
        assert pairs(split.test.history) == known


def test_strong_users_are_disjoint(planted):
    liked = planted.select(planted.rating >= 4)
    split = vc.split_strong(planted, n_heldout=300)
    rows = [tuple(sorted(liked.item[liked.user == u])) for u in range(planted.n_users)]
    assert split.train.nnz + split.valid.history.nnz + split.valid.targets.nnz <= sum(map(len, rows))
    assert split.train.n_users == sum(len(r) >= 5 for r in rows) - 600


def test_targets_are_a_fifth(planted_split):
    held = planted_split.test
    n = (held.history.counts + held.targets.counts).numpy()
    assert (held.targets.counts.numpy() == np.where(n >= 5, (0.2 * n).astype(int), 0)).all()


def test_users_without_targets_are_counted():
    user = np.repeat(np.arange(10), 5)
    item = np.concatenate([np.arange(5) if u < 8 else np.arange(5) + 20 * (u - 7) for u in range(10)])
    log = vc.RatingLog.from_frame(pd.DataFrame({"user": user, "item": item}), name="toy")
    counted = {vc.split_strong(log, n_heldout=3, seed=s).test.n_without_targets for s in range(12)}
    assert counted - {0}, "in some split a held-out user has no items that training users know"


def test_rating_shares(planted):
    split = vc.split_ratings(planted, 0.7, 0.15, 0.15)
    sizes = np.array([split.train.nnz, split.valid.targets.nnz, split.test.targets.nnz])
    assert sizes.sum() == len(planted)
    assert np.allclose(sizes / len(planted), [0.7, 0.15, 0.15], atol=1e-4)
    assert set(split.test.targets.values.unique().tolist()) <= {1.0, 2.0, 3.0, 4.0, 5.0}


SIZES = np.array([1, 2, 4, 5, 9, 10, 14, 15, 19, 20, 40])


def log_of_sizes(**columns):
    """User u has SIZES[u] items; the lines of the log are in random order."""
    user = np.repeat(np.arange(len(SIZES)), SIZES)
    item = np.concatenate([np.arange(n) for n in SIZES])
    order = np.random.default_rng(0).permutation(len(user))
    return log_of(user=user[order], item=item[order], **columns)


@pytest.mark.parametrize("test, valid", [(None, 0.0), (0.2, 0.1), (0.2, 0.15), (0.5, 0.25), (0.25, 0.5)])
def test_weak_shares_are_exact_for_every_user(test, valid):
    """int(test n) of n entries, even if n is small; of the m others int(m valid / (1 - test)); a fifth by default."""
    log = log_of_sizes()
    split = vc.split_weak(log, min_items=1, valid=valid, **({} if test is None else {"test": test}))
    test = 0.2 if test is None else test
    held = np.floor(SIZES * test).astype(int)
    checked = np.floor((SIZES - held) * valid / (1 - test) + 1e-9).astype(int)
    assert split.test.targets.counts.tolist() == held.tolist()
    assert split.train.counts.tolist() == (SIZES - held - checked).tolist()
    parts = [split.train, split.test.targets]
    if valid > 0:
        assert split.valid.targets.counts.tolist() == checked.tolist()
        assert pairs(split.valid.history) == pairs(split.train)
        parts.append(split.valid.targets)
    assert split.valid is not None or valid == 0
    assert set.union(*map(pairs, parts)) == set(zip(log.user.tolist(), log.item.tolist(), strict=True))
    assert sum(part.nnz for part in parts) == SIZES.sum(), "no entry in two parts"
    assert pairs(split.test.history) == pairs(split.train) | (pairs(split.valid.targets) if valid > 0 else set())


def test_weak_validation_is_cut_from_what_a_published_test_part_leaves():
    """Of the m training entries of a user int(m valid): how large a test part would have been drawn is no matter."""
    is_test = np.random.default_rng(1).random(SIZES.sum()) < 0.4
    log = log_of_sizes(is_test=is_test)
    split = vc.split_weak(log, valid=0.25)
    assert split.train.sha256 == vc.split_weak(log, valid=0.25, test=0.9).train.sha256
    rest = np.bincount(log.user[~is_test], minlength=len(SIZES))
    assert pairs(split.test.targets) == set(zip(log.user[is_test].tolist(), log.item[is_test].tolist(), strict=True))
    assert split.valid.targets.counts.tolist() == (rest // 4).tolist()
    assert split.train.counts.tolist() == (rest - rest // 4).tolist()


@pytest.mark.parametrize(
    "published, shares, sizes",
    [
        (False, (0.8, 0.1, 0.1), (111, 14, 14)),
        (False, (0.7, 0.15, 0.15), (97, 21, 21)),
        (False, (0.6, 0.0, 0.4), (83, 0, 56)),
        (True, (0.8, 0.1, 0.1), (89, 11, 39)),  # 100 are left: a ninth of them validates
        (True, (0.7, 0.15, 0.15), (82, 18, 39)),  # 15 of 85
        (True, (0.6, 0.0, 0.4), (100, 0, 39)),
    ],
)
def test_rating_shares_are_exact_over_all_ratings(published, shares, sizes):
    """Pooled, not per user; a published test part stays, and validation and training share the rest as asked."""
    rng = np.random.default_rng(2)
    is_test = rng.permutation(np.arange(139) < 39)
    log = log_of_sizes(is_test=is_test, rating=rng.integers(1, 6, 139))
    split = vc.split_ratings(log, *shares, published=published)
    assert (split.valid is None) == (shares[1] == 0)
    parts = [split.train, split.test.targets] + ([split.valid.targets] if split.valid else [])
    assert (split.train.nnz, sum(part.nnz for part in parts[2:]), split.test.targets.nnz) == sizes
    triples = [t for part in parts for t in zip(*(v.tolist() for v in (*part.pairs(), part.values)), strict=True)]
    assert sorted(triples) == sorted(zip(log.user.tolist(), log.item.tolist(), log.rating.tolist(), strict=True))
    if published:
        assert pairs(split.test.targets) == set(zip(log.user[is_test], log.item[is_test], strict=True))


@pytest.mark.parametrize("name", ["weak", "ratings", "ratings70", "published weak", "published ratings"])
def test_every_cut_repeats_by_its_seed_and_reaches_every_entry(name):
    """The same seed holds out the same entries; over seeds each entry that may be held out is."""
    n = SIZES.sum()
    columns = {"rating": np.full(n, 3.0)} | ({"is_test": np.arange(n) % 5 == 0} if "published" in name else {})
    log = log_of_sizes(**columns)

    def held(seed):
        if "weak" in name:
            split = vc.split_weak(log, valid=0.25, min_items=1, seed=seed)
        else:
            shares = (0.7, 0.15, 0.15) if name == "ratings70" else (0.6, 0.2, 0.2)
            split = vc.split_ratings(log, *shares, seed=seed)
        return pairs(split.valid.targets), pairs(split.test.targets)

    assert held(3) == held(3) and held(3)[0] != held(4)[0]
    assert ("published" in name) == (held(3)[1] == held(4)[1])
    valid, test = (set.union(*parts) for parts in zip(*(held(seed) for seed in range(60)), strict=True))
    largest = {(len(SIZES) - 1, item) for item in range(SIZES[-1])}
    if "published" in name:
        assert largest - test <= valid and not valid & test
    else:
        assert largest <= valid and largest <= test


def test_published_split_is_kept():
    frame = pd.DataFrame({"user": [0, 0, 0, 1, 1, 1], "item": [0, 1, 2, 0, 1, 2], "rating": [1, 2, 3, 4, 5, 1]})
    frame["is_test"] = [False, False, True, False, True, False]
    log = vc.RatingLog.from_frame(frame, name="toy")
    assert pairs(vc.split_ratings(log).test.targets) == {(0, 2), (1, 1)}
    assert pairs(vc.split_weak(log).test.targets) == {(0, 2), (1, 1)}
    drawn = [pairs(vc.split_ratings(log, 0.5, 0.0, 0.5, seed=s, published=False).test.targets) for s in range(5)]
    assert vc.split_ratings(log).valid is None, "a tenth of four ratings is none: the last epoch is kept"
    assert all(len(held) == 3 for held in drawn) and len(set(map(frozenset, drawn))) > 1


def test_same_seed_same_split_other_seed_other_split(planted):
    first, second, other = (vc.split_strong(planted, seed=s) for s in (1, 1, 2))
    assert pairs(first.train) == pairs(second.train) != pairs(other.train)


def test_a_later_selection_does_not_disturb_numpy(planted):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    vc.split_strong(planted)
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("cut", [*PROTOCOLS.values(), vc.split_all])
def test_what_is_no_log_is_refused_in_one_line(cut):
    for wrong in ("my.csv", pd.DataFrame({"user": [1, 2], "item": [1, 2], "rating": [1.0, 2.0]}), None):
        with pytest.raises(
            vc.ConfigError, match=r"^log=.*: must be a RatingLog, as of RatingLog\.from_frame\(df\), .*$"
        ):
            cut(wrong)


def test_impossible_requests_are_named(planted):
    with pytest.raises(vc.ConfigError, match=r"n_heldout=2000 does not fit .* choose at most 1479,"):
        vc.split_strong(planted, n_heldout=2000)
    for users in (0, 1, 2):
        with pytest.raises(
            vc.ConfigError, match=f"does not fit {users} users? with .*: it takes three users, or lower"
        ):
            vc.split_strong(planted.select(planted.user < users), threshold=None)
    assert vc.split_strong(planted.select(planted.user < 3), threshold=None, seed=2).train.n_users == 1
    with pytest.raises(vc.ConfigError, match=r"threshold=9 \(ratings reach 5\): lower the threshold"):
        vc.split_strong(planted, threshold=9)
    published = replace(planted, is_test=np.arange(len(planted)) % 5 == 0)
    for log, shares in [(planted, (0.8, 0.1, 0.2)), (planted, (0, 0.5, 0.5)), (published, (0.8, 0.2, 0))]:
        with pytest.raises(vc.ConfigError, match="shares that add up to 1"):
            vc.split_ratings(log, *shares)
    with pytest.raises(vc.ConfigError, match="shares that leave something"):
        vc.split_weak(planted, test=1.0)
    clicks = vc.RatingLog.from_frame(pd.DataFrame({"user": [0, 1], "item": [0, 1]}), name="c")
    with pytest.raises(vc.ConfigError, match="has no ratings"):
        vc.split_ratings(clicks)
    with pytest.raises(vc.ConfigError, match="lower min_items"):
        vc.split_weak(clicks)


def log_of(**columns):
    return vc.RatingLog.from_frame(pd.DataFrame(columns), name="toy")


GRID = {"user": np.repeat(np.arange(10), 10), "item": np.tile(np.arange(10), 10)}


def test_an_empty_part_is_refused_before_training():
    """Trained on nothing, every system still prints metrics: loss 0.0 and a ranking by chance."""
    ratings = GRID | {"rating": np.full(100, 5.0)}
    everything, nothing = np.ones(100, dtype=bool), np.zeros(100, dtype=bool)
    for split in (vc.split_weak, vc.split_ratings):
        with pytest.raises(vc.ConfigError, match="nothing of toy is left for training: is_test must mark some"):
            split(log_of(**ratings, is_test=everything))
        with pytest.raises(vc.ConfigError, match="nothing of toy is left for test: is_test must mark some"):
            split(log_of(**ratings, is_test=nothing))
    with pytest.raises(vc.ConfigError, match="nothing of toy is left for test: change the shares"):
        vc.split_ratings(log_of(user=[1, 2], item=[1, 2], rating=[1, 2]))
    with pytest.raises(vc.ConfigError, match="nothing of toy is left for validation: raise valid"):
        vc.split_weak(log_of(**GRID), valid=0.05)
    with pytest.raises(vc.ConfigError, match="nothing of toy is left for test: change test and min_items"):
        vc.split_weak(log_of(**GRID), test=0.05)
    few = log_of(user=np.repeat(np.arange(10), 3), item=np.tile(np.arange(3), 10))
    with pytest.raises(vc.ConfigError, match=r"nothing of toy is left for validation: no user held out .* 5 items"):
        vc.split_strong(few, min_items=1)
    sizes = np.r_[np.full(20, 6), 2]
    uneven = log_of(user=np.repeat(np.arange(21), sizes), item=np.concatenate([np.arange(n) for n in sizes]))
    for seed in range(200):
        if np.random.RandomState(seed).permutation(21)[-1] == 20:
            break
    with pytest.raises(vc.ConfigError, match="nothing of toy is left for test: no user held out"):
        vc.split_strong(uneven, n_heldout=1, min_items=1, seed=seed)


def test_a_split_says_what_it_keeps(planted):
    assert str(vc.split_strong(planted).kept) == (
        "threshold 4 on ratings from 1 to 5, at least 5 items per user: "
        "80,890 of 101,307 ratings and 2,960 of 3,000 users kept"
    )
    assert str(vc.split_weak(log_of(**GRID)).kept) == (
        "at least 5 items per user: 100 of 100 interactions and 10 of 10 users kept"
    )
    assert "at least 1 item per user" in str(vc.split_weak(log_of(**GRID), min_items=0).kept), "of the others is none"
    assert "no threshold on ratings from 1 to 5" in str(vc.split_weak(planted).kept)
    assert vc.split_weak(planted).to("cpu").kept is not None
    assert vc.split_ratings(planted).kept is None, "nothing is thrown away there"


def test_a_split_that_throws_most_away_warns():
    with pytest.warns(UserWarning, match=r"toy: threshold 4 on ratings from 1 to 40, .* 19 of 100 ratings and"):
        vc.split_weak(log_of(**GRID, rating=np.where(np.arange(100) < 19, 40, 1)), threshold=4, min_items=5)
    marks = np.where((GRID["item"] < 2) & (np.arange(100) > 0), 5, 1)
    with pytest.warns(UserWarning, match="19 of 100 ratings and 10 of 10 users kept"):  # less than a fifth, by one
        vc.split_weak(log_of(**GRID, rating=marks), threshold=5, min_items=0, test=0.5)
    lonely = log_of(user=np.r_[GRID["user"], 10:40], item=np.r_[GRID["item"], np.zeros(30, int)])
    with pytest.warns(UserWarning, match="10 of 40 users kept. To keep more, lower threshold or min_items"):
        vc.split_strong(lonely)
    lonely = log_of(user=np.r_[GRID["user"], 10:21], item=np.r_[GRID["item"], np.zeros(11, int)])
    with pytest.warns(UserWarning, match="10 of 21 users kept"):
        vc.split_strong(lonely)


def test_a_split_that_keeps_a_fifth_or_half_is_silent():
    """The highest mark alone is some 22 % of MovieLens' ratings."""
    fifth = vc.split_weak(log_of(**GRID, rating=np.where(GRID["item"] < 2, 5, 1)), threshold=5, min_items=0, test=0.5)
    half = vc.split_strong(log_of(user=np.r_[GRID["user"], 10:20], item=np.r_[GRID["item"], np.zeros(10, int)]))
    assert fifth.kept.ratings == (20, 100) and half.kept.users == (10, 20)  # a warning is an error in these tests


def test_a_threshold_below_the_scale_warns():
    """On a scale of 20 to 100 the default threshold of 4 calls everything liked."""
    percent = log_of(**GRID, rating=20 + 10 * (GRID["item"] % 9))
    with pytest.warns(UserWarning, match="ratings from 20 to 100, .* All ratings count as liked: give a threshold"):
        vc.split_strong(percent)
    for rating in (4 + GRID["item"] % 2, np.full(100, 5.0)):  # the lowest mark is a choice, and one mark is no scale
        assert vc.split_strong(log_of(**GRID, rating=rating), threshold=4).kept.ratings == (100, 100)


def active(log, threshold):
    return np.flatnonzero(np.bincount(log.user[log.rating >= threshold], minlength=log.n_users) >= 5)


def test_the_default_protocol_is_silent_on_usual_ratings(planted, real_data):
    """Chapters print nothing to stderr; the highest mark alone is a choice one may make."""
    for log in (planted, vc.load_dataset("ml-100k"), vc.load_dataset("ml-1m")):
        for threshold in (4, 5):
            kept = vc.split_strong(log, threshold=threshold).kept  # a warning is an error in these tests
            assert kept.ratings[0] == (log.rating[np.isin(log.user, active(log, threshold))] >= threshold).sum()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_named(planted, seed):
    for split in (vc.split_strong, vc.split_weak, vc.split_ratings, vc.split_leave_one_out):
        with pytest.raises(
            vc.ConfigError, match=f"{split.__name__}: seed={seed}: must be a whole number from 0 to 4,294,967,295"
        ):
            split(planted, seed=seed)


def test_an_experiment_prints_what_is_kept(planted, capsys):
    run_experiment("popularity", planted, epochs=1)
    assert capsys.readouterr().err.count("threshold 4 on ratings from 1 to 5") == 1
    run_experiment("popularity", planted, epochs=1, progress=False)
    assert "threshold" not in capsys.readouterr().err


@pytest.mark.parametrize("cut", [vc.split_strong, vc.split_weak, vc.split_ratings, vc.split_leave_one_out])
def test_people_have_all_that_the_log_says_of_them_and_the_rows_they_were_trained_in(cut):
    """Who is served by id must get the history of that id, not of a neighbouring row."""
    log = vc.load_dataset("planted")
    split = cut(log)
    people, trained = split.people, split.people.train_rows >= 0
    kept = log.rating >= 4 if split.protocol == "strong" else np.ones(len(log), dtype=bool)
    for at in (0, 7, len(people.ids) - 1):
        user = int(np.flatnonzero(log.user_ids == people.ids[at])[0])
        items = log.item[kept & (log.user == user)]
        history = people.histories.rows(torch.tensor([at]))
        assert set(split.item_index[history.items]) == set(items) & set(split.item_index)
        if trained[at]:
            row = split.train.rows(torch.tensor([people.train_rows[at]]))
            assert set(row.items.tolist()) <= set(history.items.tolist())
    assert sorted(people.train_rows[trained]) == list(range(split.train.n_users))
    held_out = 0 if split.protocol != "strong" else split.valid.history.nnz + split.test.history.nnz
    parts = [part.targets.nnz for part in (split.valid, split.test) if part is not None]
    assert people.histories.nnz == split.train.nnz + held_out + sum(parts)
    assert (people.histories.values is None) == (split.protocol != "ratings")
    assert split.source["data_sha256"] == log.sha256 and split.source["protocol"] == split.protocol


@pytest.mark.parametrize("cut", [vc.split_strong, vc.split_weak, vc.split_ratings, vc.split_leave_one_out])
def test_a_refit_trains_on_all_that_the_split_kept(planted, cut):
    """Not one interaction of a held-out user or part may be missing, and none that the split threw away may be back."""
    split = cut(planted)
    everything = vc.refit_split(planted, split).to("cpu")
    assert everything.valid is None and everything.test is None and everything.protocol == "all"
    assert everything.people.ids.tolist() == split.people.ids.tolist()
    assert everything.people.train_rows.tolist() == list(range(len(split.people.ids)))
    users = everything.people.ids
    kept = np.isin(planted.user_ids[planted.user], users)
    kept &= planted.rating >= 4 if split.protocol == "strong" else True
    expected = set(zip(planted.user_ids[planted.user[kept]], planted.item_ids[planted.item[kept]], strict=True))
    at, item = everything.train.pairs()
    assert set(zip(users[at], planted.item_ids[everything.item_index[item]], strict=True)) == expected
    assert (everything.train.values is None) == (split.protocol != "ratings")
    if split.protocol == "ratings":
        assert everything.train.values.sum() == planted.rating.sum()


def test_everything_of_a_small_log():
    """Users with two likes are 0 and 2, and item 3 is nobody's then."""
    log = log_of(user=[0, 0, 1, 1, 2, 2, 2], item=[0, 1, 0, 3, 1, 2, 0], rating=[4, 5, 1, 5, 5, 4, 3])
    split = vc.split_all(log, threshold=4, min_items=2)
    assert split.people.ids.tolist() == [0, 2] and split.item_index.tolist() == [0, 1, 2]
    assert pairs(split.train) == {(0, 0), (0, 1), (1, 1), (1, 2)} and split.train.values is None
    assert vc.split_all(log, ratings=True, min_items=2).train.values.tolist() == [4, 5, 1, 5, 3, 5, 4]
    with pytest.raises(vc.ConfigError, match="no user of toy has 5 items: lower min_items"):
        vc.split_all(log)
    with pytest.raises(vc.ConfigError, match="has no ratings: leave ratings=False"):
        vc.split_all(log_of(user=[0], item=[0]), ratings=True)


def test_a_refit_of_a_published_split_keeps_all_its_users():
    """There min_items is not applied, whatever it says."""
    log = log_of(user=[0, 0, 1], item=[0, 1, 0], is_test=[False, True, False])
    assert vc.refit_split(log, vc.split_weak(log, min_items=2)).train.nnz == 3
    with pytest.raises(vc.ConfigError, match="was not cut from this log"):
        vc.refit_split(log_of(user=[0, 0], item=[0, 1]), vc.split_weak(log))
