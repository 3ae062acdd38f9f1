"""Interactions: a sparse user-item matrix as CSR tensors that live on the training device.

No user-item dense array is ever built for the data; :meth:`Batch.dense` builds one for a batch of rows where
an equation needs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..environment import sent
from ..errors import ConfigError, DataError


@dataclass(frozen=True)
class Batch:
    """Some rows of an :class:`Interactions` matrix.

    ``users`` (B,) row numbers · ``counts`` (B,) interactions per row · ``rows`` (n,) position in the batch of each
    interaction · ``items`` (n,) its column · ``values`` (n,) its value, or None where all are 1 · ``source`` the matrix
    whose rows ``users`` are, if they are any's.
    """

    users: Tensor
    counts: Tensor
    rows: Tensor
    items: Tensor
    values: Tensor | None
    n_items: int
    source: Interactions | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def offsets(self) -> Tensor:
        """(B,) where each row begins in ``items``."""
        return self.counts.cumsum(0) - self.counts

    @cached_property
    def by_item(self) -> tuple[Tensor, Tensor]:
        """Places of the interactions sorted by item, (n,), and where each item begins in them, (n_items,)."""
        ascending, order = self.items.sort(stable=True)
        return order, torch.searchsorted(ascending, torch.arange(self.n_items, device=ascending.device))

    def row_sums(self, values: Tensor) -> Tensor:
        """Return each row's sum of one number per interaction, ``values`` (n,); (B,)."""
        return torch.zeros(len(self), device=values.device).index_add_(0, self.rows, values)

    def dense(self) -> Tensor:
        """Return the rows as a (B, n_items) float32 matrix. Costs 4·B·n_items bytes: 40 MB for 500 x 20,108."""
        x = torch.zeros(len(self), self.n_items, device=self.items.device)
        x[self.rows, self.items] = 1.0 if self.values is None else self.values
        return x

    @staticmethod
    def from_dense(x: Tensor) -> Batch:
        """Return the non-zero entries of a (B, n_items) matrix as a batch; values are kept unless all are 1."""
        rows, items = x.nonzero(as_tuple=True)
        values = x[rows, items]
        return Batch(
            users=torch.arange(len(x), device=x.device),
            counts=(x != 0).sum(1),
            rows=rows,
            items=items,
            values=None if bool((values == 1).all()) else values.float(),
            n_items=x.shape[1],
        )


@dataclass(frozen=True)
class Interactions:
    """A sparse (n_users, n_items) matrix: ``indptr`` (n_users + 1,), ``indices`` (nnz,), ``values`` (nnz,) or None.

    Column numbers ascend within a row and no pair occurs twice; :meth:`from_pairs` makes it so.
    """

    indptr: Tensor
    indices: Tensor
    values: Tensor | None
    shape: tuple[int, int]

    @classmethod
    def from_pairs(cls, user, item, values=None, *, shape: tuple[int, int]) -> Interactions:
        """Build from index arrays ``user``, ``item`` (nnz,) in any order.

        Raises:
            DataError: an index lies outside ``shape``, or a pair occurs twice.
        """
        user, item = np.asarray(user, dtype=np.int64), np.asarray(item, dtype=np.int64)
        for name, index, size in (("user", user, shape[0]), ("item", item, shape[1])):
            if len(index) and (index.min() < 0 or index.max() >= size):
                raise DataError(
                    f"{name} numbers must lie in 0..{size - 1}, found {index.min()}..{index.max()}: "
                    "renumber them, or give the right shape"
                )
        pair = user * shape[1] + item  # one key to sort by; a matrix of 2^63 places has no room for its rows anyway
        values = None if values is None else np.asarray(values, dtype=np.float32)
        if (pair[1:] > pair[:-1]).all():
            item, values = item.copy(), None if values is None else values.copy()  # the caller's may change
        else:
            if values is None:
                pair.sort()
            else:
                order = np.argsort(pair)
                pair, values = pair[order], values[order]
            item = pair % shape[1]
            repeated = pair[1:] == pair[:-1]
            if repeated.any():
                at = int(np.argmax(repeated))
                raise DataError(
                    f"{int(repeated.sum())} (user, item) pairs occur more than once, the first is "
                    f"({pair[at] // shape[1]}, {item[at]}): merge them before building Interactions"
                )
        indptr = np.zeros(shape[0] + 1, dtype=np.int64)
        np.cumsum(np.bincount(user, minlength=shape[0]), out=indptr[1:])
        values = None if values is None else torch.from_numpy(values)
        return cls(torch.from_numpy(indptr), torch.from_numpy(item), values, (int(shape[0]), int(shape[1])))

    @property
    def n_users(self) -> int:
        """Number of rows."""
        return self.shape[0]

    @property
    def n_items(self) -> int:
        """Number of columns."""
        return self.shape[1]

    @property
    def nnz(self) -> int:
        """Number of stored interactions."""
        return len(self.indices)

    @property
    def device(self) -> torch.device:
        """The device that holds the tensors."""
        return self.indices.device

    @cached_property
    def counts(self) -> Tensor:
        """(n_users,) interactions per user."""
        return self.indptr.diff()

    @cached_property
    def counts_on_cpu(self) -> np.ndarray:
        """(n_users,) interactions per user, for the CPU: how large a batch is can be known without asking a GPU."""
        return self.counts.cpu().numpy()

    @cached_property
    def item_counts(self) -> Tensor:
        """(n_items,) interactions per item."""
        return torch.bincount(self.indices, minlength=self.n_items)

    @property
    def sha256(self) -> str:
        """Hash of the pattern and the values."""
        digest = hashlib.sha256(repr(self.shape).encode())
        for tensor in (self.indptr, self.indices, self.values):
            digest.update(b"-" if tensor is None else tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device) -> Interactions:
        """Return the same matrix on ``device`` (itself, if it is there already)."""
        device = torch.device(device)
        if device.type == self.device.type and device.index in (None, self.device.index):
            return self
        values = None if self.values is None else self.values.to(device)
        return Interactions(self.indptr.to(device), self.indices.to(device), values, self.shape)

    def rows(self, users: Tensor, n: int | None = None) -> Batch:
        """Return the rows ``users`` (B,), in that order, gathered on the device without a Python loop.

        ``n``: how many interactions they have together, if it is known; else it is counted, and a GPU waited for.
        """
        if n is None:
            n = int(self.counts_on_cpu[users.cpu().numpy()].sum())
        users = users.to(self.device)
        starts, counts = self.indptr[users], self.counts[users]
        rows = torch.repeat_interleave(torch.arange(len(users), device=self.device), counts, output_size=n)
        within = torch.arange(n, device=self.device) - (counts.cumsum(0) - counts)[rows]
        at = starts[rows] + within
        values = None if self.values is None else self.values[at]
        return Batch(users, counts, rows, self.indices[at], values, self.n_items, self)

    def batches(
        self, batch_size: int, *, order: Tensor | None = None, share: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Yield batches of ``batch_size`` rows (the last may be smaller), in ``order`` or by row number.

        ``share`` (r, n): of each batch every n-th row from the r-th on. Between batches nothing waits for the device.
        """
        order = (torch.arange(self.n_users) if order is None else order).cpu()
        counts, there, (first, step) = self.counts_on_cpu[order.numpy()], sent(order, self.device), share
        for start in range(0, len(order), batch_size):
            some = slice(start + first, start + batch_size, step)
            yield self.rows(there[some], int(counts[some].sum()))

    def transposed(self) -> Interactions:
        """Return the (n_items, n_users) matrix: one row an item."""
        users, items = self.pairs()
        order = items.argsort(stable=True)  # users ascend within an item, since they ascended before
        indptr = torch.zeros(self.n_items + 1, dtype=torch.int64, device=self.device)
        indptr[1:] = self.item_counts.cumsum(0)
        values = None if self.values is None else self.values[order]
        return Interactions(indptr, users[order], values, (self.n_items, self.n_users))

    def to_scipy(self) -> Any:
        """Return a copy as ``scipy.sparse.csr_array`` (n_users, n_items) of float32; clicks are ones.

        Raises:
            ConfigError: SciPy, which nothing else here needs, is not installed.
        """
        try:
            from scipy import sparse
        except ImportError as error:
            raise ConfigError("pip install scipy to get a matrix of it") from error
        indptr, indices = self.indptr.cpu().numpy(), self.indices.cpu().numpy()
        values = np.ones(self.nnz, dtype=np.float32) if self.values is None else self.values.cpu().numpy()
        return sparse.csr_array((values, indices, indptr), shape=self.shape, copy=True)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Return (user, item), each (nnz,)."""
        users = torch.repeat_interleave(
            torch.arange(self.n_users, device=self.device), self.counts, output_size=self.nnz
        )
        return users, self.indices
