"""Chance: items in random order, or random ratings."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import Batch, Interactions
from ..errors import ConfigError
from ..models.base import Model
from ..models.ratings import check_ratings


class Random(Model):
    """Rank items at random, differently for each user, the same way at every call; or draw ratings at random.

    Args:
        n_items: number of items.
        ratings: draw each rating from the values that occur in training, all equally likely.
    """

    slug = "random"
    about = "items in random order; or, with ratings=true, random ratings"
    needs = "user"
    values: Tensor

    def __init__(self, n_items: int, ratings: bool = False):
        super().__init__(n_items)
        self.rates = ratings
        self.register_buffer("key", torch.zeros((), dtype=torch.int64))
        self.register_buffer("values", torch.zeros(0))  # the ratings that occur in training, ascending

    def reset_parameters(self) -> None:
        """Draw another ranking."""
        self.key.random_(2**31)

    def prepare(self, train: Interactions) -> None:
        """Note which ratings there are."""
        if self.rates:
            check_ratings(train)
            self.values = train.values.unique()

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        """Load a state whose number of distinct ratings is not known before."""
        if f"{prefix}values" in state_dict:
            self.values = torch.empty_like(state_dict[f"{prefix}values"], device=self.device)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def scores(self, batch: Batch) -> Tensor:
        """Return uniform numbers, or ratings, (B, n_items), that depend on the user's row number and the key."""
        rows, key = [], int(self.key)
        for user in batch.users.tolist():
            generator = torch.Generator().manual_seed(key * 1_000_003 + user)
            rows.append(torch.rand(self.n_items, generator=generator))
        uniform = torch.stack(rows).to(batch.items.device)
        if not self.rates:
            return uniform
        if len(self.values) == 0:
            raise ConfigError("random ratings are drawn from those of the training data: call prepare(split.train)")
        return self.values[(uniform * len(self.values)).long()]
