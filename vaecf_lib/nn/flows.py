"""Inverse autoregressive flow: from a diagonal Gaussian sample to one with dependent coordinates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import full_precision


class InverseAutoregressiveFlow(nn.Module):
    """One step z1 = s * z0 + (1 - s) * m, with s = sigmoid(.) and m from a masked network of z0 (Kingma et al. 2016).

    s_j and m_j see only z0_1 .. z0_{j-1} (MADE's masks, Germain et al. 2015), so the Jacobian is triangular with s
    on its diagonal and log q(z1) = log q(z0) - sum_j log s_j. The step starts near the identity.
    """

    in_mask: Tensor
    out_mask: Tensor

    def __init__(self, latent_dim: int, hidden: int):
        super().__init__()
        self.inner, self.outer = nn.Linear(latent_dim, hidden), nn.Linear(hidden, 2 * latent_dim)
        degree = torch.arange(hidden) % max(latent_dim - 1, 1)
        position = torch.arange(latent_dim)
        self.register_buffer("in_mask", (degree[:, None] >= position).float(), persistent=False)
        self.register_buffer("out_mask", (position[:, None] > degree).float().repeat(2, 1), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights; s starts near sigmoid(2) = 0.88."""
        self.inner.reset_parameters()
        nn.init.normal_(self.outer.weight, std=0.01)
        nn.init.zeros_(self.outer.bias)
        with torch.no_grad():
            self.outer.bias[: len(self.outer.bias) // 2] = 2.0

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return z1, (B, latent_dim), and the log of its determinant dz1/dz0, (B,)."""
        hidden = torch.tanh(nn.functional.linear(z, self.in_mask * self.inner.weight, self.inner.bias))
        gates = nn.functional.linear(hidden, self.out_mask * self.outer.weight, self.outer.bias)
        gate, m = full_precision(gates).chunk(2, dim=-1)
        s = torch.sigmoid(gate)
        return s * z + (1 - s) * m, nn.functional.logsigmoid(gate).sum(-1)
