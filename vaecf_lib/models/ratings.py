"""What the models of ratings share."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..data import Batch, Interactions
from ..errors import ConfigError
from ..maths import observed_squared_error
from ..nn import ItemLayer
from .base import Model
from .users import UserModel

DAMPING = 5.0


def check_ratings(train: Interactions) -> None:
    """Refuse clicks where ratings are needed.

    Raises:
        ConfigError: ``train`` has no values.
    """
    if train.values is None:
        raise ConfigError(
            "this system predicts ratings, and the data are clicks: use the ratings protocol, or time or "
            "leave-one-out with ratings=true"
        )


def _weights(counts: Tensor, damping: float) -> Tensor:
    return (counts + damping).clamp_min(1e-6)  # without damping, nothing rated must not be 0 / 0


def row_means(matrix: Interactions, damping: float = DAMPING) -> Tensor:
    """Return each row's mean rating, (n_rows,), drawn towards the global mean as by ``damping`` ratings of it.

    A row without ratings has the global mean.
    """
    overall = matrix.values.mean()
    rows, _ = matrix.pairs()
    total = torch.zeros(matrix.n_users, device=matrix.device).index_add_(0, rows, matrix.values - overall)
    return overall + total / _weights(matrix.counts, damping)


class Ratings(nn.Module):
    """The rating form of a system: it predicts what is left of a rating beyond what is known without it.

    Known are the item's shrunken mean and how far the user lies above such means. A system that predicts the rest
    starts as the baseline ``means``, and need not learn from an input of unit length, which hides it, how generous a
    user is. The rest is Gaussian of variance 1.

    Args:
        n_items: number of items.
        damping: as many ratings of the mean are added to each item's and user's own.
        parts: "both", "items" or "users" alone (the other at the global mean), "global", or "none", which is zero.
    """

    items: Tensor

    def __init__(self, n_items: int, damping: float = DAMPING, parts: str = "both"):
        super().__init__()
        self.damping, self.parts = damping, parts
        self.register_buffer("items", torch.zeros(n_items))

    def prepare(self, train: Interactions) -> None:
        """Note the items' means.

        Raises:
            ConfigError: ``train`` has no ratings.
        """
        check_ratings(train)
        if self.parts in ("both", "items"):
            self.items.copy_(row_means(train.transposed(), self.damping))
        elif self.parts != "none":
            self.items.fill_(train.values.mean())

    def users(self, batch: Batch) -> Tensor:
        """Return the users' shrunken mean distance from the items' means, (B, 1)."""
        if self.parts not in ("both", "users"):
            return torch.zeros(len(batch), 1, device=batch.rows.device)
        above = batch.row_sums(batch.values - self.items[batch.items])
        return (above / _weights(batch.counts, self.damping))[:, None]

    def known(self, batch: Batch) -> Tensor:
        """Return the ratings as they are known without the system, (B, n_items)."""
        return self.items + self.users(batch)

    def centred(self, batch: Batch) -> Batch:
        """Return the batch with what is left of its ratings."""
        rest = batch.values - self.items[batch.items] - self.users(batch)[batch.rows, 0]
        return Batch(batch.users, batch.counts, batch.rows, batch.items, rest, batch.n_items)

    def squared_error(self, rest: Tensor, batch: Batch) -> Tensor:
        """Return the sum over each user's ratings of (what is left - ``rest``)^2, (B,); ``rest`` (B, n_items)."""
        return observed_squared_error(rest, self.centred(batch))

    def log_prob(self, rest: Tensor, batch: Batch) -> Tensor:
        """Return the log-probability of each user's ratings, (B,), up to a constant."""
        return -0.5 * self.squared_error(rest, batch)

    def through(self, output: ItemLayer, h: Tensor, batch: Batch, frozen: bool = False) -> Tensor:
        """Return the same for what a layer predicts from h (B, d); ``frozen`` takes its weights as constants."""
        return self.log_prob(output(h, frozen), batch)

    def on_scale(self, rest: Tensor, batch: Batch) -> Tensor:
        """Return ratings on the scale of the data, (B, n_items)."""
        return self.known(batch) + rest


class RatingModel(Model):
    """A system that predicts ratings on the scale of the data."""

    rates: ClassVar[bool] = True

    def prepare(self, train: Interactions) -> None:
        """Check that there are ratings."""
        check_ratings(train)


class TransductiveModel(UserModel, RatingModel):
    """A system of ratings that knows the users it was trained on, by their row, and no others."""

    def fold_in(self, known: Tensor, batch: Batch, solve: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the users' vectors, (B, d): rows of ``known`` (n_users, d), or for strangers what ``solve`` gives.

        ``solve(items, values)`` gets a stranger's rated items and ratings, (n,) each, and returns the vector, (d,),
        that minimises the training loss with everything else held fixed.
        """
        users = self.check_users(batch)
        vectors = known[users]
        for row in (users < 0).nonzero()[:, 0].tolist():
            mine = batch.rows == row
            vectors[row] = solve(batch.items[mine], batch.values[mine])
        return vectors


def ridge(features: Tensor, targets: Tensor, penalties: Tensor) -> Tensor:
    """Return the w, (d,), that minimises ||targets - features w||^2 + sum_k penalties_k w_k^2.

    ``features`` (n, d), ``targets`` (n,), ``penalties`` (d,), of which none is below 1e-6.
    """
    gram = features.T @ features + torch.diag(penalties.clamp_min(1e-6))
    return torch.linalg.solve(gram, features.T @ targets)
