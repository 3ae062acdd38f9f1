"""ImplicitSLIM against its dense formula, and against the item-item model that it stands for."""

import numpy as np
import pytest
import torch

import vaecf_lib as vc
from vaecf_lib.data import Interactions
from vaecf_lib.nn import layers, times_gram


def world(n_users=30, n_items=12, k=4):
    rng = np.random.default_rng(0)
    X = (rng.random((n_users, n_items)) < np.linspace(0.05, 0.6, n_items)).astype(float)
    return X, rng.normal(size=(n_items, k))


@pytest.mark.parametrize(("penalty", "alpha", "threshold"), [(3.0, 1.0, 0), (3.0, 0.2, 8), (50.0, 7.0, 12)])
def test_it_equals_the_dense_formula(penalty, alpha, threshold):
    """alpha (C + alpha A A^T)^-1 A A^T V with an explicit inverse of items x items, in float64."""
    X, V = world()
    G, counts = X.T @ X, X.sum(0)
    A = np.where((counts >= threshold)[:, None], V, 0)
    ridge = G + penalty * np.eye(len(G))
    C = np.linalg.inv(ridge @ np.diag(1 / (counts + penalty) ** 2) @ ridge)
    expected = alpha * np.linalg.inv(C + alpha * A @ A.T) @ A @ A.T @ V
    got = vc.maths.implicit_slim(
        torch.from_numpy(V), lambda M: torch.from_numpy(G) @ M, torch.from_numpy(counts), penalty, alpha, threshold
    )
    assert np.allclose(got.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert 0 < (counts < threshold).sum() or threshold == 0, "some items are below the threshold"


def test_it_equals_the_public_codes_steps():
    """In its own order of products, with its item columns W (k, n_items) and the correction of rank k."""
    X, V = world()
    W, G, lam, alpha = V.T, X.T @ X, 3.0, 0.5
    A = np.where(X.sum(0) < 8, 0, W)
    M = (lam * A + A @ G) / (X.sum(0) + lam) ** 2
    AC = lam * M + M @ G
    small = AC @ A.T
    expected = alpha * W @ A.T @ (AC - small @ np.linalg.inv(np.eye(4) / alpha + small) @ AC)
    got = vc.maths.implicit_slim(
        torch.from_numpy(V), lambda N: torch.from_numpy(G) @ N, torch.from_numpy(X.sum(0)), lam, alpha, 8
    )
    assert np.allclose(got.numpy().T, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("at_once", [7, 4096])
def test_the_product_with_the_gram_matrix_is_the_dense_one(monkeypatch, at_once):
    """Whether users come in one piece or in several, the last of them smaller; ratings count as clicks."""
    monkeypatch.setattr(layers, "USERS_AT_ONCE", at_once)
    X, V = world()
    X[3] = 0
    users, items = X.nonzero()
    train = Interactions.from_pairs(users, items, np.full(len(users), 5.0), shape=X.shape)
    got = times_gram(train, torch.from_numpy(V))
    assert got.dtype == torch.float64 and np.allclose(got.numpy(), X.T @ X @ V)


def test_float32_is_enough(planted_split):
    """On data with heavy users and rare items the result in float32 is that in float64."""
    train = planted_split.train
    V = torch.randn(train.n_items, 20, generator=torch.Generator().manual_seed(0))
    narrow, wide = (
        vc.maths.implicit_slim(table, lambda M: times_gram(train, M), train.item_counts, 100.0, 1.0, 30)
        for table in (V, V.double())
    )
    assert narrow.dtype == torch.float32
    assert float((narrow - wide).norm() / wide.norm()) < 1e-4
