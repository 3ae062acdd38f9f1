"""SIVAE: a semi-implicit posterior for Mult-VAE, Zamani, Li, Fei and Li (ICTIR 2022)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..data import Batch
from ..maths import gaussian_mixture_log_prob, linear_annealing, sample_gaussian, standard_normal_log_prob
from ..nn import MLPDecoder, SparseInput, full_precision, init_linear
from .base import Phase
from .likelihood import ClickLikelihood, LikelihoodModel

SCORING_DRAWS = 16


class SIVAE(LikelihoodModel):
    """Mult-VAE whose encoder is fed noise: q(z|x) is a mixture of Gaussians with infinitely many components.

    Stochastic layers l_t = tanh(A_t l_{t-1} + C_t eps_t + W_t x), then mu and log sigma^2 from l_M and x (Eq. 12).
    The density of q is replaced by the mean over K + 1 draws of the noise, the one that made z included, which
    gives a lower bound of the ELBO that rises with K (Algorithm 1, with beta on the KL part).

    Args:
        n_items: number of items.
        latent_dim: size of z.
        hidden: width of the stochastic layers and of the decoder's hidden layer.
        layers: M, the number of stochastic layers. The paper does not say how many.
        noise_dim: size of eps_t, in every layer.
        noise: "gaussian", N(0, I), or "bernoulli", fair coins as in the public code of semi-implicit inference.
        n_mixing: K, the number of further draws in the surrogate's inner mean; they lower the rate by at most
            log(K + 1) nats, and are inert while z's own component alone covers z.
        beta: final weight of the KL term.
        anneal: share of training over which the weight rises linearly from 0 to ``beta``.
        dropout: share of a user's clicks hidden from the encoder at each update.
        likelihood: "multinomial", "bernoulli" or "n_choose_k".
        lr: Adam's learning rate.
    """

    slug = "sivae"
    about = "semi-implicit posterior, K + 1-sample surrogate bound (Zamani et al. 2022)"
    descends = "mult-vae"
    changes = "the posterior's shape"
    scoring_noise: Tensor

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        hidden: int = 600,
        layers: int = 1,
        noise_dim: int = 64,
        noise: Literal["gaussian", "bernoulli"] = "gaussian",
        n_mixing: int = 5,
        beta: float = 0.2,
        anneal: float = 0.85,
        dropout: float = 0.5,
        likelihood: ClickLikelihood = "multinomial",
        lr: float = 1e-3,
    ):
        super().__init__(n_items)
        self.use_likelihood(likelihood)
        # One sparse product gives x's share of every layer and of the heads: it does not depend on the noise.
        self.input = SparseInput(n_items, layers * hidden + 2 * latent_dim, dropout)
        self.inject = nn.ModuleList(nn.Linear(noise_dim, hidden, bias=False) for _ in range(layers))
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(layers - 1))
        self.posterior = nn.Linear(hidden, 2 * latent_dim)
        self.decoder = MLPDecoder(latent_dim, hidden, n_items)
        self.register_buffer("scoring_noise", torch.empty(layers, SCORING_DRAWS, 1, noise_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, and the noise that :meth:`scores` averages over."""
        super().reset_parameters()
        for layer in (self.posterior, self.decoder.hidden, self.decoder.output):
            init_linear(layer.weight, layer.bias)
        self.scoring_noise.copy_(self.draw_noise(SCORING_DRAWS, 1))

    def draw_noise(self, n_draws: int, n_users: int) -> Tensor:
        """Return fresh noise for every layer, (layers, n_draws, n_users, noise_dim)."""
        shape = (self.config["layers"], n_draws, n_users, self.config["noise_dim"])
        if self.config["noise"] == "gaussian":
            return torch.randn(shape, device=self.device)
        return torch.bernoulli(torch.full(shape, 0.5, device=self.device))

    def encode(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2 of q(z|psi) for each draw of the noise, each (n_draws, B, latent_dim)."""
        hidden, layers = self.config["hidden"], self.config["layers"]
        *injected, skip = self.input(batch).split([hidden] * layers + [2 * self.config["latent_dim"]], dim=-1)
        state = torch.tanh(self.inject[0](noise[0]) + injected[0])
        for layer, inject, eps, x in zip(self.layers, list(self.inject)[1:], noise[1:], injected[1:], strict=True):
            state = torch.tanh(layer(state) + inject(eps) + x)
        mu, logvar = full_precision(self.posterior(state) + skip).chunk(2, dim=-1)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """Return the logits eta, (B, n_items), for z (B, latent_dim)."""
        return self.decoder(z)

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of distortion + beta rate, the negative surrogate bound at beta = 1.

        rate = log (1 / (K + 1)) sum_k q(z | psi_k) - log p(z), z drawn from q(z | psi_0).
        """
        mu, logvar = self.encode(batch, self.draw_noise(self.config["n_mixing"] + 1, len(batch)))
        z = sample_gaussian(mu[0], logvar[0])
        distortion = -self.log_prob(z, batch).mean()
        rate = (gaussian_mixture_log_prob(z, mu, logvar) - standard_normal_log_prob(z)).mean()
        beta = linear_annealing(progress, self.config["beta"], self.config["anneal"])
        return distortion + beta * rate, {"distortion": distortion, "rate": rate, "beta": beta}

    def phases(self) -> list[Phase]:
        """One phase over all weights."""
        return [Phase("all", list(self.parameters()), self.loss, lr=self.config["lr"])]

    def scores(self, batch: Batch) -> Tensor:
        """Return the logits at the posterior's mean over 16 fixed draws of the noise, (B, n_items)."""
        return self.decode(self.encode(batch, self.scoring_noise)[0].mean(0))
