"""EASE^R, the embarrassingly shallow autoencoder: Steck (WWW 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import Batch, Interactions
from ..errors import ConfigError
from ..nn import bag_sum
from .item_item import ItemItemModel, gram, product_rate, said, seconds_of_gram


class EASE(ItemItemModel):
    """The linear autoencoder x B without a diagonal, in closed form.

    B minimises ||X - X B||^2 + lambda ||B||^2 under diag(B) = 0 for clicks X (Eq. 4): with P = (X^T X + lambda I)^-1,
    B_ij = -P_ij / P_jj off the diagonal (Eq. 8). Solved in float64, kept in float32. Ratings are not read.

    Args:
        n_items: number of items.
        penalty: lambda; 500 is the paper's for ML-20M, 300 was best on ML-100K's validation users.
        memory_gb: refuse a catalogue whose solution needs more GB than this.
    """

    slug = "ease"
    about = "linear autoencoder without a diagonal, in closed form (Steck 2019)"
    descends = "slim"
    changes = "weights of any sign, in closed form"
    tables = ("B",)
    B: Tensor

    def __init__(self, n_items: int, penalty: float = 500.0, memory_gb: float = 8.0):
        super().__init__(n_items)
        self.register_buffer("B", torch.zeros(0, 0))

    def bytes_needed(self) -> int:
        """Two matrices in float64: the items' and its factor, then the factor and the inverse."""
        return 16 * self.n_items**2

    def demands(self, train: Interactions, device: torch.device) -> str | None:
        """Return what the solution takes, for a large catalogue."""
        flops = self.n_items**3  # of the factor a third, of the inverse two thirds
        wide = torch.float32 if device.type == "mps" else torch.float64
        seconds = seconds_of_gram(train) + flops / product_rate(device, wide)
        return said(self.slug, self.n_items, self.bytes_needed(), seconds)

    def start(self, train: Interactions) -> None:
        """Solve.

        Raises:
            ConfigError: it needs more memory than ``memory_gb``, or the penalty is too small for the data.
        """
        self.check_memory()
        home = torch.device("cpu") if train.device.type == "mps" else train.device  # Apple's GPUs have no float64
        P = gram(train.to(home), torch.float64)
        P.diagonal().add_(self.config["penalty"])
        P, failed = torch.linalg.cholesky_ex(P)
        if bool(failed):
            raise ConfigError(f"ease: penalty={self.config['penalty']:g}: too small to solve for these data: raise it")
        P = torch.cholesky_inverse(P)
        P.div_(-P.diagonal().clone())
        P.fill_diagonal_(0.0)
        self.B = P.float().to(self.device)

    def item_vectors(self) -> Tensor:
        """Return for each item the weights that it is scored by, (n_items, n_items): alike items have alike ones."""
        self.check_solved()
        return self.B.T

    def scores(self, batch: Batch) -> Tensor:
        """Return x B, (B, n_items): the sums of the rows of what the users have."""
        self.check_solved()
        return bag_sum(self.B, batch.items, batch.offsets)
