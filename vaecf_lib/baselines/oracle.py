"""The ceiling in the embedded world: Bayes' rule with the true model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..data import Batch, Split
from ..data.planted import planted_log, planted_world
from ..errors import ConfigError
from ..maths import log_elementary_symmetric
from ..maths.counting import calibrate
from ..models.base import Model


class PlantedOracle(Model):
    """Rank by the exact posterior over the two taste coordinates, by quadrature on a grid.

    Weights each grid point z by N(z | 0, I) times the n-Choose-k probability of the history, and scores an item by
    its expected click probability. No system that sees the same history can rank better on average, up to the grid
    and one approximation: the history is taken for a draw of its own size, not for a part of a larger one.

    Args:
        n_items: number of items of the split; only splits of the planted data make sense.
        points: grid points per axis, over [-3.5, 3.5].
    """

    slug = "planted-oracle"
    about = "the best attainable ranking in the embedded world: Bayes' rule with the true model"
    reads_values = False

    def __init__(self, n_items: int, points: int = 41):
        super().__init__(n_items)
        axis = torch.linspace(-3.5, 3.5, points, dtype=torch.float64)
        z = torch.cartesian_prod(axis, axis)
        self.register_buffer("log_prior", (-0.5 * (z**2).sum(1) - math.log(2 * math.pi)).float())
        self.register_buffer("all_logits", torch.from_numpy(planted_world().logits(z.numpy())).float())

    def describe(self, split: Split) -> None:
        """Note which planted films the columns are.

        Raises:
            ConfigError: the items are not the planted films.
        """
        if split.items is not None and split.items != planted_log().items:
            raise ConfigError(f"{self.slug} knows the planted films alone: use it on splits of the data set planted")
        super().describe(split)

    def scores(self, batch: Batch) -> Tensor:
        """Return expected click probabilities, (B, n_items)."""
        eta = self.all_logits[:, self.item_index]  # (grid, n_items)
        observed = torch.zeros(len(batch), len(eta), dtype=eta.dtype, device=eta.device)
        observed.index_add_(0, batch.rows, eta.T[batch.items])
        result = torch.empty(len(batch), self.n_items, dtype=eta.dtype, device=eta.device)
        for k in batch.counts.unique().tolist():
            users = batch.counts == k
            log_posterior = self.log_prior + observed[users] - log_elementary_symmetric(eta, k)
            expected = torch.full((len(eta),), max(k, 1), device=eta.device)
            probability = torch.sigmoid(eta + calibrate(eta, expected)[:, None])
            result[users] = log_posterior.softmax(-1) @ probability
        return result
