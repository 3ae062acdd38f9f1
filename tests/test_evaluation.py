"""Ranking and rating metrics against a plain implementation, trec_eval and scikit-learn; ties, large k, empty users."""

import math
import warnings

import numpy as np
import pytest
import pytrec_eval
import torch
from sklearn.metrics import ndcg_score

import vaecf_lib as vc
from vaecf_lib.data import HeldOut, Interactions
from vaecf_lib.evaluation import per_user_metrics, top_items
from vaecf_lib.models import Model
from vaecf_lib.systems import build


class Fixed(Model):
    """Scores given as a table (n_users, n_items)."""

    slug, rates = "fixed", True

    def __init__(self, table):
        super().__init__(table.shape[1])
        self.table = table

    def scores(self, batch):
        return self.table[batch.users]


def world(seed=0, n_users=40, n_items=30, history_share=0.2, target_share=0.15):
    rng = np.random.default_rng(seed)
    draw = rng.random((n_users, n_items))
    history = draw < history_share
    targets = (draw >= history_share) & (draw < history_share + target_share)
    targets[3] = False  # a user without targets
    history[5] = False  # a user without history
    heldout = HeldOut(
        Interactions.from_pairs(*np.nonzero(history), shape=history.shape),
        Interactions.from_pairs(*np.nonzero(targets), shape=targets.shape),
    )
    return torch.from_numpy(rng.standard_normal(draw.shape)).float(), history, targets, heldout


def plain(kind, k, scores, history, targets):
    """One user's metric by the book: no vectors, ties by column."""
    wanted = {i for i in range(len(scores)) if targets[i]}
    ranked = sorted((i for i in range(len(scores)) if not history[i]), key=lambda i: (-scores[i], i))[:k]
    hits = [rank for rank, i in enumerate(ranked, start=1) if i in wanted]
    if kind == "recall":
        return len(hits) / min(k, len(wanted))
    if kind == "recall_all":
        return len(hits) / len(wanted)
    if kind == "mrr":
        return 1 / hits[0] if hits else 0.0
    if kind == "hit":
        return 1.0 if hits else 0.0
    if kind == "precision":
        return len(hits) / min(k, len(scores))
    if kind in ("map", "map_all"):
        return sum(found / rank for found, rank in enumerate(hits, start=1)) / (
            min(k, len(wanted)) if kind == "map" else len(wanted)
        )
    ideal = sum(1 / math.log2(r + 1) for r in range(1, min(k, len(wanted)) + 1))
    return sum(1 / math.log2(r + 1) for r in hits) / ideal


PER_USER = ["recall", "recall_all", "ndcg", "mrr", "map", "map_all", "hit", "precision"]


@pytest.mark.parametrize("kind", PER_USER)
@pytest.mark.parametrize("k", [1, 3, 10, 30, 200])
def test_metrics_equal_the_plain_implementation(kind, k):
    scores, history, targets, heldout = world()
    metric = f"{kind}@{k}"
    values = per_user_metrics(Fixed(scores), heldout, (metric,), batch_size=7)[metric]
    for user in range(len(scores)):
        if targets[user].any():
            expected = plain(kind, k, scores[user].tolist(), history[user], targets[user])
            assert values[user].item() == pytest.approx(expected, abs=1e-9)
        else:
            assert values[user].isnan()


def test_ties_rank_by_column():
    scores, history, targets, heldout = world()
    scores = (scores * 2).round()  # many ties, at the cut-off too
    values = per_user_metrics(Fixed(scores), heldout, ("ndcg@5",))["ndcg@5"]
    for user in np.flatnonzero(targets.any(1)):
        assert values[user].item() == pytest.approx(
            plain("ndcg", 5, scores[user].tolist(), history[user], targets[user])
        )


def test_ndcg_equals_scikit_learn():
    scores, _, targets, heldout = world(history_share=0.0)
    for k in (3, 10, 30):
        values = per_user_metrics(Fixed(scores), heldout, (f"ndcg@{k}",))[f"ndcg@{k}"]
        for user in np.flatnonzero(targets.any(1)):
            expected = ndcg_score(targets[user][None].astype(float), scores[user][None].numpy(), k=k)
            assert values[user].item() == pytest.approx(expected)


TREC_EVAL = {"precision": "P", "recall_all": "recall", "map_all": "map_cut", "hit": "success", "ndcg": "ndcg_cut"}


@pytest.mark.parametrize("k", [1, 5, 20])
def test_metrics_equal_trec_eval(k):
    """The conventions that our names promise to share with the field's reference program, user by user."""
    scores, history, targets, heldout = world()
    users = np.flatnonzero(targets.any(1))
    run = {str(u): {str(i): float(scores[u, i]) for i in np.flatnonzero(~history[u])} for u in users}
    relevant = {str(u): {str(i): 1 for i in np.flatnonzero(targets[u])} for u in users}
    theirs = pytrec_eval.RelevanceEvaluator(relevant, {f"{name}.{k}" for name in TREC_EVAL.values()}).evaluate(run)
    ours = per_user_metrics(Fixed(scores), heldout, tuple(f"{kind}@{k}" for kind in TREC_EVAL))
    for kind, name in TREC_EVAL.items():
        for user in users:
            assert ours[f"{kind}@{k}"][user].item() == pytest.approx(theirs[str(user)][f"{name}_{k}"], abs=1e-6), kind


@pytest.mark.parametrize("kind", ["recall", "ndcg", "mrr", "map", "hit"])
@pytest.mark.parametrize("k", [1, 4, 10])
def test_history_is_never_ranked_and_perfect_is_one(kind, k):
    _, history, targets, heldout = world()
    perfect = torch.from_numpy(10.0 * targets + 100.0 * history).float()
    metric = f"{kind}@{k}"
    assert vc.evaluate(Fixed(perfect), heldout, (metric,))[metric].mean == pytest.approx(1.0)
    worst = torch.from_numpy(-10.0 * targets).float()
    assert vc.evaluate(Fixed(worst), heldout, (metric,))[metric].mean == 0


def test_divisors_where_targets_outnumber_places():
    """What sets recall apart from recall_all and map from map_all: six targets, three places, all of them hits."""
    targets = Interactions.from_pairs([0] * 6, range(6), shape=(1, 9))
    heldout = HeldOut(Interactions.from_pairs([], [], shape=(1, 9)), targets)
    names = ("recall@3", "recall_all@3", "map@3", "map_all@3", "precision@3", "precision@9", "precision@50")
    values = vc.evaluate(Fixed(-torch.arange(9.0)[None]), heldout, names)
    assert [values[name].mean for name in names] == pytest.approx([1, 1 / 2, 1, 1 / 2, 1, 6 / 9, 6 / 9])


def lists(scores, history, targets, k):
    """The lists of all users that have targets, item numbers best first."""
    return [
        sorted((i for i in range(scores.shape[1]) if not history[u, i]), key=lambda i: (-scores[u, i], i))[:k]
        for u in np.flatnonzero(targets.any(1))
    ]


@pytest.mark.parametrize("k", [1, 5, 30, 200])
@pytest.mark.parametrize("batch_size", [7, 500])
def test_coverage_gini_and_novelty_equal_the_plain_implementation(k, batch_size):
    """The history is in no list, not even where a list has more places than there are other items."""
    scores, history, targets, heldout = world(history_share=0.4)
    scores[:, 7] = -9  # in no list but the longest
    model = Fixed(scores)
    model.item_counts += torch.arange(30)
    model.n_train_users.fill_(64)
    shown = lists(scores, history, targets, k)
    counts = np.bincount(np.concatenate(shown), minlength=30)
    bits = -np.log2(np.maximum(np.arange(30), 1) / 64)
    names = (f"coverage@{k}", f"gini@{k}", f"novelty@{k}", f"ndcg@{2 * k}")  # the last one's lists are longer
    values = vc.evaluate(model, heldout, names, batch_size)
    assert values[names[0]].mean == pytest.approx((counts > 0).mean())
    differences = np.abs(counts[:, None] - counts[None]).mean()  # the definition that needs no sorting
    assert values[names[1]].mean == pytest.approx(differences / (2 * counts.mean()))
    novelty = np.array([bits[items].mean() for items in shown])
    assert values[names[2]].mean == pytest.approx(novelty.mean())
    assert values[names[2]].ci == pytest.approx(1.96 * novelty.std(ddof=1) / math.sqrt(len(shown)))
    assert {v.n_users for v in values.values()} == {len(shown)}
    assert all(math.isnan(values[name].ci) for name in names[:2]), "no interval over users"
    assert "±" not in str(values[names[0]]) and "±" in str(values[names[2]])


def test_extremes_of_coverage_and_gini():
    """Everybody gets another item: all is covered, evenly. Everybody gets the same one: the opposite."""
    n = 12
    heldout = HeldOut(
        Interactions.from_pairs([], [], shape=(n, n)), Interactions.from_pairs(range(n), range(n), shape=(n, n))
    )
    own = vc.evaluate(Fixed(torch.eye(n)), heldout, ("coverage@1", "gini@1"))
    assert own["coverage@1"].mean == 1 and own["gini@1"].mean == pytest.approx(0)
    same = vc.evaluate(Fixed(torch.arange(n).float().expand(n, -1)), heldout, ("coverage@1", "gini@1"))
    assert same["coverage@1"].mean == pytest.approx(1 / n) and same["gini@1"].mean == pytest.approx(1 - 1 / n)


def test_novelty_knows_the_training_users(planted_split, tmp_path):
    """Counts come from what the model was trained on, not from the histories of those it is measured on; saved too."""
    model = vc.baselines.Popularity(planted_split.n_items)
    with pytest.raises(vc.ConfigError, match=r"novelty needs to know .*: train popularity with fit\(\)"):
        vc.evaluate(model, planted_split.test, ("novelty@1",))
    vc.fit(model, planted_split, progress=False, out=tmp_path)
    share = planted_split.train.item_counts / planted_split.train.n_users
    found = vc.evaluate(model, planted_split.test, ("novelty@1",))["novelty@1"].mean
    assert -math.log2(share.max()) <= found < -math.log2(share.max()) + 1
    assert found == vc.evaluate(vc.load_model(tmp_path), planted_split.test, ("novelty@1",))["novelty@1"].mean


def test_a_single_user_has_no_coverage():
    scores, _, _, heldout = world()
    for metric in ("coverage@5", "gini@5"):
        with pytest.raises(vc.ConfigError, match=f"{metric} is one number for all lists together: use evaluate"):
            per_user_metrics(Fixed(scores), heldout, (metric,))


@pytest.mark.parametrize(("metric", "pick"), [("gini@5", min), ("coverage@5", max), ("map@5", max), ("rmse", min)])
def test_validation_looks_for_the_better_end(planted, planted_split, metric, pick):
    """A small Gini coefficient is good, as a small error is; the other metrics are good when large."""
    if metric == "rmse":
        model, split = build("dae-cf", planted.n_items, latent_dim=4), vc.split_ratings(planted)
    else:
        model, split = vc.models.MultDAE(planted_split.n_items, latent_dim=4), planted_split
    run = vc.fit(model, split, epochs=3, metric=metric, progress=False)
    assert run.best[metric] == pick(run.curve(metric)) and len(set(run.curve(metric))) > 1


def test_interval_and_count():
    scores, _, targets, heldout = world()
    values = per_user_metrics(Fixed(scores), heldout, ("ndcg@10",))["ndcg@10"]
    values = values[~values.isnan()].numpy()
    estimate = vc.evaluate(Fixed(scores), heldout, ("ndcg@10",))["ndcg@10"]
    assert estimate.n_users == len(values) == int(targets.any(1).sum())
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.ci == pytest.approx(1.96 * values.std(ddof=1) / math.sqrt(len(values)))
    assert heldout.n_without_targets == int((~targets.any(1)).sum())


def test_interval_covers_the_truth():
    """About 95 % of intervals over random users must hold the mean over very many users."""
    generator = torch.Generator().manual_seed(0)
    n, rounds, covered = 60, 300, 0
    for _ in range(rounds):
        scores = torch.rand(n, 20, generator=generator)
        eye = Interactions.from_pairs(np.arange(n), np.zeros(n, int), shape=(n, 20))
        none = Interactions.from_pairs([], [], shape=(n, 20))
        estimate = vc.evaluate(Fixed(scores), HeldOut(none, eye), ("recall@10",))["recall@10"]
        covered += abs(estimate.mean - 0.5) <= estimate.ci
    assert 0.90 <= covered / rounds <= 0.99


def ratings_world():
    rng = np.random.default_rng(1)
    user, item = np.nonzero(rng.random((25, 12)) < 0.4)
    value = rng.integers(1, 6, len(user)).astype(float)
    targets = Interactions.from_pairs(user, item, value, shape=(25, 12))
    history = Interactions.from_pairs([], [], [], shape=(25, 12))
    return torch.from_numpy(rng.uniform(1, 5, (25, 12))).float(), user, item, value, HeldOut(history, targets)


def test_rmse_and_mae_are_pooled_over_ratings():
    table, user, item, value, heldout = ratings_world()
    error = table.numpy()[user, item] - value
    result = vc.evaluate(Fixed(table), heldout, ("rmse", "mae"), batch_size=4)
    assert result["rmse"].mean == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)
    assert result["mae"].mean == pytest.approx(np.abs(error).mean(), rel=1e-6)


def test_predictions_are_cut_off_at_the_scale_of_the_histories():
    """The scale is what is known, 2 to 4 here: not that of the targets, which has a 1 and a 5."""
    history = Interactions.from_pairs([0, 1], [0, 0], [2.0, 4.0], shape=(2, 5))
    targets = Interactions.from_pairs([0, 0, 0, 1, 1], [1, 2, 3, 1, 2], [1.0, 5.0, 3.0, 4.0, 2.0], shape=(2, 5))
    table = torch.tensor([[0.0, -7.0, 9.0, 3.5, 0.0], [0.0, 40.0, 2.5, 0.0, 0.0]])
    error = np.array([2 - 1, 4 - 5, 3.5 - 3, 4 - 4, 2.5 - 2])
    result = vc.evaluate(Fixed(table), HeldOut(history, targets), ("rmse", "mae", "recall@1"))
    assert result["rmse"].mean == pytest.approx(np.sqrt((error**2).mean()))
    assert result["mae"].mean == pytest.approx(np.abs(error).mean())
    assert result["recall@1"].mean == 1.0, "the order of items is not cut off"


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_measured_in_evaluation_mode_and_gets_its_own_back(training):
    """Left in evaluation mode, whoever trains it step by step would train without dropout."""
    scores, _, _, heldout = world()
    modes = []

    class Watched(Fixed):
        def scores(self, batch):
            modes.append(self.training)
            return super().scores(batch)

    model = Watched(scores).train(training)
    vc.evaluate(model, heldout, ("ndcg@10",), batch_size=20)
    assert modes == [False, False] and model.training is training
    model.table = scores * math.nan
    for measure in (vc.evaluate, per_user_metrics):
        with pytest.raises(vc.ConfigError, match="hold nan"):
            measure(model, heldout, ("ndcg@10",))
        assert model.training is training, "after an error, too"


def test_rmse_interval_agrees_with_the_bootstrap():
    table, user, item, value, heldout = ratings_world()
    error2 = (table.numpy()[user, item] - value) ** 2
    sums, counts = np.bincount(user, error2, 25), np.bincount(user, minlength=25)
    rng = np.random.default_rng(0)
    draws = rng.integers(0, 25, (4000, 25))
    spread = np.sqrt(sums[draws].sum(1) / counts[draws].sum(1)).std()
    ci = vc.evaluate(Fixed(table), heldout, ("rmse",))["rmse"].ci
    assert ci == pytest.approx(1.96 * spread, rel=0.15)


def test_top_items_puts_forbidden_items_last():
    scores = torch.tensor([[1.0, -math.inf, 3.0, 2.0], [0.0, 0.0, -math.inf, 0.0]])
    assert top_items(scores, 4).tolist() == [[2, 3, 0, 1], [0, 1, 3, 2]]
    assert top_items(scores, 99).shape == (2, 4)


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("kind", ["recall", "ndcg"])
def test_both_readings_of_ranking_by_ratings(kind, k):
    """Relevant is what was rated above 3; ranked is the whole catalogue, or the user's own held-out ratings."""
    rng = np.random.default_rng(3)
    scores, history, targets, _ = world()
    ratings = rng.integers(1, 6, targets.shape)
    ratings[4][targets[4]] = 2  # somebody who liked nothing
    targets[6] = False
    targets[6, np.flatnonzero(~history[6])[0]] = True  # and somebody with a single rating
    heldout = HeldOut(
        Interactions.from_pairs(*np.nonzero(history), shape=history.shape),
        Interactions.from_pairs(*np.nonzero(targets), ratings[targets], shape=targets.shape),
    )
    names = (f"{kind}_liked@{k}", f"{kind}_rated@{k}", f"{kind}@{k}", "rmse")
    values = per_user_metrics(Fixed(scores), heldout, names, batch_size=7)
    alone = per_user_metrics(Fixed(scores), heldout, (names[1],), batch_size=7)[names[1]]  # without the whole ranking
    assert torch.equal(alone.nan_to_num(-1), values[names[1]].nan_to_num(-1))
    for user in range(len(scores)):
        liked = targets[user] & (ratings[user] > 3)
        for name, forbidden, least in ((names[0], history[user], 1), (names[1], ~targets[user], 2)):
            if liked.any() and targets[user].sum() >= least:
                expected = plain(kind, k, scores[user].tolist(), forbidden, liked)
                assert values[name][user].item() == pytest.approx(expected, abs=1e-9)
            else:
                assert values[name][user].isnan()


@pytest.mark.parametrize("kind", [*PER_USER, "ndcg_liked", "ndcg_rated", "recall_rated"])
def test_a_list_longer_than_the_catalogue_costs_nothing(kind):
    """Ten billion places are as many as there are items."""
    scores, _, _, _, heldout = ratings_world()
    few, many = f"{kind}@{scores.shape[1]}", f"{kind}@10000000000"
    values = vc.evaluate(Fixed(scores), heldout, (few, many))
    assert values[few] == values[many]
    beside = vc.evaluate(Fixed(scores), heldout, (f"{kind}@5", many))
    assert beside[f"{kind}@5"] == vc.evaluate(Fixed(scores), heldout, (f"{kind}@5",))[f"{kind}@5"]


def test_a_large_catalogue_takes_smaller_batches(planted_split, monkeypatch):
    """The memory of an evaluation is bounded whatever the number of items, and its values stay the same."""
    model, sizes = vc.build("mult-vae", planted_split.n_items, hidden=8, latent_dim=4).eval(), []
    scores = type(model).scores
    monkeypatch.setattr(type(model), "scores", lambda self, batch: (sizes.append(len(batch)), scores(self, batch))[1])
    whole = vc.evaluate(model, planted_split.test, ("ndcg@100",))
    assert max(sizes) > 7
    monkeypatch.setattr("vaecf_lib.evaluation.SCORES_BYTES", 7 * 4 * planted_split.n_items)
    sizes.clear()
    parts = vc.evaluate(model, planted_split.test, ("ndcg@100",))
    assert max(sizes) == 7 and parts["ndcg@100"].mean == pytest.approx(whole["ndcg@100"].mean, rel=1e-9)


def test_one_user_gives_no_interval_and_no_warning():
    scores, _, _, _, heldout = ratings_world()
    one = HeldOut(*(Interactions(p.indptr[:2], p.indices[: p.indptr[1]], None, (1, p.n_items))
                    for p in (heldout.history, heldout.targets)))  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate = vc.evaluate(Fixed(scores[:1]), one, ("ndcg@5",))["ndcg@5"]
    assert estimate.n_users == 1 and math.isnan(estimate.ci)
    assert str(estimate) == f"{estimate.mean:.3f} (1 user)"


def test_errors_name_the_remedy():
    scores, _, _, heldout = world()
    with pytest.raises(vc.ConfigError, match=r"unknown metric 'ndgc@10'. Known: recall@K"):
        vc.evaluate(Fixed(scores), heldout, ("ndgc@10",))
    with pytest.raises(vc.ConfigError, match="rmse needs target ratings"):
        vc.evaluate(Fixed(scores), heldout, ("rmse",))
    with pytest.raises(vc.ConfigError, match="ndcg_rated@5 needs target ratings"):
        vc.evaluate(Fixed(scores), heldout, ("ndcg_rated@5",))
    _, _, _, _, ratings = ratings_world()
    with pytest.raises(vc.ConfigError, match="popularity ranks items and predicts no ratings"):
        vc.evaluate(vc.baselines.Popularity(12), ratings, ("rmse",))
    with pytest.raises(vc.ConfigError, match="hold nan"):
        vc.evaluate(Fixed(scores * math.nan), heldout, ("ndcg@10",))
    with pytest.raises(vc.ConfigError, match="wrong split"):
        vc.evaluate(Fixed(scores[:, :10]), heldout, ("ndcg@10",))
    nothing = Interactions.from_pairs([], [], shape=(40, 30))
    with pytest.raises(vc.ConfigError, match="no user has anything to be found"):
        vc.evaluate(Fixed(scores), HeldOut(nothing, nothing), ("ndcg@10",))
    with pytest.raises(vc.ConfigError, match="unknown metric 'ndcg@0'"):
        vc.evaluate(Fixed(scores), heldout, ("ndcg@0",))


def test_ties_go_by_column_at_every_length():
    """Also where the list ends one item before the catalogue does, and where columns may not be ranked."""
    scores = torch.randint(0, 4, (50, 9), generator=torch.Generator().manual_seed(0)).float()
    scores[scores == 0] = -torch.inf
    whole = scores.sort(dim=1, descending=True, stable=True).indices
    for k in range(1, 11):
        assert torch.equal(top_items(scores, k), whole[:, :k])


@pytest.mark.parametrize("column", [0, 8])
def test_a_single_nan_is_found(column):
    """Wherever it stands, however short the list."""
    scores = torch.arange(18.0).reshape(2, 9)
    scores[1, column] = torch.nan
    with pytest.raises(vc.ConfigError, match="scores hold nan"):
        top_items(scores, 1)
