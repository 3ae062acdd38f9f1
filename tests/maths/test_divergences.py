"""Gaussian divergences against quadrature, scipy and sampling."""

import numpy as np
import torch
from scipy import integrate, stats

from vaecf_lib import maths


def test_closed_form_equals_quadrature():
    for mu, sigma in ((0.0, 1.0), (1.3, 0.4), (-0.7, 2.0)):
        q, p = stats.norm(mu, sigma), stats.norm(0, 1)
        expected, _ = integrate.quad(lambda z, q=q, p=p: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -15, 15, limit=200)
        kl = maths.gaussian_kl(torch.tensor([mu]), torch.tensor([2 * np.log(sigma)]))
        assert abs(kl.item() - expected) < 1e-5


def test_per_dimension_sums_to_the_whole():
    mu, logvar = torch.randn(4, 6), torch.randn(4, 6)
    parts = maths.gaussian_kl(mu, logvar, per_dimension=True)
    assert parts.shape == (4, 6) and (parts >= 0).all()
    assert torch.allclose(parts.sum(1), maths.gaussian_kl(mu, logvar))


def one_sample_error(noise_scale):
    """Standard errors between the mean one-sample estimate and the closed form."""
    generator = torch.Generator().manual_seed(0)
    mu, logvar = torch.tensor([0.8, -0.3, 0.1]), torch.tensor([-1.0, 0.4, 0.0])
    eps = torch.randn(100_000, 3, generator=generator)
    z = mu + noise_scale * torch.exp(0.5 * logvar) * eps
    estimate = maths.gaussian_kl_monte_carlo(z, mu, logvar)
    return abs(estimate.mean() - maths.gaussian_kl(mu, logvar)) / (estimate.std() / len(estimate) ** 0.5)


def test_one_sample_estimate_has_the_closed_form_mean():
    assert one_sample_error(1.0) < 4
    assert one_sample_error(0.01) > 100, "the check must catch noise scaled by 0.01"


def test_sample_gaussian_has_its_moments():
    torch.manual_seed(0)
    mu, logvar = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -2.0])
    z = maths.sample_gaussian(mu.expand(200_000, 2), logvar.expand(200_000, 2))
    assert torch.allclose(z.mean(0), mu, atol=0.01)
    assert torch.allclose(z.var(0), logvar.exp(), rtol=0.02)


def test_gaussian_log_prob_equals_scipy():
    z, mu, logvar = torch.randn(5, 3).double(), torch.randn(5, 3).double(), torch.randn(5, 3).double()
    expected = stats.norm(mu, torch.exp(0.5 * logvar)).logpdf(z).sum(1)
    assert np.allclose(maths.gaussian_log_prob(z, mu, logvar), expected)


def test_standard_normal_log_prob_equals_scipy_for_any_shape():
    """The sum is over the latent dimensions, the last ones: one code, a batch, several draws of a batch."""
    for shape in ((3,), (5, 3), (4, 5, 3)):
        z = torch.randn(shape).double()
        assert np.allclose(maths.standard_normal_log_prob(z), stats.norm.logpdf(z).sum(-1))


def test_annealing_rises_to_its_cap():
    beta = [maths.linear_annealing(p, cap=0.2, share=0.5) for p in (0.0, 0.25, 0.5, 1.0)]
    assert beta == [0.0, 0.1, 0.2, 0.2]
    assert maths.linear_annealing(0.0, cap=0.2, share=0.0) == 0.2


def test_mixture_equals_scipy_and_broadcasts():
    mu, logvar, z = torch.randn(3, 1, 2), torch.randn(3, 1, 2), torch.randn(5, 2)
    parts = stats.norm(mu.numpy(), np.exp(logvar.numpy() / 2)).pdf(z.numpy()).prod(-1)
    expected = np.log(parts.mean(0))
    assert np.allclose(maths.gaussian_mixture_log_prob(z, mu, logvar), expected, atol=1e-5)


def test_mmd_equals_double_loops():
    a, b = torch.randn(6, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)

    def k(x, y):
        return 6 / (6 + ((x - y) ** 2).sum())

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    within_a = mean(k(a[i], a[j]) for i in range(6) for j in range(6) if i != j)
    within_b = mean(k(b[i], b[j]) for i in range(4) for j in range(4) if i != j)
    between = mean(k(x, y) for x in a for y in b)
    assert torch.isclose(maths.maximum_mean_discrepancy(a, b), within_a + within_b - 2 * between)


def test_mmd_is_zero_on_average_for_equal_distributions_and_positive_otherwise():
    torch.manual_seed(0)
    same = torch.stack([maths.maximum_mean_discrepancy(torch.randn(100, 4), torch.randn(100, 4)) for _ in range(200)])
    assert abs(same.mean()) < 4 * same.std() / 200**0.5
    for other in (torch.randn(400, 4) + 0.5, 0.3 * torch.randn(400, 4)):
        assert maths.maximum_mean_discrepancy(other, torch.randn(400, 4)) > 10 * same.std()
