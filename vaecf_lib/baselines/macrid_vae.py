"""MacridVAE: disentangled by concept, Ma et al. (2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..data import Batch
from ..maths import gaussian_kl, linear_annealing, sample_gaussian
from ..models.base import Phase
from ..models.likelihood import LikelihoodModel
from ..nn import SparseInput, scaled_to_unit_length


class MacridVAE(LikelihoodModel):
    """Disentangled by concept: every item belongs softly to some of ``concepts``, and a user has a code for each.

    The rating form of Ma et al. (2019): the concepts' predictions are averaged by membership, plus the user's and
    item's means, and the error is squared. The ratings are masked by concept first, then normalised and dropped out,
    in the order of the public code; the norm is a constant for the gradient, which is ours. The public code's
    divergence leaves out mu, which is the option ``kl_of_mu=False``.

    Args:
        n_items: number of items.
        concepts: how many there are.
        latent_dim: length of an item's embedding and of each code.
        hidden: width of the encoder's layer.
        tau: temperature of memberships.
        sigma: prior standard deviation of the codes.
        beta: final weight of the KL term.
        anneal: share of training over which the weight rises linearly from 0 to ``beta``.
        dropout: share of the input hidden at each update.
        lr: Adam's step size.
        kl_of_mu: include mu in the divergence.
    """

    slug = "macridvae"
    about = "disentangled VAE, one code per concept, squared error (Ma et al. 2019)"
    descends = "mult-vae"
    changes = "a code per concept"

    def __init__(
        self,
        n_items: int,
        concepts: int = 4,
        latent_dim: int = 64,
        hidden: int = 256,
        tau: float = 0.1,
        sigma: float = 0.075,
        beta: float = 0.2,
        anneal: float = 0.85,
        dropout: float = 0.5,
        lr: float = 1e-3,
        kl_of_mu: bool = False,
    ):
        super().__init__(n_items)
        self.use_likelihood("gaussian")
        self.input = SparseInput(n_items, hidden, dropout=0.0)
        self.posterior = nn.Linear(hidden, 2 * latent_dim)
        self.items, self.concepts = nn.Embedding(n_items, latent_dim), nn.Embedding(concepts, latent_dim)
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(n_items))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        super().reset_parameters()
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.bias)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what is predicted beyond the means, (B, n_items), and the divergence, (B,)."""
        items, concepts = (nn.functional.normalize(t.weight) for t in (self.items, self.concepts))
        member = torch.softmax(items @ concepts.T / self.config["tau"], -1)  # (n_items, concepts)
        codes, divergence = [], torch.zeros((), device=self.device)
        for k in range(self.config["concepts"]):
            masked = batch.values * member[batch.items, k]
            masked = scaled_to_unit_length(batch, masked)
            masked = nn.functional.dropout(masked, self.config["dropout"], self.training)
            hidden = torch.tanh(self.input.bag(batch, masked) + self.input.bias)
            mu, logvar = self.posterior(hidden).chunk(2, -1)
            mu = nn.functional.normalize(mu)
            # The code's deviation is sigma times a learned factor; relative to the prior's sigma only that is left.
            centre = mu / self.config["sigma"] if self.config["kl_of_mu"] else torch.zeros_like(mu)
            divergence = divergence + gaussian_kl(centre, logvar)
            z = sample_gaussian(mu, logvar + 2 * math.log(self.config["sigma"])) if self.training else mu
            codes.append(z)
        # Sum over k of member_ik <z_k, item_i>, as one product: no (B, n_items) array for each concept.
        weighted = (self.scale * member[:, :, None] * items[:, None, :]).flatten(1)
        return nn.functional.linear(torch.cat(codes, -1), weighted, self.bias), divergence

    def item_vectors(self) -> Tensor:
        """Return the items' embeddings, (n_items, latent_dim)."""
        return self.items.weight

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings at the codes' means, (B, n_items)."""
        return self.likelihood.on_scale(self(batch)[0], batch)

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of half a user's squared errors plus beta times the divergence."""
        ratings, divergence = self(batch)
        error, rate = -self.likelihood.log_prob(ratings, batch).mean(), divergence.mean()
        beta = linear_annealing(progress, self.config["beta"], self.config["anneal"])
        return error + beta * rate, {"error": error, "rate": rate, "beta": beta}

    def phases(self) -> list[Phase]:
        """One phase over all weights."""
        return [Phase("all", list(self.parameters()), self.loss, lr=self.config["lr"])]
