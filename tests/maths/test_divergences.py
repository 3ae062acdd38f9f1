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


def test_annealing_rises_to_its_cap():
    beta = [maths.linear_annealing(p, cap=0.2, share=0.5) for p in (0.0, 0.25, 0.5, 1.0)]
    assert beta == [0.0, 0.1, 0.2, 0.2]
    assert maths.linear_annealing(0.0, cap=0.2, share=0.0) == 0.2
