"""Priors that are mixtures: RecVAE's, of N(0, I), the old posterior and a wide Gaussian; and the VampPrior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .divergences import gaussian_log_prob


def composite_prior_log_prob(
    z: Tensor,
    mu_old: Tensor,
    logvar_old: Tensor,
    weights: tuple[float, float, float] = (3 / 20, 3 / 4, 1 / 10),
    wide_logvar: float = 10.0,
    mixture: str = "per_dimension",
) -> Tensor:
    """Return log p(z | phi_old, x), shape (...,) (Shenbin et al. 2020, Eq. 17 and Sec. 4.4).

    Args:
        z, mu_old, logvar_old: (..., latent_dim); the old posterior is N(mu_old, diag exp(logvar_old)).
        weights: of N(0, I), the old posterior and N(0, exp(wide_logvar) I); they add up to 1.
        wide_logvar: log-variance of the wide component.
        mixture: "joint", a mixture of three joint densities as in Eq. 17, or "per_dimension", a product over the
            latent dimensions of one-dimensional mixtures, as in the public code. These are different priors.

    Raises:
        ValueError: weights that do not add up to 1, or an unknown mixture.
    """
    if min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(f"weights={weights}: must be non-negative and add up to 1")
    if mixture not in ("joint", "per_dimension"):
        raise ValueError(f"mixture={mixture!r}: choose 'joint' or 'per_dimension'")
    log_w = [math.log(w) if w > 0 else -math.inf for w in weights]
    components = ((0.0, 0.0), (mu_old, logvar_old), (0.0, wide_logvar))
    parts = [gaussian_log_prob(z, *component, per_dimension=mixture == "per_dimension") for component in components]
    stacked = torch.stack([w + part for w, part in zip(log_w, parts, strict=True) if w > -math.inf])
    log_p = torch.logsumexp(stacked, 0)
    return log_p if mixture == "joint" else log_p.sum(-1)


def vamp_prior_log_prob(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return log of the mean over k of N(z | mu_k, diag exp(logvar_k)), (B,): the same components for all users.

    As :func:`~vaecf_lib.maths.divergences.gaussian_mixture_log_prob`, by two products of matrices instead of an array
    (K, B, latent_dim), which is
    400 MB for 1,000 components, 500 users and 200 dimensions.

    Args:
        z: (B, latent_dim).
        mu, logvar: (K, latent_dim).
    """
    with torch.autocast(z.device.type, enabled=False):
        centre = mu.detach().mean(0)  # squares are multiplied out, of what is small
        z, mu, precision = z - centre, mu - centre, torch.exp(-logvar)
        squares = z.square() @ precision.T - 2 * z @ (mu * precision).T + (mu.square() * precision).sum(-1)
        log_p = -0.5 * (squares + (logvar + math.log(2 * math.pi)).sum(-1))
        return torch.logsumexp(log_p, -1) - math.log(len(mu))
