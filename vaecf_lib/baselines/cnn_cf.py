"""Convolutions over the outer product of embeddings, He et al. (2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .pairs import PairModel


def halved(maps: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Return a 2 x 2 convolution with stride 2 of ``maps`` (n, h, w, channels), (n, h / 2, w / 2, new channels).

    Its patches do not overlap, so that it is one matrix product, which is faster on a CPU than torch's convolution.
    """
    n, h, w, channels = maps.shape
    patches = maps.reshape(n, h // 2, 2, w // 2, 2, channels).transpose(2, 3).reshape(n, h // 2, w // 2, 4 * channels)
    weight = convolution.weight.permute(0, 2, 3, 1).flatten(1)  # (new channels, 2, 2, channels)
    return nn.functional.linear(patches, weight, convolution.bias)


class CNNCF(PairModel):
    """Outer product of two embeddings, read by a stack of 2 x 2 convolutions (He et al. 2018), squared error.

    Args:
        n_items: number of items.
        latent_dim: length of the embeddings, a power of two; the convolutions halve it until one number is left.
        channels: feature maps of each convolution.
        penalty: weight of the squared embeddings.
        per_batch: ratings per update.
        lr: Adam's step size.
        n_users: taken from the data.
    """

    slug = "cnn-cf"
    about = "convolutions over the outer product of embeddings, squared error (He et al. 2018)"
    descends = "ncf"
    changes = "convolutions over the outer product"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 16,
        channels: int = 16,
        penalty: float = 0.01,
        per_batch: int = 4096,
        lr: float = 2e-3,
        n_users: int | None = None,
    ):
        if latent_dim < 2 or latent_dim & (latent_dim - 1):
            raise ConfigError(f"cnn-cf: latent_dim={latent_dim}: must be a power of two, which the convolutions halve")
        super().__init__(n_items, n_users)

    def build(self, n_users: int) -> None:
        """Make all weights."""
        k, channels = self.config["latent_dim"], self.config["channels"]
        self.users, self.items = nn.Embedding(n_users, k), nn.Embedding(self.n_items, k)
        layers: list[nn.Module] = []
        for at in range(k.bit_length() - 1):
            layers += [nn.Conv2d(channels if at else 1, channels, 2, stride=2), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.output = nn.Linear(channels, 1, bias=False)
        self.overall = nn.Parameter(torch.zeros(()))

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        if self.config["n_users"] is not None:
            super().reset_parameters()
            for table in (self.users, self.items):
                nn.init.normal_(table.weight, std=0.3)

    def ratings(self, users: Tensor, items: Tensor) -> Tensor:
        """Return predictions, (n,)."""
        outer = self.users(users)[:, :, None] * self.items(items)[:, None, :]
        maps = outer[:, :, :, None]
        for convolution in self.convolutions[::2]:
            maps = torch.relu(halved(maps, convolution))
        return self.overall + self.output(maps.flatten(1))[:, 0]
