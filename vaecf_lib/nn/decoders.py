"""Decoders: from a latent vector to one logit per item."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .output import ItemLayer


class MLPDecoder(nn.Module):
    """Mult-VAE's: one tanh layer, then a linear one to all items; with ``hidden=None`` the linear one alone."""

    def __init__(self, latent_dim: int, hidden: int | None, n_items: int):
        super().__init__()
        self.hidden = None if hidden is None else nn.Linear(latent_dim, hidden)
        self.output = ItemLayer(latent_dim if hidden is None else hidden, n_items)

    def forward(self, z: Tensor, frozen: bool = False) -> Tensor:
        """Return the logits, (..., n_items), for z (..., latent_dim).

        ``frozen``: without gradients for the decoder's own weights, and without their cost.
        """
        return self.output(self.features(z, frozen), frozen)

    def features(self, z: Tensor, frozen: bool = False) -> Tensor:
        """Return what the last layer reads, (..., hidden), or z itself."""
        if self.hidden is None:
            return z
        weight, bias = (p.detach() if frozen else p for p in (self.hidden.weight, self.hidden.bias))
        return torch.tanh(nn.functional.linear(z, weight, bias))
