"""What does the reconstruction term do? The variants that Zamani et al. (ICTIR 2022) compare with Mult-VAE."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..data import Batch
from ..maths import (
    gaussian_kl,
    gaussian_log_prob,
    gaussian_mixture_log_prob,
    sample_gaussian,
    standard_normal_log_prob,
)
from ..nn import InverseAutoregressiveFlow
from .base import Phase, penalised
from .likelihood import Likelihood
from .mult_vae import MultVAE


class StudyVAE(MultVAE):
    """Mult-VAE with any likelihood, posterior and prior of the study; its systems are settings of this one.

    "vae-multinomial" and "vae-logistic" have no KL term (Table 2), "vae-vamp", "vae-iaf" and "vae-reg" are Table 3's,
    and "vae-nck" has the exact likelihood that the paper bounds and does not train.

    Args:
        n_items: number of items.
        latent_dim: size of z.
        hidden: width of the encoder's and the decoder's hidden layer.
        beta: final weight of the KL term; 0 removes it.
        anneal: share of training over which the weight rises linearly from 0 to ``beta``.
        dropout: share of a user's clicks hidden from the encoder at each update.
        likelihood: "multinomial" (Eq. 8), "bernoulli" (Eq. 10) or "n_choose_k" (Eq. 9, exact).
        posterior: "gaussian", or "iaf", a Gaussian followed by one step of inverse autoregressive flow.
        prior: "standard", N(0, I), or "vamp", the mean of the encoder's Gaussians at learned pseudo-inputs.
        pseudo_inputs: how many of them.
        penalty: lambda of the term lambda ||W||^2 over all weight matrices, added to the mean loss. The paper adds
            it under maximisation; it acts here as Adam's coupled weight decay 2 lambda, the same gradient.
        lr: Adam's learning rate.
        n_sampled: items drawn at each update to estimate the multinomial's normaliser, for very large catalogues; None:
            all items, exactly.
        implicit_slim: replace the item tables of encoder and decoder by their ImplicitSLIM form before every so-manyth
            epoch (Shenbin and Nikolenko 2024); None: never. Its authors have 10 for RecVAE on ML-20M, with gamma=0.004,
            latent_dim=400, slim_penalty=500 and slim_threshold=1000.
        slim_penalty: lambda of ImplicitSLIM.
        slim_alpha: weight of the present tables in it, against the clicks.
        slim_threshold: users that an item needs to have a part in the others' new weights.
    """

    slug = "study-vae"
    about = "Mult-VAE with any likelihood, posterior and prior (Zamani et al. 2022)"
    descends = "mult-vae"
    changes = "the likelihood"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        hidden: int = 600,
        beta: float = 0.2,
        anneal: float = 0.85,
        dropout: float = 0.5,
        likelihood: Likelihood = "multinomial",
        posterior: Literal["gaussian", "iaf"] = "gaussian",
        prior: Literal["standard", "vamp"] = "standard",
        pseudo_inputs: int = 5,
        penalty: float = 0.0,
        lr: float = 1e-3,
        n_sampled: int | None = None,
        implicit_slim: int | None = None,
        slim_penalty: float = 100.0,
        slim_alpha: float = 1.0,
        slim_threshold: int = 30,
    ):
        super().__init__(
            n_items, latent_dim, hidden, beta, anneal, dropout, likelihood, lr, n_sampled,
            implicit_slim, slim_penalty, slim_alpha, slim_threshold,
        )  # fmt: skip
        if posterior == "iaf":
            self.flow = InverseAutoregressiveFlow(latent_dim, hidden)
        if prior == "vamp":
            self.pseudo = nn.Parameter(torch.empty(pseudo_inputs, n_items))
            nn.init.normal_(self.pseudo, 0.05, 0.01)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        super().reset_parameters()
        if hasattr(self, "pseudo"):
            nn.init.normal_(self.pseudo, 0.05, 0.01)

    def reset_layers(self) -> None:
        """Draw every layer as it is by default."""
        super().reset_layers()
        if hasattr(self, "flow"):
            self.flow.reset_parameters()

    def _heads(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.encoder.heads(hidden)
        # The VampPrior's components are posteriors: bounded variances keep them from shrinking onto single codes.
        return mu, logvar.clamp(-12, 4) if self.config["prior"] == "vamp" else logvar

    def encode(self, batch: Batch, drop: bool = True) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2 of the Gaussian (before the flow, if there is one), each (B, latent_dim)."""
        return self._heads(self.encoder.input(batch, drop))

    def log_prior(self, z: Tensor) -> Tensor:
        """Return log p(z), shape (B,)."""
        if self.config["prior"] == "standard":
            return standard_normal_log_prob(z)
        mu, logvar = self._heads(self.encoder.input.dense(nn.functional.hardtanh(self.pseudo, 0.0, 1.0)))
        return gaussian_mixture_log_prob(z, mu[:, None], logvar[:, None])

    def sample(self, batch: Batch, drop: bool = True) -> tuple[Tensor, Tensor]:
        """Return one z ~ q(z|x) and its rate: per dimension in closed form, or the one-sample estimate, (B, 1)."""
        mu, logvar = self.encode(batch, drop)
        z = sample_gaussian(mu, logvar)
        if self.config["posterior"] == "gaussian" and self.config["prior"] == "standard":
            return z, gaussian_kl(mu, logvar, per_dimension=True)
        log_q = gaussian_log_prob(z, mu, logvar)
        if self.config["posterior"] == "iaf":
            z, log_det = self.flow(z)
            log_q = log_q - log_det
        return z, (log_q - self.log_prior(z))[:, None]

    def phases(self) -> list[Phase]:
        """One phase; weight matrices are penalised, biases and pseudo-inputs are not."""
        groups = penalised((p for name, p in self.named_parameters() if name != "pseudo"), self.config["penalty"])
        groups[1]["params"] += [p for name, p in self.named_parameters() if name == "pseudo"]
        return [Phase("all", groups, self.loss, lr=self.config["lr"])]

    def scores(self, batch: Batch) -> Tensor:
        """Return the logits at the Gaussian's mean, sent through the flow if there is one; (B, n_items)."""
        mu, _ = self.encode(batch)
        z = self.flow(mu)[0] if self.config["posterior"] == "iaf" else mu
        return self.likelihood.on_scale(self.decode(z), batch)
