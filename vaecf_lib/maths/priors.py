"""RecVAE's composite prior: a mixture of N(0, I), the old posterior and a wide Gaussian."""

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
