"""AutoRec on item vectors, Sedhain et al. (2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import Batch, Interactions, RowSweep
from ..maths import observed_squared_error
from ..models.base import Phase, penalised
from ..models.ratings import TransductiveModel, ridge, row_means
from ..nn import SparseInput


class AutoRecI(TransductiveModel):
    """AutoRec on item vectors, the better of the two: a row is an item, and its entries are the users' ratings.

    Args:
        n_items: number of items.
        hidden: width of the layer.
        penalty: lambda of lambda ||W||^2 beside the mean squared error sum of an item.
        lr: Adam's step size.
        items_per_batch: items per update.
        n_users: taken from the data.
    """

    slug = "autorec-i"
    about = "AutoRec on item vectors (Sedhain et al. 2015)"
    descends = "autorec-u"
    changes = "columns of ratings for rows"
    needs = "either"
    by_item: Interactions | None = None
    codes: Tensor

    def __init__(
        self,
        n_items: int,
        hidden: int = 500,
        penalty: float = 0.05,
        lr: float = 1e-3,
        items_per_batch: int = 500,
        n_users: int | None = None,
    ):
        super().__init__(n_items, n_users)

    def build(self, n_users: int) -> None:
        """Make all weights."""
        self.input = SparseInput(n_users, self.config["hidden"], dropout=0.0)
        self.output = nn.Linear(self.config["hidden"], n_users)
        self.register_buffer("codes", torch.zeros(self.n_items, self.config["hidden"]))  # what predicts

    def prepare(self, train: Interactions) -> None:
        """Note the training ratings by item: they are the input."""
        super().prepare(train)
        self.by_item = train.transposed()

    def start(self, train: Interactions) -> None:
        """Start at the users' mean ratings."""
        with torch.no_grad():
            self.output.bias.copy_(row_means(train))
        self.encode_items()

    def encode(self, items: Batch) -> Tensor:
        """Return the hidden layer for rows that are items, (C, hidden)."""
        return torch.sigmoid(self.input.bag(items, items.values) + self.input.bias)

    @torch.no_grad()
    def encode_items(self) -> None:
        """Note the hidden layer of every item, (n_items, hidden), which is all that a prediction needs of its input."""
        self.codes.copy_(torch.cat([self.encode(items) for items in self.by_item.batches(500)]))

    def loss(self, items: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the mean over items of the squared errors; the penalty acts in the optimiser."""
        error = observed_squared_error(self.output(self.encode(items)), items).mean()
        return error, {"error": error}

    def phases(self) -> list[Phase]:
        """One phase over batches of items."""
        sweep = RowSweep(self.by_item, self.config["items_per_batch"])
        return [
            Phase(
                "all",
                penalised(self.parameters(), self.config["penalty"]),
                self.loss,
                lr=self.config["lr"],
                sweep=sweep,
                after=self.encode_items,
            )
        ]

    def _user(self, items: Tensor, values: Tensor) -> Tensor:
        """Return a stranger's output weights and bias, (hidden + 1,), of which the bias is free."""
        features = torch.cat([self.codes[items], torch.ones(len(items), 1, device=items.device)], 1)
        penalties = torch.full_like(features.new_empty(features.shape[1]), self.config["penalty"] * self.n_items)
        penalties[-1] = 0.0
        mean = self.output.bias.mean()
        found = ridge(features, values - mean, penalties)
        found[-1] += mean  # which is all that is known of somebody without ratings
        return found

    def item_vectors(self) -> Tensor:
        """Return the items' codes, (n_items, hidden)."""
        return self.codes

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings, (B, n_items); a stranger's output weights are fitted to the history."""
        known = torch.cat([self.output.weight, self.output.bias[:, None]], 1)
        vectors = self.fold_in(known, batch, self._user)
        return nn.functional.linear(self.codes, vectors[:, :-1], vectors[:, -1]).T
