"""The output layer, one logit an item: its product, and with a likelihood behind it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..maths.counting import ALL, Columns
from ..maths.likelihoods import Clicks, check_binary, clicks_of, log_prob_

ITEMS_AT_ONCE = 512  # MKL's product with a wide, transposed matrix takes 1.4 to 1.7 times as long in one piece
KEPT_BYTES = 2**29  # larger arrays of logits are not kept for the backward pass, but computed again by rows


def _logits(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return h W^T + b, (B, n_items)."""
    if h.is_cuda:
        return torch.addmm(bias, h, weight.T)
    out = h.new_empty(len(h), len(weight))
    for start in range(0, len(weight), ITEMS_AT_ONCE):
        some = slice(start, start + ITEMS_AT_ONCE)
        torch.mm(h, weight[some].T, out=out[:, some]).add_(bias[some])  # addmm would first copy the bias into each row
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, weight, bias):
        ctx.save_for_backward(h, weight)
        return _logits(h, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        h, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            grad @ weight if wanted[0] else None,
            grad.T @ h if wanted[1] else None,
            grad.sum(0) if wanted[2] else None,
        )


def item_logits(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return h W^T + b, (B, n), for h (B, d), weight (n, d) and bias (n,)."""
    return _Linear.apply(h, weight, bias)


class _ItemLogProb(torch.autograd.Function):
    """log p(x | h W^T + b), keeping one (B, n_items) array for the backward pass, or none where it would be too large.

    The logits' gradient G times each row's incoming one: the rows of the small factor h carry that, so that no pass
    over (B, n_items) is made for it. ``columns`` says which of the items W and b are of.

    In bfloat16, the ``dtype`` that is not the weights' own, are the factors of the products and the array that is kept;
    logits, likelihood and the weights' gradients are float32.
    """

    @staticmethod
    def forward(ctx, h, weight, bias, clicks, likelihood, columns, kept_bytes, dtype):
        ctx.dtypes = h.dtype, weight.dtype
        h, weight = h.to(dtype), weight.to(dtype)
        n_rows = max(1, kept_bytes // (columns.width(len(weight)) * h.element_size()))
        ctx.parts = [slice(start, min(start + n_rows, len(h))) for start in range(0, len(h) or 1, n_rows)]
        ctx.clicks, ctx.likelihood, ctx.columns = _by_rows(clicks, ctx.parts), likelihood, columns
        values, residual = [], None
        for part, some in zip(ctx.parts, ctx.clicks, strict=True):
            value, residual = _likelihood(h[part], weight, bias, some, likelihood, columns)
            values.append(value)
        ctx.save_for_backward(h, weight, bias, residual if len(ctx.parts) == 1 else None)
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        h, weight, bias, kept = ctx.saved_tensors
        for_h, for_weight, for_bias, *_ = ctx.needs_input_grad
        of_h, of_weight = ctx.dtypes
        h_grad = torch.empty_like(h, dtype=of_h) if for_h else None
        new = torch.empty_like if h.dtype == of_weight else torch.zeros_like
        weight_grad = new(weight, dtype=of_weight) if for_weight else None
        bias_grad = torch.zeros_like(bias) if for_bias else None
        for part, some in zip(ctx.parts, ctx.clicks, strict=True):
            residual = kept
            if residual is None:
                _, residual = _likelihood(h[part], weight, bias, some, ctx.likelihood, ctx.columns)
            scale = -grad[part]
            if for_h:
                h_grad[part] = (residual @ weight).mul_(scale[:, None])
            scaled = (h[part] * scale[:, None]).to(residual.dtype)
            if for_weight and residual.dtype == of_weight:
                weight_grad.addmm_(residual.T, scaled, beta=float(part.start > 0))
            elif for_weight:
                weight_grad += residual.T @ scaled
            if for_bias:
                bias_grad += residual.T @ scale.to(residual.dtype)
        return h_grad, weight_grad, bias_grad, None, None, None, None, None


def _likelihood(
    h: Tensor, weight: Tensor, bias: Tensor, clicks: Clicks, likelihood: str, columns: Columns
) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities, (B,), and minus their gradient by the logits, (B, n), in the dtype of h."""
    # bfloat16 plus the bias is float32, in one pass.
    logits = _logits(h, weight, bias) if h.dtype == bias.dtype else torch.mm(h, weight.T) + bias
    value = log_prob_(logits, clicks, likelihood, columns)
    return value, logits.to(h.dtype)


def item_log_prob(
    h: Tensor, weight: Tensor, bias: Tensor, clicks: Clicks, likelihood: str, columns: Columns = ALL
) -> Tensor:
    """Return log p(x | h W^T + b), (B,), for h (B, d), weight (n, d) and bias (n,).

    ``columns`` says which of the items these n are; the ``clicks`` are on them, their counts of all items.
    """
    device = h.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    with torch.autocast(device, enabled=False):
        return _ItemLogProb.apply(h, weight, bias, clicks, likelihood, columns, KEPT_BYTES, dtype)


def fitting_clicks(h: Tensor, x, n_items: int) -> Clicks:
    """Return the clicks ``x`` of the users of h (B, d), in its dtype.

    Raises:
        ValueError: they are not those of B users on ``n_items`` items.
    """
    shape = tuple(x.shape) if isinstance(x, Tensor) else (len(x), x.n_items)
    if shape != (len(h), n_items):
        raise ValueError(f"clicks {shape} do not fit {len(h)} users and {n_items} items")
    return clicks_of(h, x)


def _by_rows(clicks: Clicks, parts: list[slice]) -> list[Clicks]:
    """Return the clicks of each part of the rows, numbered from the part's first."""
    if len(parts) == 1:
        return [clicks]
    starts = torch.tensor([part.start for part in parts], device=clicks.rows.device)
    ends = [*torch.searchsorted(clicks.rows, starts).tolist()[1:], len(clicks.rows)]
    some, start = [], 0
    for part, end in zip(parts, ends, strict=True):
        weights = None if clicks.weights is None else clicks.weights[start:end]
        rows = clicks.rows[start:end] - part.start
        some.append(Clicks(rows, clicks.items[start:end], clicks.counts[part], weights))
        start = end
    return some


class ItemLayer(nn.Linear):
    """A linear layer to one logit per item, and a likelihood behind it; ``frozen`` takes its weights as constants."""

    def forward(self, h: Tensor, frozen: bool = False) -> Tensor:
        """Return the logits h W^T + b, (..., n_items), for h (..., d)."""
        weight, bias = self._weights(frozen)
        if torch.is_autocast_enabled(h.device.type):
            return nn.functional.linear(h, weight, bias)
        return item_logits(h.reshape(-1, h.shape[-1]), weight, bias).reshape(*h.shape[:-1], len(weight))

    def log_prob(self, h: Tensor, x, likelihood: str, frozen: bool = False) -> Tensor:
        """Return log p(x | logits of h), (B,), of one of the likelihoods of clicks.

        The same as ``LIKELIHOODS[likelihood](self(h), x)``, in fewer passes over memory; under autocast the products
        are in its dtype, the likelihood in that of the weights. Where the logits would take
        more than KEPT_BYTES they are computed twice, some rows at a time, so that memory does not grow with the items.

        Args:
            h: (B, d).
            x: clicks, a (B, n_items) tensor or a :class:`~vaecf_lib.data.Batch`.
            likelihood: "multinomial", "bernoulli" or "n_choose_k".
            frozen: without gradients for this layer's own weights, and without their cost.

        Raises:
            ValueError: the shapes do not fit, or x is not binary and the likelihood is n_choose_k.
        """
        weight, bias = self._weights(frozen)
        clicks = fitting_clicks(h.to(weight.dtype), x, self.out_features)
        if likelihood == "n_choose_k":
            check_binary(clicks)
        return item_log_prob(h, weight, bias, clicks, likelihood)

    def sampled_log_prob(self, h: Tensor, x, chances: Tensor, n_sampled: int, frozen: bool = False) -> Tensor:
        """Return an estimate of the multinomial's log p(x | logits of h), (B,), from some of the items.

        Sampled softmax with the log-Q correction (Jean et al. 2015, section 3): the sum in the normaliser is exact
        over the user's own items; for all others together it is a mean over ``n_sampled`` items drawn with
        ``chances`` q, the same for the whole batch, of exp(eta_j) / q_j, his own left out. Its mean is the
        normaliser; of its log, which is too small on average, the bias is of order 1 / n_sampled.

        Args:
            h: (B, d).
            x: clicks, a (B, n_items) tensor or a :class:`~vaecf_lib.data.Batch`.
            chances: (n_items,) weights to draw items with, in proportion.
            n_sampled: draws, with repeats.
            frozen: as for :meth:`log_prob`.

        Raises:
            ValueError: the shapes do not fit.
        """
        rows, items, counts, values = fitting_clicks(h, x, self.out_features)
        # In float32 the running sum of the chances would lose the rare items; Apple's GPUs have nothing wider.
        wide = chances if chances.device.type == "mps" else chances.double()
        drawn = torch.multinomial(wide, n_sampled, replacement=True)
        weight, bias = self._weights(frozen)
        # One look-up for both, so that there is one gradient of the table's size.
        looked_up = torch.cat([drawn, items])
        some_weights, some_biases = nn.functional.embedding(looked_up, weight), bias.index_select(0, looked_up)
        own = (h.index_select(0, rows) * some_weights[n_sampled:]).sum(-1) + some_biases[n_sampled:]
        others = torch.addmm(some_biases[:n_sampled], h, some_weights[:n_sampled].T)
        others = others - (n_sampled * chances[drawn] / chances.sum()).log()
        others[_places(drawn, rows, items)] = -torch.inf
        top = others.detach().amax(-1).scatter_reduce(0, rows, own.detach(), "amax")
        total = (others - top[:, None]).exp().sum(-1).index_add(0, rows, (own - top[rows]).exp())
        observed = torch.zeros_like(top).index_add(0, rows, own if values is None else own * values)
        return observed - counts * (total.log() + top)

    def _weights(self, frozen: bool) -> tuple[Tensor, Tensor]:
        return (self.weight.detach(), self.bias.detach()) if frozen else (self.weight, self.bias)


def _places(drawn: Tensor, rows: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Return (row, place in ``drawn``) wherever a row's own item was drawn; ``drawn`` (m,), rows and items (n,)."""
    ascending, order = drawn.sort()
    first, last = (torch.searchsorted(ascending, items, right=right) for right in (False, True))
    times = last - first
    which = torch.arange(len(items), device=items.device).repeat_interleave(times)
    nth = torch.arange(len(which), device=items.device) - (times.cumsum(0) - times)[which]
    return rows[which], order[first[which] + nth]
