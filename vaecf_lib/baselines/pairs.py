"""What the systems share that are trained on single ratings."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import Batch, Interactions, Pairs, PairSweep
from ..models.base import Phase
from ..models.ratings import TransductiveModel


class PairModel(TransductiveModel):
    """A system of user and item embeddings, trained on single ratings.

    ``self.ratings(users, items)`` gives the predictions; ``penalty`` is the weight of the squared embeddings of the
    ratings at hand, ``per_batch`` the number of ratings per update.
    """

    sweep: PairSweep | None = None

    def ratings(self, users: Tensor, items: Tensor) -> Tensor:
        """Return predictions, (n,), for users and items (n,)."""
        raise TypeError(f"{type(self).__name__} does not implement ratings()")

    def squares(self, pairs: Pairs) -> Tensor:
        """Return the mean squared norm of the embeddings of these ratings' users and items."""
        return (self.users(pairs.users).square() + self.items(pairs.items).square()).sum(-1).mean()

    def prepare(self, train: Interactions) -> None:
        """Make the weights; note the ratings to train on."""
        super().prepare(train)
        self.sweep = PairSweep(train, self.config["per_batch"])

    def start(self, train: Interactions) -> None:
        """Start at the mean rating."""
        with torch.no_grad():
            self.overall.fill_(train.values.mean())

    def loss(self, pairs: Pairs, progress: float) -> tuple[Tensor, dict]:
        """Return the mean squared error plus the penalty."""
        error = (self.ratings(pairs.users, pairs.items) - pairs.values).square().mean()
        return error + self.config["penalty"] * self.squares(pairs), {"error": error}

    def phases(self) -> list[Phase]:
        """One phase over all weights, rating by rating."""
        return [Phase("all", list(self.parameters()), self.loss, lr=self.config["lr"], sweep=self.sweep)]

    def item_vectors(self) -> Tensor:
        """Return the items' embeddings, (n_items, d)."""
        return self.items.weight

    def pair_scores(self, batch: Batch, rows: Tensor, items: Tensor) -> Tensor:
        """Return the ratings of single items, (n,)."""
        users = self.check_users(batch)[rows]
        parts = [self.ratings(u, i) for u, i in zip(users.split(100_000), items.split(100_000), strict=True)]
        return torch.cat(parts) if parts else users.float()

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings, (B, n_items)."""
        rows = torch.arange(len(batch), device=self.device).repeat_interleave(self.n_items)
        items = torch.arange(self.n_items, device=self.device).repeat(len(batch))
        return self.pair_scores(batch, rows, items).reshape(len(batch), self.n_items)
