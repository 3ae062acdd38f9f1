"""Encoders: from a sparse batch to the mean and log-variance of a Gaussian posterior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import Batch, Interactions
from .layers import SparseInput, full_precision, init_linear

TABLE_BYTES = 2**30  # of posteriors kept: those of 670,000 users at latent_dim=200
TABLE_BATCH = 500


class GaussianEncoder(nn.Module):
    """Mult-VAE's: one tanh layer, then mu and log sigma^2 from one linear layer."""

    def __init__(self, n_items: int, hidden: int, latent_dim: int, dropout: float = 0.5):
        super().__init__()
        self.input = SparseInput(n_items, hidden, dropout)
        self.posterior = nn.Linear(hidden, 2 * latent_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        self.input.reset_parameters()
        init_linear(self.posterior.weight, self.posterior.bias)

    def forward(self, batch: Batch, drop: bool = True) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2, each (B, latent_dim); ``drop=False`` keeps all entries in training, too."""
        return self.heads(self.input(batch, drop))

    def heads(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2, each (B, latent_dim), from the first layer's output (B, hidden)."""
        mu, logvar = full_precision(self.posterior(torch.tanh(hidden))).chunk(2, dim=-1)
        return mu, logvar


class DenseEncoder(nn.Module):
    """RecVAE's: five layers h_l = LN(swish(W_l h_{l-1} + sum of all earlier h)), then two linear heads.

    Layer norm has eps 0.1, and weights start as torch's linear layers do, both as in the public code.
    """

    def __init__(self, n_items: int, hidden: int, latent_dim: int, dropout: float = 0.5):
        super().__init__()
        self.input = SparseInput(n_items, hidden, dropout)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden, eps=0.1) for _ in range(5))
        self.mu, self.logvar = nn.Linear(hidden, latent_dim), nn.Linear(hidden, latent_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights."""
        for module in (*self.layers, *self.norms, self.mu, self.logvar):
            module.reset_parameters()
        limit = self.input.weight.shape[0] ** -0.5
        nn.init.uniform_(self.input.weight, -limit, limit)
        nn.init.uniform_(self.input.bias, -limit, limit)

    def forward(self, batch: Batch, drop: bool = True) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2, each (B, latent_dim); ``drop=False`` keeps all entries in training, too."""
        h = self.norms[0](nn.functional.silu(self.input(batch, drop)))
        earlier = h
        for layer, norm in zip(self.layers, list(self.norms)[1:], strict=True):
            h = norm(nn.functional.silu(layer(h) + earlier))
            earlier = earlier + h
        return full_precision(self.mu(h)), full_precision(self.logvar(h))


class PosteriorTable:
    """What an encoder says of every row of a matrix, (n_rows, 2 latent_dim) floats, kept while its weights stay.

    The posteriors of whole inputs, without gradients. They are computed for all rows, in their order, at the first
    question after a change of the weights: so a table made anew, as after a checkpoint, holds the same bits.
    """

    def __init__(self, encoder: nn.Module, max_bytes: int = TABLE_BYTES):
        self.encoder, self.max_bytes = encoder, max_bytes
        self.key: tuple | None = None
        self.matrix: Interactions | None = None
        self.table: tuple[Tensor, Tensor] | None = None

    def __getstate__(self) -> dict:
        return vars(self) | {
            "key": None,
            "matrix": None,
            "table": None,
        }  # a copy makes its own

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2, each (B, latent_dim).

        A batch that is no part of a matrix, or of one whose table would take more than ``max_bytes``, is computed.
        """
        device = batch.items.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        matrix, key = batch.source, (precision, *weights_key(self.encoder))
        if key == self.key and matrix is self.matrix and self.table is not None:
            return self.table[0][batch.users], self.table[1][batch.users]
        mu, logvar = self.encoder(batch, drop=False)
        if matrix is None or 2 * matrix.n_users * mu.shape[1] * mu.element_size() > self.max_bytes:
            return mu, logvar
        parts = [self.encoder(rows, drop=False) for rows in matrix.batches(TABLE_BATCH)]
        self.table = torch.cat([mu for mu, _ in parts]), torch.cat([logvar for _, logvar in parts])
        self.key, self.matrix = key, matrix
        return self.table[0][batch.users], self.table[1][batch.users]


def weights_key(module: nn.Module) -> tuple:
    """Return what changes whenever a weight of the module does: each one's identity, place and number of writes.

    Torch's fused optimisers do not count theirs: who uses one calls ``torch.autograd.graph.increment_version``.
    """
    return tuple((id(weight), weight.data_ptr(), weight._version) for weight in module.parameters())
