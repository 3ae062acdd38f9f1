"""The n-Choose-k normaliser: log e_k(exp eta), an elementary symmetric polynomial, exactly and by saddlepoint.

e_k(w) is the sum over all k-subsets of the product of their weights: the normaliser of Eq. 9 in Zamani et al.
(ICTIR 2022). The saddlepoint formula is that of Barthelmé, Amblard and Tremblay (2019) for k-DPPs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import environment

SLICE_BYTES = 2**21
LARGEST_LOG_ODDS = 60.0  # where they may be larger, so may be float32's exponents
_IMPOSSIBLE = -1e30  # stands for log 0: finite, so that no gradient is inf - inf


class Columns:
    """Which of the items the columns of logits (B, n) are: here all of them.

    Who has some of them alone overrides these, by which all sums over items go.
    """

    def width(self, n: int) -> int:
        """Return the largest number of columns that anybody has, who has ``n`` here."""
        return n

    def n_items(self, logits: Tensor) -> int:
        """Return the number of all items."""
        return logits.shape[-1]

    def sums(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Return sums over all items, from those over the columns; each (B,)."""
        return parts

    def largest(self, part: Tensor) -> Tensor:
        """Return the largest over all items, (B,), from the largest of the columns."""
        return part

    def row_slices(self, array: Tensor) -> list[slice]:
        """Return slices of the rows of ``array`` (B, n) that are normalised at once."""
        return row_slices(array)

    def logsumexp(self, logits: Tensor) -> Tensor:
        """Return log sum_i exp(logits_i) over all items, (B,)."""
        return logits.logsumexp(-1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


ALL = Columns()


def row_slices(array: Tensor) -> list[slice]:
    """Return slices of the rows of ``array`` (B, n): on a CPU of 2 MB, so that later passes find them in cache."""
    rows = len(array) if array.is_cuda else max(1, SLICE_BYTES // (array.shape[1] * array.element_size() or 1))
    return [slice(start, start + rows) for start in range(0, len(array), rows or 1)] or [slice(0, 0)]


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


def calibrate(logits: Tensor, k: Tensor, columns: Columns = ALL) -> Tensor:
    """Return t (...,) with sum_i sigmoid(logits_i + t) = k, for 0 < k < n_items, over all items.

    Newton's method on the log of the sum, kept inside a bracket. sigmoid(x) < exp(x) gives its left end,
    log k - logsumexp(logits), which is also the start; as many logits all equal to the smallest give its right end. A
    step that would leave the bracket, as on the plateaus of logits far apart, is replaced by halving it.
    """
    k, p = k.to(logits.dtype), torch.empty_like(logits)
    low, high = k.log() - columns.logsumexp(logits), _right_end(logits, k, columns)
    return _newton(lambda t: torch.add(logits, t[..., None], out=p).sigmoid_(), low, high, k, columns)


def _right_end(logits: Tensor, k: Tensor, columns: Columns) -> Tensor:
    return (k / (columns.n_items(logits) - k)).log() + columns.largest(-logits.amin(-1))


def _newton(chances: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, k: Tensor, columns: Columns) -> Tensor:
    """Return t in [low, high] at which the ``chances``, (..., n) of t (...,), sum to k; it starts at ``low``."""
    enough = torch.finfo(k.dtype).eps ** 0.5  # Newton squares the error: the step taken last leaves eps
    t = low
    waits = environment.waits_for(k.device)  # each look whether it is enough would
    for _ in range(30 if waits else 100):
        p = chances(t)
        total, squares = columns.sums(p.sum(-1), torch.linalg.vector_norm(p, dim=-1).square_())
        gap = k.log() - total.log()
        low, high = torch.where(gap > 0, t, low), torch.where(gap > 0, high, t)
        step = t + gap * total / (total - squares).clamp_min(torch.finfo(k.dtype).tiny)
        t = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
        if not waits and bool((gap.abs() < enough).all()):
            break
    return t


def saddlepoint_(
    logits: Tensor, k: Tensor, order: int = 2, columns: Columns = ALL, spare: Tensor | None = None
) -> Tensor:
    """Return log e_k by saddlepoint, (B,), for 1 < k < n_items - 1; ``logits`` (B, n_items) become its derivatives.

    With p_i = sigmoid(eta_i + t) and K_r the sum of the items' r-th Bernoulli cumulants::

        log e_k = sum softplus(eta_i + t) - k t + log P(count = k)
        log P(count = k) ~ -log(2 pi K_2) / 2 + log(1 + K_4 / 8 K_2^2 - 5 K_3^2 / 24 K_2^3)

    Its exact derivative by eta_i is p_i plus a correction; these sum to zero. A cumulant's derivative by theta is the
    next cumulant, and moving eta_i moves t by -v_i / K_2, so dK_r / d eta_i = kappa_{r+1,i} - v_i K_{r+1} / K_2. The
    correction f_2 dK_2 + f_3 dK_3 + f_4 dK_4 is v_i times::

        f2 (1-2p) + f3 (1-6v) + f4 (1-2p)(1-12v) - (f2 K3 + f3 K4 + f4 K5) / K2

    ``spare``: (3, B, n_items) to be written over, or None. Fresh memory for each slice costs more than the sums.
    """
    p, v, vvp = logits.new_empty(3, *logits.shape) if spare is None else spare
    top = columns.largest(logits.amax(-1))
    high = _right_end(logits, k, columns) + top  # no log-odds eta_i + t is above it
    if not environment.waits_for(logits.device) and bool((high < LARGEST_LOG_ODDS).all()):
        t, value = _tilt_of_exponentials_(logits, k, columns, top, high, p, v)
    else:
        t, value = _tilt_of_logits_(logits, k, columns, p, v)
    vp = torch.mul(v, p, out=logits)
    # The items' cumulants are v, v(1 - 2p), v(1 - 6v) and v(1 - 2p)(1 - 12v).
    sum_vv = torch.linalg.vector_norm(v, dim=-1).square()
    sums = v.sum(-1), vp.sum(-1), sum_vv, torch.mul(v, vp, out=vvp).sum(-1)
    value, K2, sum_vp, sum_vv, sum_vvp = columns.sums(value, *sums)
    K3, K4, K5 = K2 - 2 * sum_vp, K2 - 6 * sum_vv, K2 - 2 * sum_vp - 12 * sum_vv + 24 * sum_vvp
    chance, f2, f3, f4 = _log_chance(K2, K3, K4, order)
    shift = (f2 * K3 + f3 * K4 + f4 * K5) / K2.clamp_min(torch.finfo(K2.dtype).tiny ** 0.2)
    f2, f3, f4, constant = (f[:, None] for f in (f2, f3, f4, f2 + f3 + f4 - shift))
    correction = vp.mul_(24 * f4).addcmul_(v, -6 * f3 - 12 * f4).addcmul_(p, -2 * (f2 + f4)).add_(constant)
    correction.mul_(v).add_(p)
    return value - k * t + chance


def _tilt_of_logits_(logits: Tensor, k: Tensor, columns: Columns, p: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return t and sum_i softplus(eta_i + t) over the columns, (B,); set p and v = p (1 - p), (B, n)."""
    t = calibrate(logits, k, columns)
    theta = logits.add_(t[:, None])
    value = torch.nn.functional.softplus(theta).sum(-1)
    torch.sigmoid(theta, out=p)
    torch.addcmul(p, p, p, value=-1, out=v)
    return t, value


def _tilt_of_exponentials_(
    logits: Tensor, k: Tensor, columns: Columns, top: Tensor, high: Tensor, p: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Do the same by one exponential an item, e_i = exp(eta_i - top): the odds are e_i exp(u) with u = t + top."""
    e = logits.sub_(top[:, None]).exp_()
    (total,) = columns.sums(e.sum(-1))

    def chances(u: Tensor) -> Tensor:
        odds = torch.mul(e, u.exp()[:, None], out=p)
        return odds.div_(torch.add(odds, 1, out=v))

    u = _newton(chances, k.log() - total.log(), high, k, columns)
    odds = e.mul_(u.exp()[:, None])
    torch.add(odds, 1, out=v)
    torch.div(odds, v, out=p)
    torch.div(p, v, out=v)
    return u - top, odds.log1p_().sum(-1)


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


def normalise_(logits: Tensor, k: Tensor, columns: Columns = ALL, order: int = 2) -> Tensor:
    """Return log e_k(exp(logits)), (B,); ``logits`` (B, n) become its derivatives, the inclusion probabilities.

    By saddlepoint; k = 0, 1, n_items - 1 and n_items exactly. Nothing is checked. ``columns``: which of the n_items
    the n columns are.
    """
    slices, k = columns.row_slices(logits), k.to(logits.dtype)
    spare = logits.new_empty(3, *logits[slices[0]].shape)
    values = [_normalise_(logits[rows], k[rows], columns, order, spare[:, : len(k[rows])]) for rows in slices]
    return torch.cat(values)


def _normalise_(logits: Tensor, k: Tensor, columns: Columns, order: int, spare: Tensor) -> Tensor:
    n_items = columns.n_items(logits)
    edges = (k <= 1) | (k >= n_items - 1)
    raw = logits.clone() if environment.waits_for(logits.device) or bool(edges.any()) else None
    inside = k.clamp(2, max(2, n_items - 2))
    value = saddlepoint_(logits, inside, order, columns, spare) if n_items > 3 else torch.zeros_like(k)
    if raw is None:
        return value
    (total,), nothing = columns.sums(raw.sum(-1)), torch.zeros_like(k)
    one_of, all_but_one_of = columns.logsumexp(raw), columns.logsumexp(-raw)
    for edge, log_e, p in (
        (k == n_items, total, torch.ones_like(raw)),
        (k == n_items - 1, total + all_but_one_of, 1 - (-raw - all_but_one_of[:, None]).exp()),
        (k == 1, one_of, (raw - one_of[:, None]).exp()),
        (k == 0, nothing, torch.zeros_like(raw)),
    ):
        value = torch.where(edge, log_e, value)
        logits.copy_(torch.where(edge[:, None], p, logits))
    return value


class _LogNormaliser(torch.autograd.Function):
    """log e_k; the gradient is the exact derivative of the value."""

    @staticmethod
    def forward(ctx, logits: Tensor, k: Tensor, order: int) -> Tensor:
        p = logits.clone()
        value = normalise_(p, k, order=order)
        ctx.save_for_backward(p)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (p,) = ctx.saved_tensors
        return p * grad[:, None], None, None


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
    shape = k.shape
    return _LogNormaliser.apply(logits.reshape(-1, logits.shape[-1]), k.reshape(-1), order).reshape(shape)


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
