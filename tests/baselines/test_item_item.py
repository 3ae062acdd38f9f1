"""Weights between items: against plain NumPy and scikit-learn, kept in files, refused where they are too many."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import ElasticNet

import vaecf_lib as vc
from vaecf_lib.baselines import item_item, slim
from vaecf_lib.data import Interactions
from vaecf_lib.systems import build

RNG = np.random.default_rng(6)
X = (RNG.random((40, 11)) < RNG.uniform(0.1, 0.7, 11)).astype(float)
X[5], X[:, 8] = 0, 0  # a user and an item without clicks
N = X.shape[1]
TRAIN = Interactions.from_pairs(*X.nonzero(), shape=X.shape)
SOLVED = {
    "itemknn": {"neighbours": 4},
    "ease": {"penalty": 2.0},
    "slim": {"l1": 0.5, "penalty": 2.0},
    "wmf": {"latent_dim": 3},
}


def weights(slug, train=TRAIN, **options):
    """Return what each single item adds to the scores, (n_items, n_items), and check that histories add up."""
    model = build(slug, N, **options)
    model.start(train)
    single = model.scores(Interactions.from_pairs(range(N), range(N), shape=(N, N)).rows(torch.arange(N))).numpy()
    scores = model.scores(TRAIN.rows(torch.tensor([7, 5, 0]))).numpy()
    assert np.allclose(scores, X[[7, 5, 0]] @ single, atol=1e-5)
    return single


def test_co_occurrences_are_the_products_of_columns():
    rated = Interactions.from_pairs(*X.nonzero(), RNG.random(TRAIN.nnz) + 1, shape=X.shape)
    for train in (TRAIN, rated):
        assert (item_item.gram(train, torch.float64).numpy() == X.T @ X).all()
        assert (item_item.co_occurrences(train, train.transposed(), range(3, 5)).numpy() == (X.T @ X)[3:5]).all()


def test_itemknn():
    """Each target keeps its nearest items, by a cosine drawn towards zero; ties are not to be expected here."""
    G = X.T @ X
    expected = np.zeros((N, N))
    for j in range(N):
        similarity = [G[i, j] / (np.sqrt(G[i, i] * G[j, j]) + 2.5) if i != j else 0 for i in range(N)]
        for i in np.argsort(similarity)[-3:]:
            expected[i, j] = similarity[i]
    assert np.allclose(weights("itemknn", neighbours=3, shrink=2.5), expected, atol=1e-6)
    assert (weights("itemknn", neighbours=99, shrink=0.0) > 0).sum() == ((G > 0) & ~np.eye(N, dtype=bool)).sum()


def test_ease():
    """Steck 2019: each column is the ridge regression of an item on all others."""
    expected = np.zeros((N, N))
    for j in range(N):
        others = np.arange(N) != j
        A = X[:, others]
        expected[others, j] = np.linalg.solve(A.T @ A + 3.0 * np.eye(N - 1), A.T @ X[:, j])
    found = weights("ease", penalty=3.0)
    assert np.allclose(found, expected, atol=1e-6) and (found.diagonal() == 0).all()


@pytest.mark.parametrize(("l1", "penalty"), [(0.5, 2.0), (3.0, 0.1), (0.01, 20.0)])
def test_slim(monkeypatch, l1, penalty):
    """Ning and Karypis 2011: each column is scikit-learn's non-negative elastic net of an item on all others."""
    monkeypatch.setattr(slim, "TARGETS_AT_ONCE", 4)
    monkeypatch.setattr(slim, "COORDINATES_AT_ONCE", 3)
    expected = np.zeros((N, N))
    for j in range(N):
        A = X.copy()
        A[:, j] = 0
        net = ElasticNet(
            alpha=(l1 + penalty) / len(X), l1_ratio=l1 / (l1 + penalty), positive=True, fit_intercept=False,
            max_iter=10_000, tol=1e-9,
        )  # fmt: skip
        expected[:, j] = net.fit(A, X[:, j]).coef_
    found = weights("slim", l1=l1, penalty=penalty, tol=1e-6)
    assert np.allclose(found, expected, atol=1e-5) and (found.diagonal() == 0).all()
    assert 0.05 < (expected > 0).mean() < 0.95, "some weights are zero, some are not"


def test_slim_says_what_has_not_converged():
    with pytest.warns(UserWarning, match=r"slim: the weights of \d+ items still move .* after 1 sweep: allow more"):
        weights("slim", l1=0.5, penalty=2.0, sweeps=1)


def test_scores_in_parts_are_the_same(monkeypatch):
    whole = weights("itemknn")
    monkeypatch.setattr(item_item, "PAIRS_AT_ONCE", 1)
    assert np.allclose(weights("itemknn"), whole)


@pytest.mark.parametrize("slug", SOLVED)
def test_ratings_are_clicks(slug):
    rated = Interactions.from_pairs(*X.nonzero(), RNG.integers(1, 6, TRAIN.nnz), shape=X.shape)
    found = []
    for train in (TRAIN, rated):
        torch.manual_seed(0)
        model = build(slug, N, **SOLVED[slug])
        model.start(train)
        found.append(model.scores(train.rows(torch.arange(9))))
    assert torch.equal(*found)


@pytest.mark.parametrize("slug", ["ease", "slim"])
def test_what_is_too_large_is_refused_before_it_is_begun(slug, monkeypatch):
    monkeypatch.setattr(item_item, "co_occurrences", None)
    large = Interactions.from_pairs([0, 1], [5, 20_107], shape=(2, 20_108))
    model = build(slug, 20_108, memory_gb=1)
    with pytest.raises(
        vc.ConfigError, match=rf"^{slug} needs \d\.\d\d? GB for 20,108 items, more than memory_gb=1: raise it"
    ):
        model.start(large)
    monkeypatch.setattr(f"vaecf_lib.baselines.{slug}.product_rate", lambda device, dtype: 5e10)
    line = model.demands(large, torch.device("cpu"))
    assert line.startswith(f"{slug}: a matrix of 20,108 x 20,108 items, ") and " GB, about " in line and " min" in line
    assert build(slug, N).demands(TRAIN, torch.device("cpu")) is None


def test_fit_says_what_it_takes_before_it_begins(planted_split, monkeypatch, tmp_path, capsys):
    """To those who want to see progress, and not where nothing is solved."""
    monkeypatch.setattr(item_item, "WORTH_SAYING", (0.0, 0.0))
    for out, progress, said in ((None, False, False), (tmp_path, True, True), (tmp_path, True, False)):
        vc.fit(build("ease", planted_split.n_items), planted_split, device="cpu", progress=progress, out=out)
        assert ("ease: a matrix of 500 x 500 items, 0.0 GB" in capsys.readouterr().err) == said


def test_ease_that_cannot_be_solved_is_refused():
    """Two items that the same people have."""
    twins = Interactions.from_pairs([0, 0, 1, 1, 2, 2, 3, 3], [0, 1] * 4, shape=(4, 2))
    with pytest.raises(vc.ConfigError, match=r"^ease: penalty=1e-300: too small to solve for these data: raise it$"):
        build("ease", 2, penalty=1e-300).start(twins)


@pytest.mark.parametrize("slug", ["itemknn", "ease", "slim"])
def test_nobody_is_scored_before_the_system_is_fitted(slug):
    with pytest.raises(vc.ConfigError, match=f"^this {slug} was never trained: call fit first$"):
        build(slug, N).scores(TRAIN.rows(torch.arange(2)))


@pytest.mark.parametrize("slug", SOLVED)
def test_a_solved_run_is_not_solved_again(slug, planted_split, tmp_path, monkeypatch):
    """Called again, and loaded, it has the tables of its file; how long it took is known once."""
    first = build(slug, planted_split.n_items)
    run = vc.fit(first, planted_split, device="cpu", out=tmp_path, progress=False)
    assert run.seconds_to_start > 0 and run.history == []
    monkeypatch.setattr(type(first), "start", None)
    again = build(slug, planted_split.n_items)
    assert np.isnan(vc.fit(again, planted_split, device="cpu", out=tmp_path, progress=False).seconds_to_start)
    history = planted_split.test.history.rows(torch.arange(20))
    expected = first.scores(history)
    for model in (again, vc.load_model(tmp_path)):
        assert torch.equal(model.scores(history), expected)
    assert expected.std() > 0


@pytest.mark.parametrize(("slug", "enough"), [("itemknn", 0.37), ("ease", 0.38), ("slim", 0.38), ("wmf", 0.38)])
def test_learns_the_planted_world(planted_split, slug, enough):
    """The popular list has 0.267, the best attainable ranking 0.445."""
    model = build(slug, planted_split.n_items)
    vc.fit(model, planted_split, device="cpu", progress=False)
    assert vc.evaluate(model, planted_split.test, ("ndcg@100",))["ndcg@100"].mean > enough
