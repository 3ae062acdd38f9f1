"""The three likelihoods of a user's clicks, sum_i x_i eta_i - A(eta): they differ in the normaliser A alone.

============  =====================================  ==============================  =========================
likelihood    A(eta), with k = sum_i x_i             gradient of A: expected clicks  source
============  =====================================  ==============================  =========================
multinomial   k log sum_i exp(eta_i)                 k softmax(eta)                  Liang et al. 2018
bernoulli     sum_i log(1 + exp(eta_i))              sigmoid(eta)                    Zamani et al. 2022, Eq. 10
n_choose_k    log e_k(exp(eta))                      inclusion probabilities         Zamani et al. 2022, Eq. 9
============  =====================================  ==============================  =========================

So the gradient of each by the logits is "observed minus expected clicks".
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .counting import log_elementary_symmetric


def _as_rows(logits: Tensor, x) -> tuple[Tensor, object, torch.Size]:
    """Return logits and clicks as (B, n_items), and the batch shape to give the result."""
    logits = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()  # sums need the digits
    if isinstance(x, Tensor):
        try:
            logits, x = torch.broadcast_tensors(logits, x)
        except RuntimeError as error:
            shapes = f"logits {tuple(logits.shape)} and x {tuple(x.shape)}"
            raise ValueError(f"{shapes} must have one shape (..., n_items)") from error
        return logits.reshape(-1, logits.shape[-1]), x.reshape(-1, x.shape[-1]), logits.shape[:-1]
    if logits.shape != (len(x), x.n_items):
        raise ValueError(f"logits {tuple(logits.shape)} do not fit a batch of {len(x)} users and {x.n_items} items")
    return logits, x, logits.shape[:-1]


def _positives(logits: Tensor, x) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return (rows, items, counts, weights) of the clicks ``x``: a (B, n_items) tensor or a sparse batch."""
    if isinstance(x, Tensor):
        rows, items = x.nonzero(as_tuple=True)
        weights = x[rows, items]
        weights = None if bool((weights == 1).all()) else weights.to(logits.dtype)
        counts = x.sum(-1)
    else:
        rows, items, counts, weights = x.rows, x.items, x.counts, x.values
        if weights is not None:
            counts = torch.zeros_like(logits[:, 0]).index_add_(0, rows, weights.to(logits.dtype))
    return rows, items, counts, weights


def observed_log_weight(logits: Tensor, x) -> Tensor:
    """Return sum_i x_i eta_i, shape (...,), reading the logits only where x is not zero."""
    logits, x, shape = _as_rows(logits, x)
    rows, items, _, weights = _positives(logits, x)
    at = logits[rows, items]
    total = torch.zeros_like(logits[:, 0]).index_add(0, rows, at if weights is None else at * weights)
    return total.reshape(shape)


class _Multinomial(torch.autograd.Function):
    """sum x eta - k logsumexp(eta), keeping one (B, n_items) array; autograd's own graph keeps three."""

    @staticmethod
    def forward(ctx, logits, rows, items, counts, weights):
        at = logits[rows, items]
        observed = torch.zeros_like(logits[:, 0]).index_add_(0, rows, at if weights is None else at * weights)
        top = logits.amax(-1, keepdim=True)
        odds = torch.sub(logits, top).exp_()
        total = odds.sum(-1)
        ctx.save_for_backward(odds, total, rows, items, counts, weights)
        return observed - counts * (total.log() + top[:, 0])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        odds, total, rows, items, counts, weights = ctx.saved_tensors
        gradient = odds * (-grad * counts / total)[:, None]  # minus the expected clicks ...
        observed = grad[rows] if weights is None else grad[rows] * weights
        gradient.index_put_((rows, items), observed, accumulate=True)  # ... plus the observed
        return gradient, None, None, None, None


def multinomial_log_prob(logits: Tensor, x) -> Tensor:
    """Return sum_i x_i log softmax(logits)_i, without the constant log k! (Liang et al. 2018, Eq. 2).

    Args:
        logits: (..., n_items).
        x: clicks or counts: a tensor of that shape, or, for (B, n_items), a :class:`~vaecf_lib.data.Batch`.

    Returns:
        (...,) log-probabilities in nats; 0 for a user without clicks.

    Raises:
        ValueError: the shapes do not fit.
    """
    logits, x, shape = _as_rows(logits, x)
    rows, items, counts, weights = _positives(logits, x)
    return _Multinomial.apply(logits, rows, items, counts.to(logits.dtype), weights).reshape(shape)


def bernoulli_log_prob(logits: Tensor, x) -> Tensor:
    """Return sum_i [x_i eta_i - log(1 + exp eta_i)], shape (...,) (Zamani et al. 2022, Eq. 10)."""
    logits, x, shape = _as_rows(logits, x)
    return (observed_log_weight(logits, x) - torch.nn.functional.softplus(logits).sum(-1)).reshape(shape)


def n_choose_k_log_prob(logits: Tensor, x, method: str = "saddlepoint") -> Tensor:
    """Return log P(x | its number of clicks k) = sum_i x_i eta_i - log e_k(exp eta), shape (...,).

    Zamani et al. 2022, Eq. 9, which the paper calls intractable; see ``log_elementary_symmetric``.

    Raises:
        ValueError: x is not binary, or the shapes do not fit.
    """
    logits, x, shape = _as_rows(logits, x)
    _, _, counts, weights = _positives(logits, x)
    if weights is not None:
        raise ValueError("n-Choose-k is a model of clicks: x must be 0 or 1. Use the multinomial for counts")
    log_normaliser = log_elementary_symmetric(logits, counts.long(), method)
    return (observed_log_weight(logits, x) - log_normaliser).reshape(shape)


def observed_squared_error(predictions: Tensor, x) -> Tensor:
    """Return the sum of (x_i - prediction_i)^2 over the observed entries, the x_i that are not zero; shape (...,)."""
    predictions, x, shape = _as_rows(predictions, x)
    rows, items, _, weights = _positives(predictions, x)
    observed = 1.0 if weights is None else weights
    error = (predictions[rows, items] - observed) ** 2
    return torch.zeros_like(predictions[:, 0]).index_add(0, rows, error).reshape(shape)


def rating_log_prob(predictions: Tensor, x) -> Tensor:
    """Return -1/2 times the squared error on the observed entries, shape (...,): Gaussian ratings of variance 1.

    The constant is left out. This is the "masked squared error" by which autoencoders learn ratings; a zero means
    that nothing was observed, so that no rating may be zero.
    """
    return -0.5 * observed_squared_error(predictions, x)


LIKELIHOODS = {
    "multinomial": multinomial_log_prob,
    "bernoulli": bernoulli_log_prob,
    "n_choose_k": n_choose_k_log_prob,
}
