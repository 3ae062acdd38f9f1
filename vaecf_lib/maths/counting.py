"""The n-Choose-k normaliser: log e_k(exp eta), an elementary symmetric polynomial, exactly and by saddlepoint.

e_k(w) is the sum over all k-subsets of the product of their weights: the normaliser of Eq. 9 in Zamani et al.
(ICTIR 2022). The saddlepoint formula is that of Barthelmé, Amblard and Tremblay (2019) for k-DPPs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_IMPOSSIBLE = -1e30  # stands for log 0: finite, so that no gradient is inf - inf


def _counts(logits: Tensor, k: Tensor | int) -> Tensor:
    """Return k as a tensor of the batch shape of ``logits``, checked."""
    n_items = logits.shape[-1]
    k = torch.as_tensor(k, device=logits.device).expand(logits.shape[:-1])
    if k.numel() and (bool((k < 0).any()) or bool((k > n_items).any())):
        raise ValueError(f"k must lie in 0..{n_items} (the number of items), found {int(k.min())}..{int(k.max())}")
    return k


def _exact(logits: Tensor, k: Tensor) -> Tensor:
    """Log-space recurrence e_j(w_1..w_i) = e_j(w_1..w_{i-1}) + w_i e_{j-1}(w_1..w_{i-1}); O(n_items·k)."""
    width = int(k.max()) + 1 if k.numel() else 1
    log_e = logits.new_full((*logits.shape[:-1], width), _IMPOSSIBLE)
    log_e[..., 0] = 0.0
    for eta in logits.unbind(-1):
        with_item = log_e[..., :-1] + eta[..., None]
        log_e = torch.cat([log_e[..., :1], torch.logaddexp(log_e[..., 1:], with_item)], -1)
    return log_e.gather(-1, k.long()[..., None])[..., 0]


def calibrate(logits: Tensor, k: Tensor) -> Tensor:
    """Return t (...,) with sum_i sigmoid(logits_i + t) = k, for 0 < k < n_items.

    Newton on log sum sigmoid, which is concave and increasing in t: from the left it never overshoots. The start
    log k - logsumexp(logits) lies left, since sigmoid(x) < exp(x).
    """
    target = k.to(logits.dtype).log()
    t = target - logits.logsumexp(-1)
    enough = torch.finfo(logits.dtype).eps ** 0.5  # Newton squares the error: the step taken last leaves eps
    p = torch.empty_like(logits)
    for _ in range(60):
        torch.add(logits, t[..., None], out=p).sigmoid_()
        total = p.sum(-1)
        gap = target - total.log()
        slope = (total - _dot(p, p)) / total
        t = t + gap / slope.clamp_min(torch.finfo(logits.dtype).tiny)
        if bool((gap.abs() < enough).all()):
            break
    return t


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum over the last dimension of a·b without an array for the product."""
    return torch.einsum("...i,...i->...", a, b)


class _Saddlepoint(torch.autograd.Function):
    """log e_k by saddlepoint with its second-order term; the gradient is its exact derivative.

    With p_i = sigmoid(eta_i + t) and K_r the sum of the items' r-th Bernoulli cumulants,
        log e_k ~ sum softplus(eta_i + t) - k t - log(2 pi K_2) / 2 + log(1 + K_4 / 8 K_2^2 - 5 K_3^2 / 24 K_2^3).
    """

    @staticmethod
    def forward(ctx, logits: Tensor, k: Tensor, order: int) -> Tensor:
        t = calibrate(logits, k)
        theta = logits + t[..., None]
        ctx.save_for_backward(logits, t)
        ctx.order = order
        value = torch.nn.functional.softplus(theta).sum(-1) - k * t
        p = theta.sigmoid_()
        K2, K3, K4, _ = _cumulants(p, p - p * p)
        value -= 0.5 * torch.log(2 * math.pi * K2)
        if order == 2:
            value += torch.log1p(K4 / (8 * K2**2) - 5 * K3**2 / (24 * K2**3))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        logits, t = ctx.saved_tensors
        return _inclusion(logits, t, ctx.order).mul_(grad[..., None]), None, None


def _cumulants(p: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return K_2 to K_5, (...,): sums over items of the Bernoulli(p) cumulants, with v = p(1 - p).

    The item's own are v, v(1 - 2p), v(1 - 6v) and v(1 - 2p)(1 - 12v).
    """
    vp, vv, K2 = _dot(v, p), _dot(v, v), v.sum(-1)
    return K2, K2 - 2 * vp, K2 - 6 * vv, K2 - 2 * vp - 12 * vv + 24 * _dot(v, v * p)


def _inclusion(logits: Tensor, t: Tensor, order: int) -> Tensor:
    """Return the derivative of the saddlepoint log e_k by each logit: p_i plus corrections that sum to zero.

    A cumulant's derivative by theta is the next cumulant, and moving eta_i moves t by -v_i / K_2, so
    dK_r / d eta_i = kappa_{r+1,i} - v_i K_{r+1} / K_2. With f(K_2, K_3, K_4) the terms after the first two,
    the correction is f_2 dK_2 + f_3 dK_3 + f_4 dK_4: v_i times a polynomial in p_i and v_i.
    """
    p = (logits + t[..., None]).sigmoid_()
    v = torch.addcmul(p, p, p, value=-1)
    K2, K3, K4, K5 = (c[..., None] for c in _cumulants(p, v))
    f2, f3, f4 = -0.5 / K2, torch.zeros_like(K2), torch.zeros_like(K2)
    if order == 2:
        s = 1 + K4 / (8 * K2**2) - 5 * K3**2 / (24 * K2**3)
        f2 = f2 + (5 * K3**2 / (8 * K2**4) - K4 / (4 * K2**3)) / s
        f3 = -5 * K3 / (12 * K2**3) / s
        f4 = 1 / (8 * K2**2) / s
    # f2 (1-2p) + f3 (1-6v) + f4 (1-2p)(1-12v) - (f2 K3 + f3 K4 + f4 K5) / K2, gathered by powers:
    constant = f2 + f3 + f4 - (f2 * K3 + f3 * K4 + f4 * K5) / K2
    correction = (v * (24 * f4)).sub_(2 * (f2 + f4)).mul_(p)
    correction.addcmul_(v, -6 * f3 - 12 * f4).add_(constant)
    return p.addcmul_(correction, v)


def log_elementary_symmetric(logits: Tensor, k: Tensor | int, method: str = "saddlepoint", order: int = 2) -> Tensor:
    """Return log e_k(exp(logits)): the log of the sum over all k-subsets c of exp(sum of logits in c).

    Args:
        logits: (..., n_items).
        k: subset size, an int or (...,) integers in 0..n_items.
        method: "exact", a recurrence in O(n_items·k), or "saddlepoint" in O(n_items), whose error is about
            1e-5 at 3,706 items and k = 20. k = 0, 1, n_items - 1 and n_items are exact in either.
        order: of the saddlepoint: 1, or 2 with the second-order term.

    Returns:
        (...,) log normalisers; the gradient by the logits is the inclusion probability of each item.

    Raises:
        ValueError: k outside 0..n_items, or an unknown method.
    """
    k = _counts(logits, k)
    if method == "exact":
        return _exact(logits, k)
    if method != "saddlepoint" or order not in (1, 2):
        raise ValueError(f"method={method!r}, order={order}: choose method 'exact' or 'saddlepoint', order 1 or 2")
    n_items = logits.shape[-1]
    inner = (k > 1) & (k < n_items - 1)
    if bool(inner.all()):
        return _Saddlepoint.apply(logits, k, order)
    value = torch.zeros_like(logits[..., 0])
    if bool(inner.any()):
        value = value.masked_scatter(inner, _Saddlepoint.apply(logits[inner], k[inner], order))
    total = logits.sum(-1)
    for edge, log_e in (
        (k == n_items, lambda: total),
        (k == n_items - 1, lambda: total + (-logits).logsumexp(-1)),
        (k == 1, lambda: logits.logsumexp(-1)),
        (k == 0, lambda: torch.zeros_like(total)),
    ):
        if bool(edge.any()):
            value = torch.where(edge, log_e(), value)
    return value


def inclusion_probabilities(logits: Tensor, k: Tensor | int, method: str = "saddlepoint") -> Tensor:
    """Return P(x_i = 1) of every item under n-Choose-k: (..., n_items), summing to k. See the arguments above."""
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        log_e = log_elementary_symmetric(leaf, k, method).sum() + 0 * leaf.sum()  # k = 0 does not reach the leaf
        (gradient,) = torch.autograd.grad(log_e, leaf)
    return gradient
