"""Popularity: the same list for everyone."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import Batch, Interactions
from ..models.base import Model


class Popularity(Model):
    """Rank items by the number of training users that have them: the same list for everyone.

    Args:
        n_items: number of items.
    """

    slug = "popularity"
    about = "items by number of training users, the same for everyone"
    reads_values = False

    def __init__(self, n_items: int):
        super().__init__(n_items)
        self.register_buffer("popularity", torch.zeros(n_items))

    def prepare(self, train: Interactions) -> None:
        """Count each item's users."""
        self.popularity.copy_(train.item_counts)

    def scores(self, batch: Batch) -> Tensor:
        """Return the counts, (B, n_items)."""
        return self.popularity.expand(len(batch), -1)
