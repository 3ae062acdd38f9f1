"""The three likelihoods: plain versions, bounds, gaps, gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from vaecf_lib import maths
from vaecf_lib.data import Batch


def cases(n, n_items=7, seed=0):
    """Random logits (n, n_items) and clicks with every count from 1 to n_items."""
    generator = torch.Generator().manual_seed(seed)
    eta = 2 * torch.randn(n, n_items, dtype=torch.float64, generator=generator)
    k = torch.arange(n) % n_items + 1
    ranks = torch.rand(n, n_items, generator=generator).argsort(1).argsort(1)
    return eta, (ranks < k[:, None]).double()


def log_e(eta, k):
    return math.log(sum(math.exp(sum(eta[i] for i in c)) for c in itertools.combinations(range(len(eta)), int(k))))


def test_multinomial_equals_scipy():
    eta, x = cases(30)
    k = x.sum(1).numpy()
    pi = torch.softmax(eta, 1).numpy()
    expected = [
        stats.multinomial.logpmf(c, int(n), p / p.sum()) - math.lgamma(n + 1)
        for c, n, p in zip(x.numpy(), k, pi, strict=True)
    ]
    assert np.allclose(maths.multinomial_log_prob(eta, x), expected)


def test_bernoulli_equals_scipy():
    eta, x = cases(30)
    expected = stats.bernoulli.logpmf(x.numpy(), torch.sigmoid(eta).numpy()).sum(1)
    assert np.allclose(maths.bernoulli_log_prob(eta, x), expected)


def test_n_choose_k_sums_to_one():
    eta = cases(1)[0]
    for k in range(8):
        sets = torch.zeros(math.comb(7, k), 7, dtype=torch.float64)
        for row, c in zip(sets, itertools.combinations(range(7), k), strict=True):
            row[list(c)] = 1
        total = maths.n_choose_k_log_prob(eta.expand(len(sets), -1), sets, "exact").exp().sum()
        assert math.isclose(total.item(), 1.0, rel_tol=1e-9)


def test_theorem_1_sorting_maximises_every_monotone_gain():
    rng = np.random.default_rng(0)
    for n_items in range(2, 7):
        for k in range(1, n_items + 1):
            eta = 1.5 * rng.standard_normal(n_items)
            sets = list(itertools.combinations(range(n_items), k))
            p = np.exp([eta[list(c)].sum() for c in sets])
            p /= p.sum()
            gains = np.sort(rng.random(n_items))[::-1]

            def pay(ranking, gains=gains, sets=sets, p=p):
                rank_of = np.argsort(ranking)
                return sum(prob * gains[rank_of[list(c)]].sum() for c, prob in zip(sets, p, strict=True))

            best = max(pay(np.array(r)) for r in itertools.permutations(range(n_items)))
            assert math.isclose(pay(np.argsort(-eta)), best, rel_tol=1e-12)


def test_theorem_2_multinomial_is_a_lower_bound():
    eta, x = cases(700)
    exact = maths.n_choose_k_log_prob(eta, x, "exact")
    printed = maths.multinomial_log_prob(eta, x)
    tightened = printed + torch.lgamma(x.sum(1) + 1)
    assert (printed <= tightened + 1e-12).all()
    assert (tightened <= exact + 1e-9).all()
    assert (exact - tightened > 1e-3).any(), "with repeats possible the bound must be strict somewhere"


def test_multinomial_gap_is_the_probability_of_no_repeats():
    eta, x = cases(28, n_items=6)
    gap = maths.n_choose_k_log_prob(eta, x, "exact") - maths.multinomial_log_prob(eta, x) - torch.lgamma(x.sum(1) + 1)
    for row, k, g in zip(torch.softmax(eta, 1).numpy(), x.sum(1).int().tolist(), gap.tolist(), strict=True):
        no_repeats = sum(np.prod(row[list(draws)]) for draws in itertools.permutations(range(6), k))
        assert math.isclose(g, -math.log(no_repeats), rel_tol=1e-9, abs_tol=1e-9)


def test_theorem_3_bernoulli_is_a_lower_bound():
    eta, x = cases(700)
    x = torch.cat([x, torch.zeros(20, 7, dtype=torch.float64)])  # holds for no clicks as well
    eta = torch.cat([eta, eta[:20]])
    assert (maths.bernoulli_log_prob(eta, x) < maths.n_choose_k_log_prob(eta, x, "exact")).all()


def test_bernoulli_gap_is_the_probability_of_the_count():
    eta, x = cases(28, n_items=6)
    gap = maths.n_choose_k_log_prob(eta, x, "exact") - maths.bernoulli_log_prob(eta, x)
    for row, k, g in zip(torch.sigmoid(eta).numpy(), x.sum(1).int().tolist(), gap.tolist(), strict=True):
        chance = 0.0
        for coins in itertools.product((0, 1), repeat=6):
            if sum(coins) == k:
                chance += np.prod(np.where(coins, row, 1 - row))
        assert math.isclose(g, -math.log(chance), rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("name", maths.LIKELIHOODS)
def test_gradient_is_observed_minus_expected(name):
    eta, x = cases(21)
    k = x.sum(1, keepdim=True)
    leaf = eta.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda e: maths.LIKELIHOODS[name](e, x), leaf)
    (gradient,) = torch.autograd.grad(maths.LIKELIHOODS[name](leaf, x).sum(), leaf)
    expected = {
        "multinomial": lambda: k * torch.softmax(eta, 1),
        "bernoulli": lambda: torch.sigmoid(eta),
        "n_choose_k": lambda: maths.inclusion_probabilities(eta, k[:, 0].long()),
    }[name]()
    assert torch.allclose(gradient, x - expected, atol=1e-9)


@pytest.mark.parametrize("name", maths.LIKELIHOODS)
def test_sparse_batch_equals_dense_clicks(name):
    eta, x = cases(21)
    x[4] = 0  # a user without clicks
    dense = eta.clone().requires_grad_()
    sparse = eta.clone().requires_grad_()
    a, b = maths.LIKELIHOODS[name](dense, x), maths.LIKELIHOODS[name](sparse, Batch.from_dense(x))
    assert torch.allclose(a, b)
    (a.sum() + b.sum()).backward()
    assert torch.allclose(dense.grad, sparse.grad)
    if name != "bernoulli":
        assert a[4] == 0 and (dense.grad[4] == 0).all()


def test_counts_weigh_the_multinomial():
    eta, x = cases(7)
    x = x * torch.arange(1, 8).double()
    expected = (x * torch.log_softmax(eta, 1)).sum(1)
    leaf = eta.clone().requires_grad_()
    assert torch.allclose(maths.multinomial_log_prob(eta, x), expected)
    assert torch.autograd.gradcheck(lambda e: maths.multinomial_log_prob(e, x), leaf)
    with pytest.raises(ValueError, match="x must be 0 or 1"):
        maths.n_choose_k_log_prob(eta, x)


def test_counts_weigh_the_observed_logits():
    """Dropping the counts would leave the Bernoulli bound of click counts a bound of clicks, unnoticed."""
    eta, x = cases(14)
    counts = x * torch.arange(1, 8).double()
    expected = (counts * eta).sum(1)
    for given in (counts, Batch.from_dense(counts)):
        assert torch.allclose(maths.observed_log_weight(eta, given), expected)
        bernoulli = expected - torch.nn.functional.softplus(eta).sum(1)
        assert torch.allclose(maths.bernoulli_log_prob(eta, given), bernoulli)


def test_sparse_counts_are_summed_not_counted():
    """A user's k is the sum of the counts, in a sparse batch as in a dense one; so are the gradients."""
    eta, x = cases(14)
    counts = x * torch.arange(1, 8).double()
    dense, sparse = (eta.clone().requires_grad_() for _ in range(2))
    a = maths.multinomial_log_prob(dense, counts)
    b = maths.multinomial_log_prob(sparse, Batch.from_dense(counts))
    assert torch.allclose(b, (counts * torch.log_softmax(eta, 1)).sum(1)) and torch.allclose(a, b)
    (a.sum() + b.sum()).backward()
    assert torch.allclose(sparse.grad, counts - counts.sum(1, keepdim=True) * torch.softmax(eta, 1))
    assert torch.allclose(sparse.grad, dense.grad)


@pytest.mark.parametrize("shift", [-1000.0, 1000.0])
def test_large_logits_neither_overflow_nor_vanish(shift):
    """exp(1000) is infinite and exp(-1000) is 0: the largest logit is taken out first."""
    eta, x = cases(7)
    expected = maths.multinomial_log_prob(eta, x)
    leaf = (eta + shift).float().requires_grad_()
    got = maths.multinomial_log_prob(leaf, x.float())
    assert torch.allclose(got, expected.float(), atol=1e-2)  # 1000 in float32 has steps of 6e-5
    got.sum().backward()
    assert torch.allclose(leaf.grad.double(), x - x.sum(1, keepdim=True) * torch.softmax(eta, 1), atol=1e-3)


def test_reduced_precision_is_widened():
    eta, x = cases(7)
    for f in maths.LIKELIHOODS.values():
        assert f(eta.bfloat16(), x).dtype == torch.float32


@pytest.mark.parametrize("name", maths.LIKELIHOODS)
def test_any_number_of_leading_dimensions(name):
    eta, x = cases(6)
    f = maths.LIKELIHOODS[name]
    assert f(eta[0], x[0]).shape == ()
    assert torch.allclose(f(eta[0], x[0]), f(eta[:1], x[:1])[0])
    assert torch.allclose(f(eta.reshape(2, 3, 7), x.reshape(2, 3, 7)), f(eta, x).reshape(2, 3))
    assert torch.allclose(f(eta, x[0]), f(eta, x[:1].expand(6, 7)))
    assert torch.allclose(f(eta, x.bool()), f(eta, x)) and torch.allclose(f(eta, x.long()), f(eta, x))


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="must have one shape"):
        maths.multinomial_log_prob(torch.zeros(2, 5), torch.zeros(2, 6))
    with pytest.raises(ValueError, match="do not fit a batch of 2 users and 6 items"):
        maths.multinomial_log_prob(torch.zeros(2, 5), Batch.from_dense(torch.zeros(2, 6)))


def test_log_e_of_this_file_agrees_with_the_library():
    eta, x = cases(14)
    for row, k in zip(eta, x.sum(1), strict=True):
        assert math.isclose(
            log_e(row.tolist(), k), maths.log_elementary_symmetric(row, int(k), "exact").item(), abs_tol=1e-9
        )
