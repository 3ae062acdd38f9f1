"""Weighted matrix factorisation as a linear autoencoder: Lobel, Li, Gao and Carin (ICLR 2020)."""

from __future__ import annotations

from torch import Tensor

from ..data import Batch
from ..models.base import Model, Phase, penalised
from ..nn import ItemLayer, SparseInput, full_precision, init_linear


class LinearWMF(Model):
    """I-200-I autoencoder without any non-linearity, with the weighted squared error of Hu et al. (2008).

    What the RaCT paper calls WMF: the user's factors are a linear function of their clicks, and Adam takes the place of
    alternating least squares. Per user, sum_i c_i (x_i - xhat_i)^2 with c_i = 1 + alpha x_i over all items. Ratings are
    not read.

    Args:
        n_items: number of items.
        latent_dim: width of the code.
        alpha: how much more a click weighs than none; 4 in the public code, whose clicks weigh 5.
        dropout: share of a user's clicks hidden at each update.
        penalty: weight of the squared weights, biases left out, beside the mean loss.
        lr: Adam's step size.
    """

    slug = "wmf-linear"
    about = "weighted squared error in a linear autoencoder, the WMF of RaCT's paper (Lobel et al. 2020)"
    descends = "wmf"
    changes = "factors from an encoder"
    reads_values = False

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        alpha: float = 4.0,
        dropout: float = 0.5,
        penalty: float = 1e-4,
        lr: float = 1e-3,
    ):
        super().__init__(n_items)
        self.input = SparseInput(n_items, latent_dim, dropout)
        self.output = ItemLayer(latent_dim, n_items)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        super().reset_parameters()
        init_linear(self.output.weight, self.output.bias)

    def scores(self, batch: Batch) -> Tensor:
        """Return xhat, (B, n_items)."""
        clicks = Batch(batch.users, batch.counts, batch.rows, batch.items, None, batch.n_items)
        return self.output(self.input(clicks))

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of the users' weighted squared errors; the penalty acts in the optimiser."""
        predicted = full_precision(self.scores(batch))
        own = predicted[batch.rows, batch.items]
        weighted = (1 + self.config["alpha"]) * (1 - own).square() - own.square()
        error = (predicted.square().sum(1) + batch.row_sums(weighted)).mean()
        return error, {"error": error}

    def phases(self) -> list[Phase]:
        """One phase; weights are penalised, biases are not."""
        return [Phase("all", penalised(self.parameters(), self.config["penalty"]), self.loss, lr=self.config["lr"])]
