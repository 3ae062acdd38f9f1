"""What does the reconstruction term do? The variants that Zamani et al. (ICTIR 2022) compare with Mult-VAE."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

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
    """Mult-VAE with any likelihood, posterior and prior of the study; the systems below are settings of it.

    Args:
        n_items: number of items.
        latent_dim, hidden, anneal, dropout, lr: as in :class:`MultVAE`.
        beta: final weight of the KL term; 0 removes it.
        likelihood: "multinomial" (Eq. 8), "bernoulli" (Eq. 10) or "n_choose_k" (Eq. 9, exact).
        posterior: "gaussian", or "iaf", a Gaussian followed by one step of inverse autoregressive flow.
        prior: "standard", N(0, I), or "vamp", the mean of the encoder's Gaussians at learned pseudo-inputs.
        pseudo_inputs: how many of them.
        penalty: lambda of the term lambda ||W||^2 over all weight matrices, added to the mean loss. The paper adds
            it under maximisation; it acts here as Adam's coupled weight decay 2 lambda, the same gradient.

    An option left at None takes the system's own value, in ``defaults``.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "beta": 0.2,
        "likelihood": "multinomial",
        "posterior": "gaussian",
        "prior": "standard",
        "penalty": 0.0,
    }

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        hidden: int = 600,
        beta: float | None = None,
        anneal: float = 0.85,
        dropout: float = 0.5,
        likelihood: Likelihood | None = None,
        posterior: Literal["gaussian", "iaf"] | None = None,
        prior: Literal["standard", "vamp"] | None = None,
        pseudo_inputs: int = 5,
        penalty: float | None = None,
        lr: float = 1e-3,
    ):
        given = {"beta": beta, "likelihood": likelihood, "posterior": posterior, "prior": prior, "penalty": penalty}
        chosen = StudyVAE.defaults | self.defaults | {name: v for name, v in given.items() if v is not None}
        super().__init__(n_items, latent_dim, hidden, chosen["beta"], anneal, dropout, chosen["likelihood"], lr)
        self.config |= chosen | {"pseudo_inputs": pseudo_inputs}
        if chosen["posterior"] == "iaf":
            self.flow = InverseAutoregressiveFlow(latent_dim, hidden)
        if chosen["prior"] == "vamp":
            self.pseudo = nn.Parameter(torch.empty(pseudo_inputs, n_items))
            nn.init.normal_(self.pseudo, 0.05, 0.01)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        super().reset_parameters()
        if hasattr(self, "pseudo"):
            nn.init.normal_(self.pseudo, 0.05, 0.01)

    def _heads(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.posterior(torch.tanh(hidden)).chunk(2, dim=-1)
        # The VampPrior's components are posteriors: bounded variances keep them from shrinking onto single codes.
        return mu, logvar.clamp(-12, 4) if self.config["prior"] == "vamp" else logvar

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2 of the Gaussian (before the flow, if there is one), each (B, latent_dim)."""
        return self._heads(self.input(batch))

    def log_prior(self, z: Tensor) -> Tensor:
        """Return log p(z), shape (B,)."""
        if self.config["prior"] == "standard":
            return standard_normal_log_prob(z)
        mu, logvar = self._heads(self.input.dense(nn.functional.hardtanh(self.pseudo, 0.0, 1.0)))
        return gaussian_mixture_log_prob(z, mu[:, None], logvar[:, None])

    def sample(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return one z ~ q(z|x) and its rate: per dimension in closed form, or the one-sample estimate, (B, 1)."""
        mu, logvar = self.encode(batch)
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
        return [Phase("all", groups, self.loss, lr=self.lr)]

    def scores(self, batch: Batch) -> Tensor:
        """Return the logits at the Gaussian's mean, sent through the flow if there is one; (B, n_items)."""
        mu, _ = self.encode(batch)
        z = self.flow(mu)[0] if self.config["posterior"] == "iaf" else mu
        return self.on_scale(self.decode(z), batch)


class VAEMultinomial(StudyVAE):
    """Mult-VAE without its KL term (Table 2 of the paper)."""

    slug = "vae-multinomial"
    about = "Mult-VAE without the KL term (Zamani et al. 2022)"
    defaults: ClassVar = {"beta": 0.0}


class VAELogistic(StudyVAE):
    """Independent Bernoullis instead of the multinomial, no KL term (Table 2)."""

    slug = "vae-logistic"
    about = "logistic likelihood, no KL term (Zamani et al. 2022)"
    defaults: ClassVar = {"beta": 0.0, "likelihood": "bernoulli"}


class VAEVamp(StudyVAE):
    """Mult-VAE with a VampPrior of five pseudo-inputs (Table 3)."""

    slug = "vae-vamp"
    about = "Mult-VAE with a VampPrior of 5 pseudo-inputs (Zamani et al. 2022)"
    defaults: ClassVar = {"prior": "vamp"}


class VAEIAF(StudyVAE):
    """Mult-VAE whose posterior goes through one step of inverse autoregressive flow (Table 3)."""

    slug = "vae-iaf"
    about = "Mult-VAE with one step of inverse autoregressive flow (Zamani et al. 2022)"
    defaults: ClassVar = {"posterior": "iaf"}


class VAEReg(StudyVAE):
    """Mult-VAE with a penalty of 0.01 on its squared weights (Table 3)."""

    slug = "vae-reg"
    about = "Mult-VAE with weight penalty 0.01 (Zamani et al. 2022)"
    defaults: ClassVar = {"penalty": 0.01}


class VAENck(StudyVAE):
    """Mult-VAE with the exact n-Choose-k likelihood, which the paper bounds and does not train."""

    slug = "vae-nck"
    about = "Mult-VAE with the exact n-Choose-k likelihood (Eq. 9 of Zamani et al. 2022)"
    defaults: ClassVar = {"likelihood": "n_choose_k"}
