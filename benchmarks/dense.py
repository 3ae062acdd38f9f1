"""A plain dense PyTorch Mult-VAE, written the way tutorials write it: the peer of `vaecf bench --against dense`.

Same architecture, initialisation, losses and batches as vaecf_lib's; the data become a dense (B, n_items) matrix
for each batch, normalised, dropped out, and scored with log_softmax; Adam with its default implementation.

As a program it trains on a real split and prints its metrics, as a cross-check of `vaecf fit mult-vae`:

    python benchmarks/dense.py --dataset ml-1m --n-heldout 500 --epochs 100 --seed 0
"""

from __future__ import annotations

import argparse
import copy
import json

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import nn


class DenseMultVAE(nn.Module):
    def __init__(self, n_items: int, latent_dim: int = 200, hidden: int = 600):
        super().__init__()
        self.q1 = nn.Linear(n_items, hidden)
        self.q2 = nn.Linear(hidden, 2 * latent_dim)
        self.p1 = nn.Linear(latent_dim, hidden)
        self.p2 = nn.Linear(hidden, n_items)
        for layer in (self.q1, self.q2, self.p1, self.p2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.trunc_normal_(layer.bias, std=0.001, a=-0.002, b=0.002)

    def encode(self, x):
        h = F.dropout(F.normalize(x), 0.5, self.training)
        return self.q2(torch.tanh(self.q1(h))).chunk(2, dim=1)

    def decode(self, z):
        return self.p2(torch.tanh(self.p1(z)))

    def loss(self, x, beta):
        mu, logvar = self.encode(x)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        nll = -(F.log_softmax(self.decode(z), dim=1) * x).sum(1).mean()
        kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1).mean()
        return nll + beta * kl


def to_scipy(train) -> sparse.csr_matrix:
    data = np.ones(train.nnz, dtype=np.float32)
    return sparse.csr_matrix((data, train.indices.numpy(), train.indptr.numpy()), shape=train.shape)


def train_steps(train, n_steps: int, batch_size: int = 500, seed: int = 0):
    """Yield after each update, so that the caller can time it."""
    torch.manual_seed(seed)
    matrix = to_scipy(train)
    model = DenseMultVAE(train.n_items)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    order, at = torch.randperm(train.n_users).numpy(), 0
    for step in range(n_steps):
        if at + batch_size > len(order):
            at = 0
        x = torch.from_numpy(matrix[order[at : at + batch_size]].toarray())
        at += batch_size
        loss = model.loss(x, 0.2 * step / max(n_steps, 1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield loss.item()


def train_epochs(train, n_epochs: int, batch_size: int = 500):
    """Yield the last loss after each epoch of whole batches."""
    per_epoch = train.n_users // batch_size
    for step, loss in enumerate(train_steps(train, n_epochs * per_epoch, batch_size), start=1):
        if step % per_epoch == 0:
            yield loss


def main() -> None:
    import vaecf_lib as vc
    from vaecf_lib.models import Model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="planted")
    parser.add_argument("--n-heldout", type=int)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    class Scored(Model):
        """Lends the plain model's scores to the library's metrics."""

        def __init__(self, plain):
            super().__init__(plain.p2.out_features)
            self.plain = plain

        def scores(self, batch):
            return self.plain.decode(self.plain.encode(batch.dense())[0])

    split = vc.split_strong(vc.load_dataset(options.dataset), n_heldout=options.n_heldout)
    torch.manual_seed(options.seed)
    matrix = to_scipy(split.train)
    scored = Scored(DenseMultVAE(split.n_items))
    optimiser = torch.optim.Adam(scored.plain.parameters(), lr=1e-3)
    n_batches = -(-split.train.n_users // 500)
    step, best, kept = 0, -1.0, None
    for _ in range(options.epochs):
        scored.train()
        for rows in torch.randperm(split.train.n_users).split(500):
            beta = 0.2 * min(1.0, step / (0.85 * options.epochs * n_batches))
            loss = scored.plain.loss(torch.from_numpy(matrix[rows.numpy()].toarray()), beta)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
        ndcg = vc.evaluate(scored, split.valid, ("ndcg@100",))["ndcg@100"].mean
        if ndcg > best:
            best, kept = ndcg, copy.deepcopy(scored.state_dict())
    scored.load_state_dict(kept)
    result = {metric: round(value.mean, 4) for metric, value in vc.evaluate(scored, split.test).items()}
    print(json.dumps(vars(options) | {"metrics": result}))


if __name__ == "__main__":
    main()
