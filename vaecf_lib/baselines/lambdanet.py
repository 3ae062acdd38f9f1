"""LambdaNet: Mult-VAE's network trained by LambdaRank, Burges, Ragno and Le (2006), as in RaCT's comparison."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..data import Batch
from ..maths import gaussian_kl, linear_annealing, sample_gaussian
from ..models.base import Model, Phase
from ..nn import GaussianEncoder, MLPDecoder, full_precision, init_linear

PAIRS_AT_ONCE = 2**18  # 1 MB of floats: a slice stays in the processor's cache


class LambdaNet(Model):
    """Mult-VAE's encoder and decoder with the gradients of LambdaRank in place of a likelihood's.

    Each pair of an item i of the user's and another one j draws their scores apart, by the probability that
    sigma(s_j - s_i) gives to the wrong order times what exchanging them would change in the list's NDCG. The KL term of
    Mult-VAE stays, as in RaCT's public code (Lobel et al. 2020).

    Args:
        n_items: number of items.
        latent_dim: size of z.
        hidden: width of the encoder's and the decoder's hidden layer.
        beta: final weight of the KL term.
        anneal: share of training over which the weight rises linearly from 0 to ``beta``.
        dropout: share of a user's clicks hidden from the encoder at each update.
        lr: Adam's learning rate.
    """

    slug = "lambdanet"
    about = "Mult-VAE's network with the gradients of LambdaRank (Burges et al. 2006, Lobel et al. 2020)"
    descends = "mult-vae"
    changes = "the loss: pairs of items"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        hidden: int = 600,
        beta: float = 0.2,
        anneal: float = 0.85,
        dropout: float = 0.5,
        lr: float = 1e-3,
    ):
        super().__init__(n_items)
        self.encoder = GaussianEncoder(n_items, hidden, latent_dim, dropout)
        self.decoder = MLPDecoder(latent_dim, hidden, n_items)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        super().reset_parameters()
        for layer in (self.decoder.hidden, self.decoder.output):
            init_linear(layer.weight, layer.bias)

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of LambdaRank's cost + beta rate, and its terms."""
        mu, logvar = self.encoder(batch)
        cost = lambdarank(full_precision(self.decoder(sample_gaussian(mu, logvar))), batch).mean()
        rate = gaussian_kl(mu, logvar).mean()
        beta = linear_annealing(progress, self.config["beta"], self.config["anneal"])
        return cost + beta * rate, {"cost": cost, "rate": rate, "beta": beta}

    def phases(self) -> list[Phase]:
        """One phase over all weights."""
        return [Phase("all", list(self.parameters()), self.loss, lr=self.config["lr"])]

    def scores(self, batch: Batch) -> Tensor:
        """Return the scores at the posterior mean, (B, n_items)."""
        return self.decoder(self.encoder(batch)[0])


class _LambdaRank(torch.autograd.Function):
    """The cost, whose gradient, (B, n_items), is computed with it and kept instead of the pairs."""

    @staticmethod
    def forward(ctx, scores, batch):
        value, gradient = _lambdas(scores, batch)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (gradient,) = ctx.saved_tensors
        return gradient * grad[:, None], None


def lambdarank(scores: Tensor, batch: Batch) -> Tensor:
    """Return each user's sum over own items i and others j of |dNDCG_ij| log(1 + exp(s_j - s_i)), (B,).

    |dNDCG_ij| = |1 / log2(1 + r_i) - 1 / log2(1 + r_j)| / IDCG, with the places r in the list of all items and no
    cut-off, is a constant for the gradient, which is so that of LambdaRank (Burges 2010, section 4).

    The pairs are formed for some of the own items at a time: beyond arrays of the scores' size memory is that of
    PAIRS_AT_ONCE, time is O(own items x n_items).

    Args:
        scores: (B, n_items).
        batch: whose items are the users' own.
    """
    return _LambdaRank.apply(scores, batch)


def _lambdas(scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the users' costs, (B,), and their gradients by the scores, (B, n_items)."""
    n_items = scores.shape[1]
    by_place = torch.arange(2, n_items + 2, device=scores.device).to(scores.dtype).log2().reciprocal()
    order = scores.argsort(dim=1, descending=True)
    discounts = torch.empty_like(scores).scatter_(1, order, by_place.expand_as(scores))
    others = scores.clone()
    others[batch.rows, batch.items] = -torch.inf  # never ahead of anything
    own, own_discounts = scores[batch.rows, batch.items], discounts[batch.rows, batch.items]
    gradients, costs, pulls = torch.zeros_like(scores), torch.empty_like(own), torch.empty_like(own)
    step = max(1, PAIRS_AT_ONCE // n_items)
    for some in (slice(start, start + step) for start in range(0, len(own), step)):
        rows = batch.rows[some]
        ahead = others.index_select(0, rows).sub_(own[some, None])  # (own items, n_items)
        change = discounts.index_select(0, rows).sub_(own_discounts[some, None]).abs_()
        costs[some] = torch.nn.functional.softplus(ahead).mul_(change).sum(1)
        lambdas = ahead.sigmoid_().mul_(change)
        gradients.index_add_(0, rows, lambdas)
        pulls[some] = lambdas.sum(1)
    gradients[batch.rows, batch.items] -= pulls
    values = torch.zeros_like(scores[:, 0]).index_add_(0, batch.rows, costs)
    ideal = by_place.cumsum(0)[batch.counts.clamp_min(1) - 1]
    return values / ideal, gradients / ideal[:, None]
