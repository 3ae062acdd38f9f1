"""Gaussian log-densities and Kullback-Leibler divergences, in nats, summed over the latent dimensions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian_log_prob(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return log N(z | mu, diag exp(logvar)), shape (...,) for arguments (..., latent_dim)."""
    return -0.5 * ((z - mu) ** 2 * torch.exp(-logvar) + logvar + math.log(2 * math.pi)).sum(-1)


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
    return gaussian_log_prob(z, mu, logvar) - gaussian_log_prob(z, torch.zeros_like(mu), torch.zeros_like(mu))


def sample_gaussian(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return mu + sigma * eps with eps ~ N(0, I): the reparametrised sample, same shape as ``mu``."""
    return torch.addcmul(mu, torch.exp(0.5 * logvar), torch.randn_like(mu))
