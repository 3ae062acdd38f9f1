"""The sparse input layer, and the initialisation of Liang et al."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import Batch


def init_linear(weight: Tensor, bias: Tensor) -> None:
    """Xavier-uniform weights, truncated-normal biases of 0.001, as in the public Mult-VAE code."""
    nn.init.xavier_uniform_(weight)
    nn.init.trunc_normal_(bias, std=0.001, a=-0.002, b=0.002)


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

    def forward(self, batch: Batch) -> Tensor:
        """Return (B, width) for a batch of B users; a user without items gets the bias."""
        values = unit_length(batch).to(self.weight.dtype)
        values = nn.functional.dropout(values, self.dropout, self.training)
        return self.bag(batch, values) + self.bias

    def bag(self, batch: Batch, values: Tensor) -> Tensor:
        """Return the users' sums of weight rows, each row times its entry of ``values`` (n,); shape (B, width)."""
        return nn.functional.embedding_bag(
            batch.items, self.weight, batch.offsets, mode="sum", per_sample_weights=values
        )

    def dense(self, x: Tensor) -> Tensor:
        """Return (M, width) for M dense inputs (M, n_items), normalised and not dropped out."""
        return nn.functional.normalize(x) @ self.weight + self.bias


def unit_length(batch: Batch) -> Tensor:
    """Return the batch's entries, (n,), divided by the L2 norm of their user's row."""
    if batch.values is None:
        return batch.counts.clamp_min(1).to(torch.get_default_dtype()).rsqrt()[batch.rows]
    squares = torch.zeros(len(batch), device=batch.rows.device).index_add_(0, batch.rows, batch.values**2)
    return batch.values * squares.clamp_min(1e-12).rsqrt()[batch.rows]


class _RowSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, batch: Batch, values: Tensor | None) -> Tensor:
        ctx.batch, ctx.values = batch, values
        bag = nn.functional.embedding_bag
        return bag(batch.items, table, batch.offsets, mode="sum", per_sample_weights=values)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        order, offsets = ctx.batch.by_item
        values = None if ctx.values is None else ctx.values[order]
        bag = nn.functional.embedding_bag
        rows = ctx.batch.rows[order]
        return bag(rows, gradient.contiguous(), offsets, mode="sum", per_sample_weights=values), None, None


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
        bag = nn.functional.embedding_bag
        batch = ctx.batch
        return bag(batch.items, ctx.table, batch.offsets, mode="sum", per_sample_weights=gradient), None, None


def row_dot(queries: Tensor, batch: Batch, table: Tensor) -> Tensor:
    """Return <query of the row, table row of the item> for each of the batch's interactions, (n,).

    ``queries`` (B, width); ``table`` (n_items, width) is a constant.
    """
    return _RowDot.apply(queries, batch, table)
