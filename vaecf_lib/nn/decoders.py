"""Decoders: from a latent vector to one logit per item."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MLPDecoder(nn.Module):
    """Mult-VAE's: one tanh layer, then a linear one to all items; with ``hidden=None`` the linear one alone."""

    def __init__(self, latent_dim: int, hidden: int | None, n_items: int):
        super().__init__()
        self.hidden = None if hidden is None else nn.Linear(latent_dim, hidden)
        self.output = nn.Linear(latent_dim if hidden is None else hidden, n_items)

    def forward(self, z: Tensor, frozen: bool = False) -> Tensor:
        """Return the logits, (..., n_items), for z (..., latent_dim).

        ``frozen``: without gradients for the decoder's own weights, and without their cost.
        """

        def linear(layer: nn.Linear, h: Tensor) -> Tensor:
            weight, bias = (p.detach() if frozen else p for p in (layer.weight, layer.bias))
            return nn.functional.linear(h, weight, bias)

        return linear(self.output, z if self.hidden is None else torch.tanh(linear(self.hidden, z)))
