"""What an epoch runs over: users, items, single ratings, or blocks of users and items.

A sweep has ``count(batch_size)`` batches, and ``shuffled(batch_size)`` yields them in an order drawn from torch's
global generator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..environment import sent
from .interactions import Batch, Interactions


class Sweep(Protocol):
    """One pass over the training data in batches."""

    def count(self, batch_size: int) -> int:
        """Return the number of batches."""

    def shuffled(self, batch_size: int) -> Iterator[Any]:
        """Yield the batches in random order; each has a length, by which its loss is weighted."""


@dataclass(frozen=True)
class RowSweep:
    """Rows of a matrix, ``batch_size`` or ``per_batch`` at a time: users, or, of a transposed matrix, items.

    ``share`` (r, n): of each batch every n-th row from the r-th on, counted from 0; of a small batch that may be none.
    """

    matrix: Interactions
    per_batch: int | None = None
    share: tuple[int, int] = (0, 1)

    def count(self, batch_size: int) -> int:
        """Return the number of batches."""
        return math.ceil(self.matrix.n_users / (self.per_batch or batch_size))

    def shuffled(self, batch_size: int) -> Iterator[Batch]:
        """Yield batches of rows."""
        order = torch.randperm(self.matrix.n_users)
        yield from self.matrix.batches(self.per_batch or batch_size, order=order, share=self.share)


@dataclass(frozen=True)
class Pairs:
    """Some ratings: ``users``, ``items`` and ``values``, each (n,)."""

    users: Tensor
    items: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class PairSweep:
    """Single ratings, ``per_batch`` at a time whatever the number of users per update is elsewhere."""

    matrix: Interactions
    per_batch: int

    def count(self, batch_size: int) -> int:
        """Return the number of batches."""
        return math.ceil(self.matrix.nnz / self.per_batch)

    def shuffled(self, batch_size: int) -> Iterator[Pairs]:
        """Yield batches of ratings."""
        users, items = self.matrix.pairs()
        order = sent(torch.randperm(len(items)), items.device)
        for at in order.split(self.per_batch):
            yield Pairs(users[at], items[at], self.matrix.values[at])


@dataclass(frozen=True)
class Block:
    """The ratings between some users and some items.

    ``users`` B rows of the matrix, ``items`` C rows of the transposed one, both whole; ``rows``, ``columns`` (n,)
    places within them, and ``values`` (n,), of the ratings that lie in both.
    """

    users: Batch
    items: Batch
    rows: Tensor
    columns: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class BlockSweep:
    """Every batch of ``n_users`` users with every batch of ``n_items`` items, users outside, items inside."""

    by_user: Interactions
    by_item: Interactions
    n_users: int
    n_items: int

    def counts(self) -> tuple[int, int]:
        """Return the number of user batches and of item batches."""
        return math.ceil(self.by_user.n_users / self.n_users), math.ceil(self.by_item.n_users / self.n_items)

    def count(self, batch_size: int) -> int:
        """Return the number of blocks."""
        return math.prod(self.counts())

    def shuffled(self, batch_size: int) -> Iterator[Block]:
        """Yield the blocks; ratings are dealt to them by one sort per batch of users, which waits for the device."""
        item_order = torch.randperm(self.by_item.n_users)
        place = sent(item_order.argsort(), self.by_user.device)
        item_batches = list(self.by_item.batches(self.n_items, order=item_order))
        for users in self.by_user.batches(self.n_users, order=torch.randperm(self.by_user.n_users)):
            where = place[users.items]
            order = where.div(self.n_items, rounding_mode="floor").argsort(stable=True)
            sizes = torch.bincount(where[order].div(self.n_items, rounding_mode="floor"), minlength=len(item_batches))
            parts = order.split(sizes.tolist())
            for items, at in zip(item_batches, parts, strict=True):
                yield Block(users, items, users.rows[at], where[at] % self.n_items, users.values[at])
