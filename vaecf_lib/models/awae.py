"""aWAE: a Wasserstein autoencoder with sparse codes, Zhong and Zhang (2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import Batch
from ..maths import maximum_mean_discrepancy
from ..nn import MLPDecoder, SparseInput, init_linear
from .base import Phase
from .likelihood import ClickLikelihood, LikelihoodModel


class AWAE(LikelihoodModel):
    """I-600-200-600-I autoencoder; the codes of a batch *together* are drawn towards N(0, I), and each to be sparse.

    Minimises the mean of -log p(x | z) + mmd MMD^2[codes, N(0, I)] + l1 ||z||_1 with a deterministic z. No code
    of the authors is public, and neither paper that compares with it re-ran it: this is the Wasserstein
    autoencoder of Tolstikhin et al. (2018) with the L1 term that both describe.

    Args:
        n_items: number of items.
        latent_dim: size of z.
        hidden: width of the encoder's and the decoder's hidden layer.
        mmd: weight of the squared maximum mean discrepancy between a batch's codes and as many draws of N(0, I).
        l1: weight of the L1 norm of a user's code.
        dropout: share of a user's clicks hidden from the encoder at each update.
        likelihood: "multinomial", "bernoulli" or "n_choose_k".
        lr: Adam's learning rate.
    """

    slug = "awae"
    about = "Wasserstein autoencoder with L1 on the codes (Zhong and Zhang 2018)"
    descends = "mult-vae"
    changes = "a distance of samples for the KL term"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        hidden: int = 600,
        mmd: float = 100.0,
        l1: float = 0.1,
        dropout: float = 0.5,
        likelihood: ClickLikelihood = "multinomial",
        lr: float = 1e-3,
    ):
        super().__init__(n_items)
        self.use_likelihood(likelihood)
        self.input = SparseInput(n_items, hidden, dropout)
        self.code = nn.Linear(hidden, latent_dim)
        self.decoder = MLPDecoder(latent_dim, hidden, n_items)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        super().reset_parameters()
        for layer in (self.code, self.decoder.hidden, self.decoder.output):
            init_linear(layer.weight, layer.bias)

    def encode(self, batch: Batch) -> Tensor:
        """Return the codes z, (B, latent_dim)."""
        return self.code(torch.tanh(self.input(batch)))

    def decode(self, z: Tensor) -> Tensor:
        """Return the logits, (B, n_items), for z (B, latent_dim)."""
        return self.decoder(z)

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of distortion + l1 ||z||_1, plus mmd times the batch's discrepancy."""
        z = self.encode(batch)
        distortion = -self.log_prob(z, batch).mean()
        discrepancy = maximum_mean_discrepancy(z, torch.randn_like(z))
        norm = z.abs().sum(-1).mean()
        loss = distortion + self.config["mmd"] * discrepancy + self.config["l1"] * norm
        return loss, {"distortion": distortion, "mmd": discrepancy, "l1": norm}

    def phases(self) -> list[Phase]:
        """One phase over all weights; the discrepancy is one of the whole batch."""
        return [Phase("all", list(self.parameters()), self.loss, lr=self.config["lr"], by_user=False)]

    def scores(self, batch: Batch) -> Tensor:
        """Return the logits, (B, n_items)."""
        return self.decode(self.encode(batch))
