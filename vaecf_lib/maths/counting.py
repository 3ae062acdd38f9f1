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

    Newton's method on the log of the sum, kept inside a bracket. sigmoid(x) < exp(x) gives its left end,
    log k - logsumexp(logits), which is also the start; the same for 1 - sigmoid gives its right end. A step that
    would leave the bracket, as on the plateaus of logits far apart, is replaced by halving it.
    """
    k = k.to(logits.dtype)
    low = k.log() - logits.logsumexp(-1)
    high = (-logits).logsumexp(-1) - (logits.shape[-1] - k).log()
    enough = torch.finfo(logits.dtype).eps ** 0.5  # Newton squares the error: the step taken last leaves eps
    t, p = low, torch.empty_like(logits)
    for _ in range(100):
        torch.add(logits, t[..., None], out=p).sigmoid_()
        total = p.sum(-1)
        gap = k.log() - total.log()
        low, high = torch.where(gap > 0, t, low), torch.where(gap > 0, high, t)
        step = t + gap * total / (total - _dot(p, p)).clamp_min(torch.finfo(logits.dtype).tiny)
        t = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
        if bool((gap.abs() < enough).all()):
            break
    return t


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum over the last dimension of a·b without an array for the product."""
    return torch.einsum("...i,...i->...", a, b)


class _Saddlepoint(torch.autograd.Function):
    """log e_k by saddlepoint; the gradient is the exact derivative of the value.

    With p_i = sigmoid(eta_i + t) and K_r the sum of the items' r-th Bernoulli cumulants,
        log e_k = sum softplus(eta_i + t) - k t + log P(count = k),
        log P(count = k) ~ -log(2 pi K_2) / 2 + log(1 + K_4 / 8 K_2^2 - 5 K_3^2 / 24 K_2^3).
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
        return value + _log_chance(K2, K3, K4, order)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        logits, t = ctx.saved_tensors
        return _inclusion(logits, t, ctx.order).mul_(grad[..., None]), None, None


def _log_chance(K2: Tensor, K3: Tensor, K4: Tensor, order: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log P(count = k) and its derivatives by K_2, K_3 and K_4.

    Where hardly a coin is undecided (K_2 below 1/2) the expansion does not hold: there the second-order term is
    left out, and the chance is kept at 1 at most, its limit as K_2 vanishes.
    """
    K2 = K2.clamp_min(torch.finfo(K2.dtype).tiny ** 0.2)
    value, f2 = -0.5 * torch.log(2 * math.pi * K2), -0.5 / K2
    f3 = f4 = torch.zeros_like(K2)
    if order == 2:
        s = K4 / (8 * K2**2) - 5 * K3**2 / (24 * K2**3)
        holds = K2 >= 0.5
        weight = torch.where(holds, 1 / (1 + s), 0.0)
        value = value + torch.where(holds, torch.log1p(s), 0.0)
        f2 = f2 + weight * (5 * K3**2 / (8 * K2**4) - K4 / (4 * K2**3))
        f3 = weight * (-5 * K3 / (12 * K2**3))
        f4 = weight / (8 * K2**2)
    certain = value >= 0
    return value.clamp_max(0.0), *(torch.where(certain, 0.0, f) for f in (f2, f3, f4))


def _cumulants(p: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return K_2 to K_5, (...,): sums over items of the Bernoulli(p) cumulants, with v = p(1 - p).

    The item's own are v, v(1 - 2p), v(1 - 6v) and v(1 - 2p)(1 - 12v).
    """
    vp, vv, K2 = _dot(v, p), _dot(v, v), v.sum(-1)
    return K2, K2 - 2 * vp, K2 - 6 * vv, K2 - 2 * vp - 12 * vv + 24 * _dot(v, v * p)


def _inclusion(logits: Tensor, t: Tensor, order: int) -> Tensor:
    """Return the derivative of the saddlepoint log e_k by each logit: p_i plus corrections that sum to zero.

    A cumulant's derivative by theta is the next cumulant, and moving eta_i moves t by -v_i / K_2, so
    dK_r / d eta_i = kappa_{r+1,i} - v_i K_{r+1} / K_2. The correction f_2 dK_2 + f_3 dK_3 + f_4 dK_4 is v_i times
        f2 (1-2p) + f3 (1-6v) + f4 (1-2p)(1-12v) - (f2 K3 + f3 K4 + f4 K5) / K2.
    """
    p = (logits + t[..., None]).sigmoid_()
    v = torch.addcmul(p, p, p, value=-1)
    K2, K3, K4, K5 = _cumulants(p, v)
    _, f2, f3, f4 = (f[..., None] for f in _log_chance(K2, K3, K4, order))
    shift = f2 * K3[..., None] + f3 * K4[..., None] + f4 * K5[..., None]
    constant = f2 + f3 + f4 - shift / K2[..., None].clamp_min(torch.finfo(K2.dtype).tiny ** 0.2)
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
    k = _counts(logits, k)
    # The same for all logits moved alike: around zero, where the k-th largest lies, ties of large ones stay exact.
    largest = logits.detach().sort(-1, descending=True).values.gather(-1, (k - 1).clamp_min(0).long()[..., None])
    with torch.enable_grad():
        leaf = (logits.detach() - largest).requires_grad_()
        log_e = log_elementary_symmetric(leaf, k, method).sum() + 0 * leaf.sum()  # k = 0 does not reach the leaf
        (gradient,) = torch.autograd.grad(log_e, leaf)
    # Logits far apart: the saddlepoint's corrections may leave [0, 1]. Cut off what does, and share out the rest.
    astray = ((gradient < 0) | (gradient > 1)).any(-1)
    if bool(astray.any()):
        p, k = gradient[astray].clamp_(0, 1), k[astray, None].to(gradient.dtype)
        total, room = p.sum(-1, keepdim=True), (1 - p).sum(-1, keepdim=True).clamp_min(1e-30)
        gradient[astray] = torch.where(total > k, p * (k / total), p + (k - total).clamp_min(0) * (1 - p) / room)
    return gradient
