"""The sparse input layer, and the initialisation of Liang et al."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ..data import Batch, Interactions

USERS_AT_ONCE = 4096  # whose sums of item rows are held together


def reset_parts(module: nn.Module) -> None:
    """Draw the weights of a module's parts anew; a part that resets itself also resets its own parts."""
    for part in module.children():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
        else:
            reset_parts(part)


def init_linear(weight: Tensor, bias: Tensor) -> None:
    """Xavier-uniform weights, truncated-normal biases of 0.001, as in the public Mult-VAE code."""
    nn.init.xavier_uniform_(weight)
    nn.init.trunc_normal_(bias, std=0.001, a=-0.002, b=0.002)


def dense_layers(widths: list[int]) -> nn.Sequential:
    """Return linear layers between ``widths``, each with a ReLU after it."""
    return nn.Sequential(*(part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())))


def full_precision(x: Tensor) -> Tensor:
    """Return what a layer under autocast gave in bfloat16 as float32: densities and divergences need the digits."""
    return x.float() if x.dtype == torch.bfloat16 else x


def bag_sum(table: Tensor, items: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return sums of the ``table`` rows ``items`` (n,), times ``weights`` (n,): one a bag, which begin at ``offsets``.

    The one call for all sparse sums: (B, width) for a table (n_items, width), without a dense matrix of the input.
    """
    return nn.functional.embedding_bag(items, table, offsets, mode="sum", per_sample_weights=weights)


class SparseInput(nn.Module):
    """Linear layer n_items -> width that reads a sparse batch: the sum of the weight rows of a user's items.

    The input is first divided by its L2 norm, then dropped out (kept entries are scaled by 1 / (1 - dropout)),
    as in Mult-VAE; only the batch's interactions are touched.
    """

    def __init__(self, n_items: int, width: int, dropout: float = 0.5):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_items, width))
        self.bias = nn.Parameter(torch.empty(width))
        self.dropout = dropout
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        init_linear(self.weight, self.bias)

    def forward(self, batch: Batch, drop: bool = True) -> Tensor:
        """Return (B, width) for a batch of B users; a user without items gets the bias.

        ``drop=False`` keeps all entries in training, too.
        """
        values = unit_length(batch).to(self.weight.dtype)
        values = nn.functional.dropout(values, self.dropout, self.training and drop)
        return self.bag(batch, values) + self.bias

    def bag(self, batch: Batch, values: Tensor) -> Tensor:
        """Return the users' sums of weight rows, each row times its entry of ``values`` (n,); shape (B, width)."""
        return bag_sum(self.weight, batch.items, batch.offsets, values)

    def dense(self, x: Tensor) -> Tensor:
        """Return (M, width) for M dense inputs (M, n_items), normalised and not dropped out."""
        return nn.functional.normalize(x) @ self.weight + self.bias


def unit_length(batch: Batch) -> Tensor:
    """Return the batch's entries, (n,), divided by the L2 norm of their user's row."""
    if batch.values is None:
        return batch.counts.clamp_min(1).to(torch.get_default_dtype()).rsqrt()[batch.rows]
    return scaled_to_unit_length(batch, batch.values)


def scaled_to_unit_length(batch: Batch, values: Tensor) -> Tensor:
    """Return ``values`` of the batch's entries, (n,), over the L2 norm of their row, a constant for the gradient."""
    squares = batch.row_sums(values.detach() ** 2)
    return values * squares.clamp_min(1e-12).rsqrt()[batch.rows]


class _RowSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, batch: Batch, values: Tensor | None) -> Tensor:
        ctx.batch, ctx.values = batch, values
        return bag_sum(table, batch.items, batch.offsets, values)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        order, offsets = ctx.batch.by_item
        values = None if ctx.values is None else ctx.values[order]
        return bag_sum(gradient.contiguous(), ctx.batch.rows[order], offsets, values), None, None


def row_sum(table: Tensor, batch: Batch, values: Tensor | None = None) -> Tensor:
    """Return each row's sum of the ``table`` rows (n_items, width) of its items, times ``values`` (n,); (B, width).

    ``values`` are constants. The gradient is the same sum over the batch sorted by item, which is sorted once for all
    tables: for a batch that is summed several times this is faster than torch's own gradient of an embedding bag.
    """
    return _RowSum.apply(table, batch, values)


class _RowDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries: Tensor, batch: Batch, table: Tensor) -> Tensor:
        ctx.batch, ctx.table = batch, table
        return (queries.index_select(0, batch.rows) * table.index_select(0, batch.items)).sum(-1)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return bag_sum(ctx.table, ctx.batch.items, ctx.batch.offsets, gradient), None, None


def row_dot(queries: Tensor, batch: Batch, table: Tensor) -> Tensor:
    """Return <query of the row, table row of the item> for each of the batch's interactions, (n,).

    ``queries`` (B, width); ``table`` (n_items, width) is a constant.
    """
    return _RowDot.apply(queries, batch, table)


def times_gram(train: Interactions, table: Tensor) -> Tensor:
    """Return X^T X M, (n_items, width), for clicks X, sparse throughout, and ``table`` M (n_items, width)."""
    total = torch.zeros_like(table)
    for batch in train.batches(USERS_AT_ONCE):
        sums = bag_sum(table, batch.items, batch.offsets)
        order, offsets = batch.by_item
        total += bag_sum(sums, batch.rows[order], offsets)
    return total
