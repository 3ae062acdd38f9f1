"""Floors nobody should lose to."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import Batch, Interactions
from ..models.base import Model


class Popularity(Model):
    """Rank items by the number of training users that have them: the same list for everyone."""

    slug = "popularity"
    about = "items by number of training users, the same for everyone"

    def __init__(self, n_items: int):
        super().__init__(n_items)
        self.register_buffer("popularity", torch.zeros(n_items))

    def prepare(self, train: Interactions) -> None:
        """Count each item's users."""
        self.popularity.copy_(train.item_counts)

    def scores(self, batch: Batch) -> Tensor:
        """Return the counts, (B, n_items)."""
        return self.popularity.expand(len(batch), -1)


class Random(Model):
    """Rank items at random, differently for each user, the same way at every call.

    Args:
        n_items: number of items.
        key: changes the ranking.
    """

    slug = "random"
    about = "items in random order"

    def __init__(self, n_items: int, key: int = 0):
        super().__init__(n_items, key=key)
        self.key = key

    def scores(self, batch: Batch) -> Tensor:
        """Return uniform numbers, (B, n_items), that depend on the user's row number and ``key``."""
        rows = []
        for user in batch.users.tolist():
            generator = torch.Generator().manual_seed(self.key * 1_000_003 + user)
            rows.append(torch.rand(self.n_items, generator=generator))
        return torch.stack(rows).to(batch.items.device)
