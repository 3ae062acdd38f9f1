"""Collaborative denoising autoencoder, Wu et al. (2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import Batch, Interactions
from ..models.base import Phase, penalised
from ..models.ratings import Ratings, TransductiveModel
from ..nn import ItemLayer, SparseInput


class CDAE(TransductiveModel):
    """Collaborative denoising autoencoder with a node for each user, squared error on what was observed.

    Args:
        n_items: number of items.
        hidden: width of the sigmoid layer.
        dropout: share of the input hidden at each update.
        penalty: weight of the squared weights.
        lr: Adam's step size.
        n_users: taken from the data.
    """

    slug = "cdae"
    about = "denoising autoencoder with a node per user, squared error (Wu et al. 2016)"
    descends = "autorec-u"
    changes = "noise in the input, a node per user"

    def __init__(
        self,
        n_items: int,
        hidden: int = 200,
        dropout: float = 0.5,
        penalty: float = 1e-4,
        lr: float = 1e-3,
        n_users: int | None = None,
    ):
        super().__init__(n_items, n_users)

    def build(self, n_users: int) -> None:
        """Make all weights."""
        self.input = SparseInput(self.n_items, self.config["hidden"], self.config["dropout"])
        self.likelihood = Ratings(self.n_items)
        self.nodes = nn.Embedding(n_users, self.config["hidden"])
        self.output = ItemLayer(self.config["hidden"], self.n_items)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        if self.config["n_users"] is not None:
            super().reset_parameters()
            nn.init.normal_(self.nodes.weight, std=0.05)

    def prepare(self, train: Interactions) -> None:
        """Note the items' means; make the weights if there are none yet."""
        super().prepare(train)
        self.likelihood.prepare(train)

    def logits(self, batch: Batch) -> Tensor:
        """Return what is predicted beyond the means, (B, n_items)."""
        return self.output(torch.sigmoid(self.input(batch) + self.nodes(batch.users)))

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings, (B, n_items)."""
        self.check_users(batch)
        return self.likelihood.on_scale(self.logits(batch), batch)

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of a user's squared errors; the penalty acts in the optimiser."""
        error = self.likelihood.squared_error(self.logits(batch), batch).mean()
        return error, {"error": error}

    def phases(self) -> list[Phase]:
        """One phase; weights and nodes are penalised, biases are not."""
        return [Phase("all", penalised(self.parameters(), self.config["penalty"]), self.loss, lr=self.config["lr"])]
