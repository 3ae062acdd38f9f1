"""Weighted matrix factorisation: by alternating least squares, and as a linear autoencoder."""

import sys

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.baselines import wmf
from vaecf_lib.data import Interactions
from vaecf_lib.models.item_tables import renew
from vaecf_lib.nn import times_gram
from vaecf_lib.systems import build

RNG = np.random.default_rng(5)
X = (RNG.random((30, 13)) < 0.3).astype(float)
X[4] = 0
TRAIN = Interactions.from_pairs(*X.nonzero(), shape=X.shape)
OPTIONS = {"latent_dim": 3, "alpha": 2.5, "penalty": 0.7}


def fitted(**options):
    torch.manual_seed(1)
    model = build("wmf", X.shape[1], **(OPTIONS | options))
    model.start(TRAIN)
    return model


def half_sweep(clicks, others, alpha, penalty):
    """Hu et al. 2008, Eq. 4, in NumPy: (Y^T C Y + lambda I)^-1 Y^T C p for each row of ``clicks``."""
    rows = []
    for p in clicks:
        C = np.diag(1 + alpha * p)
        rows.append(np.linalg.solve(others.T @ C @ others + penalty * np.eye(others.shape[1]), others.T @ C @ p))
    return np.array(rows)


def test_the_factors_are_a_fixed_point_of_alternating_least_squares():
    """After many sweeps, each side is the exact solution given the other."""
    model = fitted(sweeps=300)
    Y = model.factors.double().numpy()
    users = half_sweep(X, Y, 2.5, 0.7)
    found = model.fold_in(TRAIN.rows(torch.arange(30))).numpy()
    assert np.allclose(found, users, atol=1e-5) and (found[4] == 0).all() and np.abs(found).max() > 0.3
    assert np.allclose(half_sweep(X.T, users, 2.5, 0.7), Y, atol=2e-3)
    assert np.allclose(model.scores(TRAIN.rows(torch.tensor([7]))).numpy(), users[[7]] @ Y.T, atol=1e-5)


def test_strangers_get_the_factors_that_implicit_gives_them(monkeypatch):
    """Its recalculate_user, for a batch in parts, too."""
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    model = fitted()
    monkeypatch.setattr(wmf, "FOLD_IN_BYTES", 8 * 3**2 * 2)
    theirs = AlternatingLeastSquares(factors=3, regularization=0.7, alpha=3.5)
    theirs.item_factors = model.factors.numpy()
    expected = theirs.recalculate_user(np.arange(5), csr_matrix(X[:5], dtype=np.float32))
    model.double()  # as wide as it is solved in: nothing of the model's own is written over
    for _ in range(2):
        assert np.allclose(model.fold_in(TRAIN.rows(torch.arange(5))).numpy(), expected, atol=1e-5)


def test_the_same_seed_gives_the_same_factors_and_no_warning(recwarn):
    assert torch.equal(fitted().factors, fitted().factors)
    assert not recwarn.list


def test_without_the_library_it_is_refused_and_a_trained_one_serves(monkeypatch, tmp_path):
    model = fitted()
    vc.save_model(model, tmp_path / "m")
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(vc.ConfigError, match=r"^wmf needs the library implicit to be trained: pip install implicit$"):
        fitted()
    batch = TRAIN.rows(torch.arange(4))
    assert torch.equal(vc.load_model(tmp_path / "m").scores(batch), model.scores(batch))


def test_what_the_library_cannot_fit_ends_in_one_line(monkeypatch):
    class Fails:
        def __init__(self, **options):
            pass

        def fit(self, *arguments, **options):
            raise ValueError("singular\nmatrix")

    _, *others = wmf._als()
    monkeypatch.setattr(wmf, "_als", lambda: (Fails, *others))
    with pytest.raises(vc.TrainingError, match=r"^wmf: implicit cannot fit it \(singular\)\. Raise penalty, or lower"):
        fitted()


def test_wmf_linear():
    """Lobel et al. 2020: W2 W1 x with c = 1 + alpha for clicks, 1 elsewhere; the dropout's mask on the input alone."""
    torch.manual_seed(0)
    model = build("wmf-linear", X.shape[1], latent_dim=4, alpha=1.5, penalty=0.3)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    w = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    users = [3, 4, 0]
    batch = TRAIN.rows(torch.tensor(users))
    unit = X[users] / np.maximum(np.linalg.norm(X[users], axis=1, keepdims=True), 1e-9)

    def predicted(inputs):
        return (inputs @ w["input.weight"] + w["input.bias"]) @ w["output.weight"].T + w["output.bias"]

    with torch.no_grad():
        assert np.allclose(model.eval().scores(batch).numpy(), predicted(unit), atol=1e-5)
    torch.manual_seed(7)
    loss, _ = model.train().loss(batch, 0.0)
    torch.manual_seed(7)
    mask = torch.zeros(3, X.shape[1])
    mask[batch.rows, batch.items] = torch.nn.functional.dropout(torch.ones(len(batch.items)), 0.5)
    error = (1 + 1.5 * X[users]) * (X[users] - predicted(unit * mask.numpy())) ** 2
    assert loss.item() == pytest.approx(error.sum() / 3, rel=1e-5)
    (phase,) = model.phases()
    assert [group.get("weight_decay", 0) for group in phase.parameters] == [0.6, 0]


@pytest.mark.slow
def test_wmf_linear_learns_the_planted_world(planted_split):
    """The popular list has 0.267, the best attainable ranking 0.445."""
    model = build("wmf-linear", planted_split.n_items, latent_dim=32, lr=4e-3)
    run = vc.fit(model, planted_split, epochs=40, device="cpu", progress=False, validate_every=5)
    assert vc.evaluate(model, planted_split.test, ("ndcg@100",))["ndcg@100"].mean > 0.38
    assert np.isfinite(run.curve("loss")).all()


def test_factors_are_renewed_before_every_second_sweep_but_not_after_the_last(monkeypatch):
    """What a sweep begins with is the ImplicitSLIM form of what the one before it left."""
    turns, distances = [], []

    def noted(tables, options, turn, train):
        old = tables[0].clone()
        renew(tables, options, turn, train)
        turns.append((turn, torch.equal(tables[0], old)))
        slim = vc.maths.implicit_slim(old, lambda M: times_gram(TRAIN, M), TRAIN.item_counts, 2.0, 0.5, 8)
        distances.append(float((tables[0] - slim).abs().max()))

    monkeypatch.setattr(wmf, "renew", noted)
    options = {"implicit_slim": 2, "slim_penalty": 2.0, "slim_alpha": 0.5, "slim_threshold": 8}
    found = fitted(sweeps=4, **options).factors
    assert turns == [(2, False), (3, True), (4, False)]
    assert max(distances[0], distances[2]) < 1e-5 < distances[1]
    assert not torch.allclose(found, fitted(sweeps=4).factors, atol=1e-3), "the library goes on from the renewed ones"
    with pytest.raises(vc.ConfigError, match=r"^wmf: slim_threshold=99: no item has so many users, .*: lower it$"):
        build("wmf", X.shape[1], implicit_slim=2, slim_threshold=99).prepare(TRAIN)
