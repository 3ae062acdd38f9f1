"""A plain dense PyTorch RecVAE, written the way its public code is: the peer of `benchmarks/paired.py recvae`.

Networks, composite prior per dimension, KL weight per user, dropout in the encoder's passes only, 3 + 1 passes, Adam
with its default implementation. The data become a dense (B, n_items) matrix for each batch; the old encoder runs in
every pass; the decoder's passes compute the encoder's gradients, too, which nothing uses.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from dense import to_scipy
from torch import nn


class Encoder(nn.Module):
    def __init__(self, n_items: int, latent_dim: int, hidden: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n_items if at == 0 else hidden, hidden) for at in range(5))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden, eps=0.1) for _ in range(5))
        self.mu, self.logvar = nn.Linear(hidden, latent_dim), nn.Linear(hidden, latent_dim)

    def forward(self, x, dropout):
        h = F.dropout(F.normalize(x), dropout, self.training)
        skips = 0.0
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = norm(F.silu(layer(h) + skips))
            skips = skips + h
        return self.mu(h), self.logvar(h)


def log_normal(z, mu, logvar):
    return -0.5 * (logvar + math.log(2 * math.pi) + (z - mu) ** 2 / logvar.exp())


class DenseRecVAE(nn.Module):
    def __init__(self, n_items: int, latent_dim: int = 200, hidden: int = 600, gamma: float = 0.005):
        super().__init__()
        self.encoder, self.decoder = Encoder(n_items, latent_dim, hidden), nn.Linear(latent_dim, n_items)
        self.old_encoder, self.gamma = copy.deepcopy(self.encoder).requires_grad_(False), gamma

    def log_prior(self, x, z):
        mu, logvar = self.old_encoder(x, 0.0)
        parts = (
            log_normal(z, 0.0, z.new_zeros(1)),
            log_normal(z, mu, logvar),
            log_normal(z, 0.0, z.new_full((1,), 10.0)),
        )
        weighted = [part + math.log(weight) for part, weight in zip(parts, (3 / 20, 3 / 4, 1 / 10), strict=True)]
        return torch.stack(weighted, -1).logsumexp(-1)

    def loss(self, x, dropout):
        mu, logvar = self.encoder(x, dropout)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        nll = -(F.log_softmax(self.decoder(z), dim=1) * x).sum(1)
        kl = (log_normal(z, mu, logvar) - self.log_prior(x, z)).sum(1)
        return (nll + self.gamma * x.sum(1) * kl).mean()


def train_epochs(train, n_epochs: int, batch_size: int = 500, seed: int = 0, device: str = "cpu"):
    """Yield the last loss after each epoch of 3 + 1 passes, so that the caller can time it."""
    torch.manual_seed(seed)
    matrix, model = to_scipy(train), DenseRecVAE(train.n_items).to(device)
    optimisers = [torch.optim.Adam(part.parameters(), lr=5e-4) for part in (model.encoder, model.decoder)]
    for _ in range(n_epochs):
        for at in range(4):
            if at == 3:
                model.old_encoder.load_state_dict(model.encoder.state_dict())
            for rows in torch.randperm(train.n_users).split(batch_size):
                x = torch.from_numpy(matrix[rows.numpy()].toarray()).to(device)
                loss = model.loss(x, 0.5 if at < 3 else 0.0)
                optimisers[at // 3].zero_grad()
                loss.backward()
                optimisers[at // 3].step()
        yield loss.item()
