"""Neural collaborative filtering, He et al. (2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..nn import dense_layers
from .pairs import PairModel


class NCF(PairModel):
    """Neural collaborative filtering: a product of embeddings and an MLP on them, side by side (He et al. 2017).

    Args:
        n_items: number of items.
        latent_dim: length of each of the four embeddings.
        widths: hidden layers of the MLP.
        penalty: weight of the squared embeddings.
        per_batch: ratings per update.
        lr: Adam's step size.
        n_users: taken from the data.
    """

    slug = "ncf"
    about = "neural collaborative filtering, squared error (He et al. 2017)"
    descends = "biased-mf"
    changes = "a network for the inner product"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 25,
        widths: tuple[int, ...] = (50, 25),
        penalty: float = 0.01,
        per_batch: int = 4096,
        lr: float = 2e-3,
        n_users: int | None = None,
    ):
        super().__init__(n_items, n_users)

    def build(self, n_users: int) -> None:
        """Make all weights."""
        k, widths = self.config["latent_dim"], [2 * self.config["latent_dim"], *self.config["widths"]]
        self.users, self.items = nn.Embedding(n_users, 2 * k), nn.Embedding(self.n_items, 2 * k)
        self.mlp = dense_layers(widths)
        self.output = nn.Linear(k + widths[-1], 1, bias=False)
        self.overall = nn.Parameter(torch.zeros(()))

    def reset_parameters(self) -> None:
        """Draw all weights anew; embeddings from N(0, 0.1^2)."""
        if self.config["n_users"] is not None:
            super().reset_parameters()
            for table in (self.users, self.items):
                nn.init.normal_(table.weight, std=0.1)

    def ratings(self, users: Tensor, items: Tensor) -> Tensor:
        """Return predictions, (n,)."""
        (u, p), (v, q) = self.users(users).chunk(2, -1), self.items(items).chunk(2, -1)
        return self.overall + self.output(torch.cat([u * v, self.mlp(torch.cat([p, q], -1))], -1))[:, 0]
