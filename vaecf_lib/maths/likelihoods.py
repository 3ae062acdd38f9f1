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

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .counting import ALL, Columns, log_elementary_symmetric, normalise_

Normaliser = Callable[[Tensor, Tensor, Columns], Tensor]


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


class Clicks(NamedTuple):
    """Where x is not zero: ``rows``, ``items`` (n,), ascending by row; its row sums ``counts``; values but ones."""

    rows: Tensor
    items: Tensor
    counts: Tensor
    weights: Tensor | None


def clicks_of(logits: Tensor, x) -> Clicks:
    """Return the clicks ``x``: a (B, n_items) tensor or a sparse batch; ``logits`` (B, n_items) give the dtype."""
    if isinstance(x, Tensor):
        rows, items = x.nonzero(as_tuple=True)
        weights = x[rows, items]
        return Clicks(rows, items, x.sum(-1), None if bool((weights == 1).all()) else weights.to(logits.dtype))
    if x.values is None:
        return Clicks(x.rows, x.items, x.counts, None)
    weights = x.values.to(logits.dtype)
    return Clicks(x.rows, x.items, torch.zeros_like(logits[:, 0]).index_add_(0, x.rows, weights), weights)


def check_binary(clicks: Clicks) -> None:
    """Refuse counts.

    Raises:
        ValueError: x is not binary.
    """
    if clicks.weights is not None:
        raise ValueError("n-Choose-k is a model of clicks: x must be 0 or 1. Use the multinomial for counts")


def _observed(logits: Tensor, clicks: Clicks) -> Tensor:
    at = logits[clicks.rows, clicks.items]
    at = at if clicks.weights is None else at * clicks.weights
    return torch.zeros_like(logits[:, 0]).index_add(0, clicks.rows, at)


def observed_log_weight(logits: Tensor, x) -> Tensor:
    """Return sum_i x_i eta_i, shape (...,), reading the logits only where x is not zero."""
    logits, x, shape = _as_rows(logits, x)
    return _observed(logits, clicks_of(logits, x)).reshape(shape)


def _by_slices(normalise_rows_: Normaliser) -> Normaliser:
    """Return the same, of some rows after the others."""

    def normalise_rows_by_slices_(eta: Tensor, k: Tensor, columns: Columns) -> Tensor:
        return torch.cat([normalise_rows_(eta[rows], k[rows], columns) for rows in columns.row_slices(eta)])

    return normalise_rows_by_slices_


@_by_slices
def _multinomial_(eta: Tensor, k: Tensor, columns: Columns) -> Tensor:
    top = columns.largest(eta.amax(-1))
    (total,) = columns.sums(eta.sub_(top[:, None]).exp_().sum(-1))
    eta.mul_((k / total)[:, None])
    return k * (total.log() + top)


@_by_slices
def _bernoulli_(eta: Tensor, k: Tensor, columns: Columns) -> Tensor:
    (value,) = columns.sums(torch.nn.functional.softplus(eta).sum(-1))
    eta.sigmoid_()
    return value


# Each returns the log-normalisers, (B,), of the logits of all items; its columns of them become the expected clicks.
NORMALISERS: dict[str, Normaliser] = {
    "multinomial": _multinomial_,
    "bernoulli": _bernoulli_,
    "n_choose_k": normalise_,
}


def log_prob_(eta: Tensor, clicks: Clicks, likelihood: str, columns: Columns = ALL) -> Tensor:
    """Return the log-probabilities, (B,); the logits ``eta`` (B, n) become minus their gradient, in place.

    That is expected minus observed clicks. Row slices that stay in the processor's cache make the passes cheap.

    Args:
        eta: of all items, or of some ``columns``.
        clicks: on the columns; the ``counts`` are of all items.
        likelihood: "multinomial", "bernoulli" or "n_choose_k".
        columns: which of the items the columns of ``eta`` are.
    """
    rows, items, counts, weights = clicks
    counts = counts.to(eta.dtype)
    (observed,) = columns.sums(_observed(eta, clicks))
    log_normaliser = NORMALISERS[likelihood](eta, counts, columns)
    minus = eta.new_full((), -1.0).expand(len(rows)) if weights is None else -weights.to(eta.dtype)
    eta.index_put_((rows, items), minus, accumulate=True)
    return observed - log_normaliser


class _LogProb(torch.autograd.Function):
    """A likelihood by its logits, keeping one (B, n_items) array; autograd's own graph keeps three or more."""

    @staticmethod
    def forward(ctx, logits, clicks, likelihood):
        residual = logits.clone()
        value = log_prob_(residual, clicks, likelihood)
        ctx.save_for_backward(residual)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (residual,) = ctx.saved_tensors
        return residual * -grad[:, None], None, None


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
    return _LogProb.apply(logits, clicks_of(logits, x), "multinomial").reshape(shape)


def bernoulli_log_prob(logits: Tensor, x) -> Tensor:
    """Return sum_i [x_i eta_i - log(1 + exp eta_i)], shape (...,) (Zamani et al. 2022, Eq. 10).

    Raises:
        ValueError: the shapes do not fit.
    """
    logits, x, shape = _as_rows(logits, x)
    return _LogProb.apply(logits, clicks_of(logits, x), "bernoulli").reshape(shape)


def n_choose_k_log_prob(logits: Tensor, x, method: str = "saddlepoint") -> Tensor:
    """Return log P(x | its number of clicks k) = sum_i x_i eta_i - log e_k(exp eta), shape (...,).

    Zamani et al. 2022, Eq. 9, which the paper calls intractable; see ``log_elementary_symmetric``.

    Raises:
        ValueError: x is not binary, or the shapes do not fit.
    """
    logits, x, shape = _as_rows(logits, x)
    clicks = clicks_of(logits, x)
    check_binary(clicks)
    if method == "saddlepoint":
        return _LogProb.apply(logits, clicks, "n_choose_k").reshape(shape)
    log_normaliser = log_elementary_symmetric(logits, clicks.counts.long(), method)
    return (observed_log_weight(logits, x) - log_normaliser).reshape(shape)


def observed_squared_error(predictions: Tensor, x) -> Tensor:
    """Return the sum of (x_i - prediction_i)^2 over the observed entries, the x_i that are not zero; shape (...,)."""
    predictions, x, shape = _as_rows(predictions, x)
    rows, items, _, weights = clicks_of(predictions, x)
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
