"""Shrunken means of users and items: the floor of rating prediction."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..data import Batch, Interactions
from ..models.ratings import RatingModel, Ratings


class Means(RatingModel):
    """mean + user's deviation + item's deviation, each drawn towards zero: a floor that nobody should lose to.

    Args:
        n_items: number of items.
        damping: as many ratings of the mean are added to each user's and item's own.
        parts: "both", "items", "users" or "global".
    """

    slug = "means"
    about = "shrunken means of items and users"

    def __init__(self, n_items: int, damping: float = 5.0, parts: Literal["both", "items", "users", "global"] = "both"):
        super().__init__(n_items)
        self.likelihood = Ratings(n_items, damping, parts)

    def prepare(self, train: Interactions) -> None:
        """Take the means."""
        self.likelihood.prepare(train)

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings, (B, n_items), from what the users have rated."""
        return self.likelihood.known(batch)
