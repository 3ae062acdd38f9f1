"""Biased matrix factorisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import Batch
from ..models.ratings import ridge
from .pairs import PairModel


class BiasedMF(PairModel):
    """mean + user bias + item bias + <u, v>, with a penalty: the floor of factorisation.

    Args:
        n_items: number of items.
        latent_dim: length of the embeddings.
        penalty: weight of the squared embeddings and biases.
        per_batch: ratings per update.
        lr: Adam's step size.
        n_users: taken from the data.
    """

    slug = "biased-mf"
    about = "biased matrix factorisation"
    descends = "means"
    changes = "factors beside the means"
    needs = "either"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 50,
        penalty: float = 0.02,
        per_batch: int = 4096,
        lr: float = 5e-3,
        n_users: int | None = None,
    ):
        super().__init__(n_items, n_users)

    def build(self, n_users: int) -> None:
        """Make all weights."""
        width = self.config["latent_dim"] + 1  # the last column is the bias
        self.users, self.items = nn.Embedding(n_users, width), nn.Embedding(self.n_items, width)
        self.overall = nn.Parameter(torch.zeros(()))

    def reset_parameters(self) -> None:
        """Draw all weights anew: N(0, 0.05^2), biases zero."""
        if self.config["n_users"] is not None:
            for table in (self.users, self.items):
                nn.init.normal_(table.weight, std=0.05)
                nn.init.zeros_(table.weight[:, -1])

    def ratings(self, users: Tensor, items: Tensor) -> Tensor:
        """Return predictions, (n,)."""
        return self._product(self.users(users), self.items(items))

    def _product(self, u: Tensor, v: Tensor) -> Tensor:
        return self.overall + u[:, -1] + v[:, -1] + (u[:, :-1] * v[:, :-1]).sum(-1)

    def _user(self, items: Tensor, values: Tensor) -> Tensor:
        """Return a stranger's embedding and bias, (latent_dim + 1,): one step of alternating least squares."""
        v = self.items.weight[items]
        features = torch.cat([v[:, :-1], torch.ones_like(v[:, -1:])], 1)
        # The loss has the penalty once for each rating.
        penalties = torch.full_like(self.items.weight[0], self.config["penalty"] * len(items))
        return ridge(features, values - self.overall - v[:, -1], penalties)

    def item_vectors(self) -> Tensor:
        """Return the items' embeddings without their biases, (n_items, latent_dim)."""
        return self.items.weight[:, :-1]

    def pair_scores(self, batch: Batch, rows: Tensor, items: Tensor) -> Tensor:
        """Return the ratings of single items, (n,)."""
        return self._product(self.fold_in(self.users.weight, batch, self._user)[rows], self.items(items))

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings, (B, n_items); a stranger's embedding is fitted to the history."""
        u, v = self.fold_in(self.users.weight, batch, self._user), self.items.weight
        return self.overall + u[:, -1:] + v[:, -1] + u[:, :-1] @ v[:, :-1].T
