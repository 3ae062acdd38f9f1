"""RecVAE: Shenbin, Alekseev, Tutubalina, Malykh and Nikolenko (WSDM 2020)."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from ..data import Batch
from ..errors import ConfigError
from ..maths import (
    composite_prior_log_prob,
    gaussian_log_prob,
    linear_annealing,
    sample_gaussian,
    standard_normal_log_prob,
)
from ..nn import DenseEncoder, GaussianEncoder, MLPDecoder, PosteriorTable, weights_key
from .base import Phase
from .item_tables import ItemTableModel
from .likelihood import Likelihood


class RecVAE(ItemTableModel):
    """Mult-VAE with a deep encoder, a prior that remembers, a KL weight per user, and alternating training.

    The defaults are the public code's, with every feature on; the five switches below turn them off one by one and
    give the combinations of the paper's Table 2 (the marks of its last row but one are inferred).

    Args:
        n_items: number of items.
        latent_dim: size of z.
        hidden: width of the encoder's layers.
        gamma: KL weight of a user per click, beta'(x) = gamma * sum_i x_i (Eq. 20). For ratings it is gamma times
            their number; the public code takes their sum. None: the constant ``beta``.
        beta: constant KL weight, reached by annealing; used only if ``gamma`` is None. The paper does not name the
            constant of its ablation; 0.2 is Mult-VAE's.
        anneal: share of training over which a constant ``beta`` rises from 0.
        alpha: the prior's weight on N(0, I); the old posterior and the wide Gaussian share the rest as 15 : 2, so
            that the default 3/20 leaves the paper's 3/4 and 1/10.
        mixture: "per_dimension" as in the public code, or "joint" as in Eq. 17.
        architecture: "dense", five layers with skips, layer norm and swish and a linear decoder; or "mult-vae".
        composite_prior: False: N(0, I).
        alternating: train the encoder for three passes, then the decoder for one. False: both at once, with the old
            encoder renewed after every epoch; the public code then never renews it.
        clean_decoder: train the decoder on the whole input (Eq. 22); False: with dropout.
        old_start: the old encoder before the first update, "random" as in the public code or "copy".
        kl_in_decoder: add the KL term to the decoder's loss for the record; it has no gradient there.
        dropout: share of the input hidden while the encoder is trained.
        likelihood: "multinomial", "bernoulli" or "n_choose_k"; "gaussian" for ratings.
        lr: Adam's learning rate, of either optimiser.
        n_sampled: items drawn at each update to estimate the multinomial's normaliser, for very large catalogues; None:
            all items, exactly.
        implicit_slim: replace the item tables of encoder and decoder by their ImplicitSLIM form before every so-manyth
            epoch (Shenbin and Nikolenko 2024); None: never. Its authors have 10 for RecVAE on ML-20M, with gamma=0.004,
            latent_dim=400, slim_penalty=500 and slim_threshold=1000.
        slim_penalty: lambda of ImplicitSLIM.
        slim_alpha: weight of the present tables in it, against the clicks.
        slim_threshold: users that an item needs to have a part in the others' new weights.
    """

    slug = "recvae"
    about = "deep encoder, composite prior, KL weight per user, alternating training (Shenbin et al. 2020)"
    descends = "mult-vae"
    changes = "the prior, β per user"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        hidden: int = 600,
        gamma: float | None = 0.005,
        beta: float = 0.2,
        anneal: float = 0.85,
        alpha: float = 3 / 20,
        mixture: Literal["per_dimension", "joint"] = "per_dimension",
        architecture: Literal["dense", "mult-vae"] = "dense",
        composite_prior: bool = True,
        alternating: bool = True,
        clean_decoder: bool = True,
        old_start: Literal["random", "copy"] = "random",
        kl_in_decoder: bool = False,
        dropout: float = 0.5,
        likelihood: Likelihood = "multinomial",
        lr: float = 5e-4,
        n_sampled: int | None = None,
        implicit_slim: int | None = None,
        slim_penalty: float = 100.0,
        slim_alpha: float = 1.0,
        slim_threshold: int = 30,
    ):
        super().__init__(n_items)
        self.use_likelihood(likelihood, n_sampled)
        if clean_decoder and not alternating:
            raise ConfigError(
                "recvae: clean_decoder needs alternating training: the encoder sees the decoder's input otherwise"
            )
        encoder = DenseEncoder if architecture == "dense" else GaussianEncoder
        self.encoder = encoder(n_items, hidden, latent_dim, dropout)
        self.old_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.old_posterior = PosteriorTable(self.old_encoder)
        self.remembered: tuple | None = None
        self.decoder = MLPDecoder(latent_dim, None if architecture == "dense" else hidden, n_items)
        self.reset_parameters()

    @property
    def weights(self) -> tuple[float, float, float]:
        """The prior's weights on N(0, I), the old posterior and the wide Gaussian."""
        alpha = self.config["alpha"]
        return alpha, (1 - alpha) * 15 / 17, (1 - alpha) * 2 / 17

    @property
    def anneals(self) -> bool:
        """Whether a constant ``beta`` is annealed; ``gamma`` is not."""
        return self.config["gamma"] is None and super().anneals

    def reset_parameters(self) -> None:
        """Draw all weights anew, the old encoder's too."""
        super().reset_parameters()
        if self.config["old_start"] == "copy":
            self.update_prior()

    def update_prior(self) -> None:
        """phi_old <- phi: remember the posterior of this moment (Algorithm 1)."""
        self.old_encoder.load_state_dict(self.encoder.state_dict())
        self.remembered = weights_key(self.encoder)

    def encode(self, batch: Batch, drop: bool = True) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2 of q(z|x), each (B, latent_dim); ``drop=False`` reads the whole input."""
        return self.encoder(batch, drop)

    def decode(self, z: Tensor, frozen: bool = False) -> Tensor:
        """Return the logits, (B, n_items). ``frozen``: without gradients for the decoder's weights, and their cost."""
        return self.decoder(z, frozen)

    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        """Return log p(z) or, with the composite prior, log p(z | phi_old, x), shape (B,)."""
        if not self.config["composite_prior"]:
            return standard_normal_log_prob(z)
        mu_old, logvar_old = self.old_posterior(batch)
        return composite_prior_log_prob(z, mu_old, logvar_old, self.weights, mixture=self.config["mixture"])

    def kl_weight(self, batch: Batch, progress: float) -> Tensor | float:
        """Return beta'(x), shape (B,), gamma times the number of a user's entries whatever their values; or beta."""
        if self.config["gamma"] is None:
            return linear_annealing(progress, self.config["beta"], self.config["anneal"])
        return self.config["gamma"] * batch.counts

    def elbo_loss(self, batch: Batch, progress: float, *, frozen_decoder: bool = False) -> tuple[Tensor, dict]:
        """Return the batch mean of -log p(x|z) + beta'(x) (log q(z|x) - log p(z)) at one sample z.

        Eq. 23 of the paper with the sign of its KL term corrected.
        """
        mu, logvar = self.encode(batch)
        z = sample_gaussian(mu, logvar)
        distortion = -self.log_prob(z, batch, frozen_decoder).mean()
        kl = gaussian_log_prob(z, mu, logvar) - self.log_prior(z, batch)
        loss = distortion + (self.kl_weight(batch, progress) * kl).mean()
        return loss, {"distortion": distortion, "rate": kl.mean()}

    def encoder_loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """The ELBO's loss with gradients for the encoder alone (Eq. 21)."""
        return self.elbo_loss(batch, progress, frozen_decoder=True)

    def decoder_loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of -log p(x|z), z from the encoder without a pass backward through it (Eq. 22)."""
        with torch.no_grad():
            if self.config["clean_decoder"] and self.remembered == weights_key(self.encoder):
                mu, logvar = self.old_posterior(
                    batch
                )  # which is the present one, as Algorithm 1 has just remembered it
            else:
                mu, logvar = self.encode(batch, drop=not self.config["clean_decoder"])
            z = sample_gaussian(mu, logvar)
        distortion = -self.log_prob(z, batch).mean()
        terms = {"distortion": distortion}
        if self.config["kl_in_decoder"]:
            with torch.no_grad():
                terms["rate"] = (gaussian_log_prob(z, mu, logvar) - self.log_prior(z, batch)).mean()
        return distortion, terms

    def phases(self) -> list[Phase]:
        """Encoder for three passes, memory, decoder for one; or everything at once."""
        lr = self.config["lr"]
        remember = self.update_prior if self.config["composite_prior"] else None
        encoder = list(self.encoder.parameters())
        decoder = list(self.decoder.parameters())
        if not self.config["alternating"]:
            return [Phase("all", encoder + decoder, self.elbo_loss, lr=lr, after=remember)]
        return [
            Phase("encoder", encoder, self.encoder_loss, lr=lr, passes=3, after=remember),
            Phase("decoder", decoder, self.decoder_loss, lr=lr),
        ]

    def scores(self, batch: Batch) -> Tensor:
        """Return the logits at the posterior mean, (B, n_items)."""
        return self.likelihood.on_scale(self.decode(self.encode(batch)[0]), batch)
