"""AutoRec on user vectors, Sedhain et al. (2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import Batch, Interactions
from ..maths import observed_squared_error
from ..models.base import Phase, penalised
from ..models.ratings import RatingModel, row_means
from ..nn import ItemLayer, SparseInput


class AutoRecU(RatingModel):
    """AutoRec on user vectors: a sigmoid layer and a linear one, squared error on what was observed.

    Args:
        n_items: number of items.
        hidden: width of the layer.
        penalty: lambda of lambda ||W||^2 beside the mean squared error sum of a user.
        lr: Adam's step size.
    """

    slug = "autorec-u"
    about = "AutoRec on user vectors (Sedhain et al. 2015)"

    def __init__(self, n_items: int, hidden: int = 500, penalty: float = 0.02, lr: float = 1e-3):
        super().__init__(n_items)
        self.input = SparseInput(n_items, hidden, dropout=0.0)
        self.output = ItemLayer(hidden, n_items)
        self.reset_parameters()

    def start(self, train: Interactions) -> None:
        """Start at the items' mean ratings."""
        with torch.no_grad():
            self.output.bias.copy_(row_means(train.transposed()))

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings, (B, n_items)."""
        return self.output(torch.sigmoid(self.input.bag(batch, batch.values) + self.input.bias))

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of a row's squared errors; the penalty acts in the optimiser."""
        error = observed_squared_error(self.scores(batch), batch).mean()
        return error, {"error": error}

    def phases(self) -> list[Phase]:
        """One phase; weights are penalised, biases are not."""
        return [Phase("all", penalised(self.parameters(), self.config["penalty"]), self.loss, lr=self.config["lr"])]
