"""Neighbourhoods of items: Sarwar et al. (2001), Deshpande and Karypis (2004)."""

from __future__ import annotations

import torch

from ..data import Interactions
from .item_item import ITEMS_AT_ONCE, SparseItemItemModel, co_occurrences


class ItemKNN(SparseItemItemModel):
    """An item's score is the sum of its similarities to those of its nearest items that somebody has.

    With c_ij users who have both, s_ij = c_ij / (sqrt(c_ii c_jj) + shrink): the cosine of the items' columns, drawn
    towards zero where few users support it. Ratings are not read.

    Args:
        n_items: number of items.
        neighbours: an item is scored by so many others at most, the most similar ones.
        shrink: added to the cosine's denominator.
    """

    slug = "itemknn"
    about = "cosine similarity of items with shrinkage, nearest neighbours (Sarwar et al. 2001)"

    def __init__(self, n_items: int, neighbours: int = 100, shrink: float = 10.0):
        super().__init__(n_items)

    def start(self, train: Interactions) -> None:
        """Find each item's neighbours."""
        n, by_item = train.n_items, train.transposed()
        norms = train.item_counts.float().sqrt()
        had, scored, weights = [], [], []
        for start in range(0, n, ITEMS_AT_ONCE):
            items = range(start, min(start + ITEMS_AT_ONCE, n))
            here = torch.arange(items.start, items.stop, device=train.device)
            together = co_occurrences(train, by_item, items).float()
            similarity = together / (norms[here, None] * norms + self.config["shrink"]).clamp_min(1e-6)
            similarity[here - start, here] = 0.0  # nobody is recommended what they have
            values, nearest = similarity.topk(min(self.config["neighbours"], n))
            some = values > 0
            had.append(nearest[some])
            scored.append(here[:, None].expand_as(nearest)[some])
            weights.append(values[some])
        self.keep(had, scored, weights)
