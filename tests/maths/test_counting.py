"""log e_k: enumeration, recurrence, saddlepoint, inclusion probabilities, gradients."""

import itertools
import math

import pytest
import torch

from vaecf_lib import maths
from vaecf_lib.maths import counting
from vaecf_lib.maths.counting import calibrate, normalise_


def enumerated(eta, k):
    return torch.logsumexp(torch.stack([eta[list(c)].sum() for c in itertools.combinations(range(len(eta)), k)]), 0)


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(1)
    return 1.5 * torch.randn(3, 8, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("k", range(9))
def test_recurrence_equals_enumeration(logits, k):
    expected = torch.stack([enumerated(eta, k) for eta in logits])
    assert torch.allclose(maths.log_elementary_symmetric(logits, k, "exact"), expected, atol=1e-12)


def test_recurrence_takes_a_count_for_each_row(logits):
    k = torch.tensor([0, 3, 8])
    expected = torch.stack([enumerated(eta, int(j)) for eta, j in zip(logits, k, strict=True)])
    assert torch.allclose(maths.log_elementary_symmetric(logits, k, "exact"), expected, atol=1e-12)


@pytest.mark.parametrize(("k", "tolerance"), [(2, 2e-3), (5, 3e-4), (20, 3e-5), (100, 1e-6), (1000, 1e-7)])
def test_saddlepoint_is_close_to_exact(k, tolerance):
    eta = 2 * torch.randn(3706, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = maths.log_elementary_symmetric(eta, k, "exact")
    error = (maths.log_elementary_symmetric(eta, k) - exact).abs()
    assert error < tolerance
    first_order = (maths.log_elementary_symmetric(eta, k, order=1) - exact).abs()
    assert error < first_order / 5, "the second-order term must help"


@pytest.mark.parametrize("k", [0, 1, 7, 8])
def test_saddlepoint_is_exact_at_the_edges(logits, k):
    assert torch.allclose(maths.log_elementary_symmetric(logits, k), maths.log_elementary_symmetric(logits, k, "exact"))


@pytest.mark.parametrize("order", [1, 2])
def test_saddlepoint_gradient_is_exact(logits, order):
    logits.requires_grad_()
    k = torch.tensor([2, 4, 6])
    assert torch.autograd.gradcheck(lambda eta: maths.log_elementary_symmetric(eta, k, order=order), logits)


def test_edges_and_interior_mix_in_one_batch(logits):
    logits.requires_grad_()
    k = torch.tensor([0, 4, 8])
    assert torch.autograd.gradcheck(lambda eta: maths.log_elementary_symmetric(eta, k), logits)
    assert torch.autograd.gradcheck(lambda eta: maths.log_elementary_symmetric(eta, k, "exact"), logits)


@pytest.mark.parametrize("method", ["exact", "saddlepoint"])
@pytest.mark.parametrize("k", [0, 1, 3, 7, 8])
def test_inclusion_probabilities_sum_to_k(logits, k, method):
    p = maths.inclusion_probabilities(logits, k, method)
    assert torch.allclose(p.sum(-1), torch.full((3,), float(k), dtype=torch.float64), atol=1e-9)
    assert (p > -1e-9).all() and (p < 1 + 1e-9).all()


@pytest.mark.parametrize("scale", [1, 10, 100, 1e4])
def test_inclusion_probabilities_stay_in_zero_to_one(scale):
    """Logits far apart push the saddlepoint's corrections out of [0, 1]; what is returned never leaves it."""
    torch.manual_seed(0)
    for n_items, k in ((5, 2), (30, 15), (30, 28), (200, 3)):
        eta = scale * torch.randn(60, n_items)
        p = maths.inclusion_probabilities(eta, k)
        assert p.min() >= 0 and p.max() <= 1 and torch.allclose(p.sum(-1), torch.tensor(float(k)), rtol=2e-3)
        assert (p - maths.inclusion_probabilities(eta, k, "exact")).abs().max() < 0.2


def test_inclusion_probabilities_equal_enumeration(logits):
    eta, k = logits[0], 3
    weights = torch.zeros(8, dtype=torch.float64)
    for c in itertools.combinations(range(8), k):
        weights[list(c)] += eta[list(c)].sum().exp()
    expected = weights / enumerated(eta, k).exp()
    assert torch.allclose(maths.inclusion_probabilities(eta, k, "exact"), expected, atol=1e-12)
    assert torch.allclose(maths.inclusion_probabilities(eta, k), expected, atol=5e-3)


def test_uniform_weights_give_binomials():
    for k in (0, 1, 10, 52):
        value = maths.log_elementary_symmetric(torch.zeros(52, dtype=torch.float64), k, "exact")
        assert math.isclose(value.item(), math.log(math.comb(52, k)), abs_tol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 40.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_calibration_meets_the_count(scale, dtype):
    generator = torch.Generator().manual_seed(2)
    eta = scale * torch.randn(50, 300, dtype=dtype, generator=generator)
    k = torch.randint(1, 299, (50,), generator=generator)
    t = calibrate(eta, k)
    rtol = 1e-6 if dtype == torch.float64 else 2e-4
    assert torch.allclose(torch.sigmoid(eta + t[:, None]).sum(1), k.to(dtype), rtol=rtol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [10.0, 50.0, 500.0])
def test_logits_far_apart_leave_one_likely_set(scale, dtype):
    """Where one set takes all, log e_k is the sum of the k largest logits and inclusion is that set."""
    eta = scale * torch.arange(20, dtype=dtype)[None]
    k = torch.tensor([6])
    value = maths.log_elementary_symmetric(eta, k)
    top = eta.topk(6).values.sum(1)
    assert torch.allclose(value, top, rtol=1e-5, atol=0.02)
    p = maths.inclusion_probabilities(eta, k)
    assert torch.allclose(p, (torch.arange(20) >= 14).to(dtype)[None], atol=0.02)


def test_error_stays_small_as_the_choice_becomes_certain():
    eta = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for scale in (0.5, 1, 2, 4, 8, 16, 32):
        for k in range(2, 11):
            error = maths.log_elementary_symmetric(scale * eta, k) - maths.log_elementary_symmetric(
                scale * eta, k, "exact"
            )
            assert error.abs() < 0.2


def test_float32_is_good_enough_to_train_with():
    eta = 2 * torch.randn(4, 3706, generator=torch.Generator().manual_seed(3))
    k = torch.tensor([2, 20, 100, 400])
    error = maths.log_elementary_symmetric(eta, k) - maths.log_elementary_symmetric(eta.double(), k)
    assert error.abs().max() < 1e-3


@pytest.mark.parametrize("k", [2, 40, 300])
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0, 8.0, 20.0])
def test_one_exponential_an_item_serves_every_tilt(scale, k, monkeypatch):
    """Odds by one exponential are those of the logits, in value and gradient, up to where float32 needs the latter."""
    eta = scale * torch.randn(6, 400, generator=torch.Generator().manual_seed(4))
    counts = torch.full((6,), k)
    ours = (p := eta.clone(), normalise_(p, counts))
    monkeypatch.setattr(counting, "LARGEST_LOG_ODDS", -torch.inf)
    for dtype in (torch.float32, torch.float64):
        p = eta.to(dtype, copy=True)
        value = normalise_(p, counts)
        assert torch.allclose(ours[1].to(dtype), value, rtol=1e-6, atol=1e-3)
        assert torch.allclose(ours[0].to(dtype), p, atol=2e-4)


def test_log_odds_far_from_zero_are_left_to_the_logits(monkeypatch):
    """Where exp(eta - max) would vanish although the item is likely, no exponential is taken before the tilt."""
    eta = torch.cat([torch.full((1, 3), 200.0), torch.linspace(-1, 1, 50)[None]], 1)
    exact = maths.log_elementary_symmetric(eta.double(), 10, "exact").float()
    assert torch.allclose(maths.log_elementary_symmetric(eta, 10), exact, atol=0.02)
    monkeypatch.setattr(counting, "LARGEST_LOG_ODDS", torch.inf)
    assert not torch.allclose(maths.log_elementary_symmetric(eta, 10), exact, atol=1.0)


def test_bad_arguments_are_named(logits):
    with pytest.raises(ValueError, match=r"k must lie in 0\.\.8"):
        maths.log_elementary_symmetric(logits, 9)
    with pytest.raises(ValueError, match=r"k must lie in 0\.\.8"):
        maths.log_elementary_symmetric(logits, -1)
    with pytest.raises(ValueError, match="choose method 'exact' or 'saddlepoint'"):
        maths.log_elementary_symmetric(logits, 2, "magic")


@pytest.mark.parametrize("method", ["exact", "saddlepoint"])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_inclusion_sums_to_k_where_large_logits_tie(method, shift):
    """In single precision numbers of a million lie 0.06 apart: too coarse for what calibrates them."""
    eta = 1e6 * torch.randint(0, 3, (20, 50), generator=torch.Generator().manual_seed(1)).float() + shift
    for k in (1, 2, 13, 48, 49):
        p = maths.inclusion_probabilities(eta, k, method)
        assert p.min() >= 0 and p.max() <= 1 and torch.allclose(p.sum(-1), torch.tensor(float(k)), rtol=1e-3)


@pytest.mark.parametrize("method", ["exact", "saddlepoint"])
def test_a_batch_of_no_rows_has_no_values(method):
    """The longest k of no rows is no maximum to take."""
    k = torch.zeros(0, dtype=torch.int64)
    assert maths.log_elementary_symmetric(torch.zeros(0, 5), k, method=method).shape == (0,)
