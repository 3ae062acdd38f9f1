"""Gaussian log-densities and Kullback-Leibler divergences, in nats, summed over the latent dimensions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian_log_prob(z: Tensor, mu: Tensor | float, logvar: Tensor | float, per_dimension: bool = False) -> Tensor:
    """Return log N(z | mu, diag exp(logvar)), shape (...,) for arguments (..., latent_dim), or numbers for all of them.

    ``per_dimension``: return (..., latent_dim) instead of the sum (...,).
    """
    precision = torch.exp(-logvar) if isinstance(logvar, Tensor) else math.exp(-logvar)
    log_p = (z - mu) ** 2 * precision + logvar + math.log(2 * math.pi)
    return -0.5 * log_p if per_dimension else -0.5 * log_p.sum(-1)


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Return log N(z | 0, I), shape (...,) for z (..., latent_dim)."""
    return -0.5 * (z * z + math.log(2 * math.pi)).sum(-1)  # without gaussian_log_prob's products by one


def gaussian_kl(mu: Tensor, logvar: Tensor, per_dimension: bool = False) -> Tensor:
    """Return KL[N(mu, diag exp(logvar)) || N(0, I)] in closed form (Kingma and Welling 2014, App. B).

    Args:
        mu, logvar: (..., latent_dim).
        per_dimension: return (..., latent_dim) instead of the sum (...,).
    """
    kl = 0.5 * (mu**2 + logvar.exp() - 1.0 - logvar)
    return kl if per_dimension else kl.sum(-1)


def gaussian_kl_monte_carlo(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return log q(z) - log p(z) at samples ``z`` of q = N(mu, diag exp(logvar)), p = N(0, I).

    Its mean over z ~ q is the divergence; one sample can be negative.
    """
    return gaussian_log_prob(z, mu, logvar) - standard_normal_log_prob(z)


def sample_gaussian(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return mu + sigma * eps with eps ~ N(0, I): the reparametrised sample, same shape as ``mu``."""
    return torch.addcmul(mu, torch.exp(0.5 * logvar), torch.randn_like(mu))


def gaussian_mixture_log_prob(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return log of the mean over k of N(z | mu_k, diag exp(logvar_k)): equal weights, logsumexp throughout.

    With learned components it is the VampPrior; with the parameters drawn by a semi-implicit encoder it is the
    inner average of the surrogate bound (Zamani et al. 2022, Algorithm 1).

    Args:
        z: (..., latent_dim).
        mu, logvar: (K, ..., latent_dim), where ... broadcasts with that of ``z``.

    Returns:
        (...,) log-densities.
    """
    return torch.logsumexp(gaussian_log_prob(z, mu, logvar), 0) - math.log(len(mu))


def maximum_mean_discrepancy(a: Tensor, b: Tensor) -> Tensor:
    """Return the unbiased squared MMD of two samples (n, d) and (m, d), a scalar that can be negative.

    Kernel C / (C + ||a - b||^2) with C = 2 d, the expected squared distance of two draws of N(0, I), as in the
    Wasserstein autoencoder (Tolstikhin et al. 2018).
    """
    scale = 2.0 * a.shape[1]

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        distance2 = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T
        return scale / (scale + distance2.clamp_min(0))

    n, m = len(a), len(b)
    same_a = (kernel(a, a).sum() - n) / max(n * (n - 1), 1)
    same_b = (kernel(b, b).sum() - m) / max(m * (m - 1), 1)
    return same_a + same_b - 2 * kernel(a, b).mean()
