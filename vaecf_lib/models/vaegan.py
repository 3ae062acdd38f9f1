"""VAEGAN: adversarial variational Bayes for collaborative filtering, Yu, Zhang, Cao and Xia (IJCAI 2019)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..data import Batch
from ..maths import gaussian_log_prob, linear_annealing, sample_gaussian, standard_normal_log_prob
from ..nn import GaussianEncoder, MLPDecoder, SparseInput, full_precision, init_linear, unit_length
from .base import Phase, frozen
from .likelihood import ClickLikelihood, LikelihoodModel

SCORING_DRAWS = 16
CONTRAST_DRAWS = 16


class _Gram(torch.autograd.Function):
    """W^T W, (d, d), of W (n, d). Its gradient W (G + G^T) is one product here, and would be two."""

    @staticmethod
    def forward(ctx, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return weight.T @ weight

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (weight,) = ctx.saved_tensors
        return weight @ (grad + grad.T)


class PosteriorCritic(nn.Module):
    """T(x, z): is z from the posterior of x, or from the prior? Two hidden layers, one number."""

    def __init__(self, n_items: int, latent_dim: int, width: int):
        super().__init__()
        self.input = SparseInput(n_items, width, dropout=0.0)
        self.code, self.hidden = nn.Linear(latent_dim, width, bias=False), nn.Linear(width, width)
        self.output = nn.Linear(width, 1)

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        """Return T, (B,). The prior's -log p(z) = ||z||^2 / 2 is added, so that the network learns log q alone."""
        hidden = nn.functional.elu(self.input(batch) + self.code(z))
        return self.output(nn.functional.elu(self.hidden(hidden)))[:, 0] + 0.5 * (z * z).sum(-1)


class ClickCritic(nn.Module):
    """D(v | z_c): are the values v at the user's clicks real ones, or the decoder's probabilities?"""

    def __init__(self, n_items: int, latent_dim: int, width: int):
        super().__init__()
        self.condition = GaussianEncoder(n_items, width, latent_dim, dropout=0.0)
        self.input = SparseInput(n_items, width, dropout=0.0)
        self.code, self.output = nn.Linear(latent_dim, width, bias=False), nn.Linear(width, 1)

    def forward(self, batch: Batch, values: Tensor) -> Tensor:
        """Return D, (B,), for ``values`` (n,) at the batch's interactions; everywhere else v is zero."""
        z_c = sample_gaussian(*self.condition(batch))
        clicks = self.input.bag(batch, values * unit_length(batch)) + self.input.bias
        return full_precision(self.output(nn.functional.elu(clicks + self.code(z_c))))[:, 0]


class VAEGAN(LikelihoodModel):
    """An autoencoder with a black-box posterior, trained by up to two games.

    The defaults are the whole VAEGAN, "vaegan-avb-d-c"; "vaegan-avb-d" is it without the contractive penalty
    (gamma 0), "vaegan-avb" without the click critic, too (beta 0).

    Encoder, decoder: max log p(x|z) - alpha T(x, z) + beta log sigma(D(x_hat * x | z_c)) - gamma ||dz/dx||^2
    (Eq. 13, with the sign of its last term corrected). T tells posterior from prior samples (Eq. 4), D real clicks
    from reconstructed ones (Eq. 9).

    Args:
        n_items: number of items.
        latent_dim: size of z.
        hidden: width of the encoder's and the decoder's hidden layer.
        alpha: final weight of T, which stands for the KL divergence.
        anneal: share of training over which alpha rises from 0. The paper's maximum is near epoch 80 of 300.
        beta: weight of the click critic D; 0: there is none. (The paper's beta.)
        gamma: weight of the contractive penalty, the squared Frobenius norm of the Jacobian of z by the network's
            input, batch mean (Eq. 12; the paper's lambda, its gamma in Sec. 4.4).
        injection: how noise enters the encoder: "learned", through dense layers, or "additive", as printed, to the
            input and to the hidden layer.
        noise_dim: size of each of the two noise vectors, if learned.
        noise_std: of the noise, if additive.
        code: "linear", or "tanh", the last layer with a nonlinearity as printed. A tanh code cannot look like N(0, I),
            and its Jacobian costs latent_dim times as much.
        contrast: T tells normalised posterior samples from N(0, I); the rest of the divergence is in closed form
            (adaptive contrast of Mescheder et al. 2017).
        critic_hidden: width of the critics' layers, of which T has two and D one besides the encoder of z_c.
        critic_lr: the critics' learning rate; their Adam has beta_1 = 0.5.
        dropout: share of a user's clicks hidden from the encoder at each update.
        likelihood: "bernoulli", as in the paper, "multinomial" or "n_choose_k".
        lr: learning rate of encoder and decoder.
    """

    slug = "vaegan-avb-d-c"
    about = "VAEGAN: discriminator and contractive penalty (Yu et al. 2019)"
    descends = "mult-vae"
    changes = "an implicit posterior"
    scoring_noise: Tensor

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        hidden: int = 600,
        alpha: float = 0.2,
        anneal: float = 0.27,
        beta: float = 0.2,
        gamma: float = 0.0003,
        injection: Literal["learned", "additive"] = "learned",
        noise_dim: int = 64,
        noise_std: float = 0.1,
        code: Literal["linear", "tanh"] = "linear",
        contrast: bool = False,
        critic_hidden: int = 200,
        critic_lr: float = 1e-3,
        dropout: float = 0.5,
        likelihood: ClickLikelihood = "bernoulli",
        lr: float = 1e-3,
    ):
        super().__init__(n_items)
        self.use_likelihood(likelihood)
        self.input = SparseInput(n_items, hidden, dropout)
        self.code = nn.Linear(hidden, latent_dim)
        if injection == "learned":
            self.inject = nn.ModuleList(nn.Linear(noise_dim, width, bias=False) for width in (hidden, latent_dim))
            self.register_buffer("scoring_noise", torch.empty(2, SCORING_DRAWS, 1, noise_dim))
        self.decoder = MLPDecoder(latent_dim, hidden, n_items)
        self.posterior_critic = PosteriorCritic(n_items, latent_dim, critic_hidden)
        self.click_critic = ClickCritic(n_items, latent_dim, critic_hidden) if beta > 0 else None
        self.reset_parameters()

    @property
    def anneals(self) -> bool:
        """Whether ``alpha`` is annealed."""
        return self.config["anneal"] > 0 and self.config["alpha"] > 0

    def reset_parameters(self) -> None:
        """Draw all weights anew, and the noise that :meth:`scores` averages over."""
        super().reset_parameters()
        for layer in (self.code, self.decoder.hidden, self.decoder.output):
            init_linear(layer.weight, layer.bias)
        if self.config["injection"] == "learned":
            self.scoring_noise.normal_()

    # --- the encoder and the decoder ---------------------------------------------------------------------------

    def draw_noise(self, n_draws: int, n_users: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return fresh noise for both layers, times ``scale``, (n_draws, n_users, size) each."""
        if self.config["injection"] == "learned":
            sizes, std = [self.config["noise_dim"]] * 2, 1.0
        else:
            sizes, std = [self.n_items, self.config["hidden"]], self.config["noise_std"]
        first, second = (scale * std * torch.randn(n_draws, n_users, size, device=self.device) for size in sizes)
        return first, second

    def encode(self, batch: Batch, noise: tuple[Tensor, Tensor] | Tensor) -> tuple[Tensor, Tensor]:
        """Return z, (n_draws, B, latent_dim), and the hidden layer, (n_draws, B, hidden), for some draws of noise."""
        x = self.input(batch)
        if self.config["injection"] == "learned":
            hidden = torch.tanh(x + self.inject[0](noise[0]))
            z = full_precision(self.code(hidden) + self.inject[1](noise[1]))
        else:
            hidden = torch.tanh(x + noise[0] @ self.input.weight)
            z = full_precision(self.code(hidden + noise[1]))
        return torch.tanh(z) if self.config["code"] == "tanh" else z, hidden

    def decode(self, z: Tensor) -> Tensor:
        """Return the logits, (..., n_items), for z (..., latent_dim)."""
        return self.decoder(z)

    def contraction(self, z: Tensor, hidden: Tensor) -> Tensor:
        """Return ||dz / dx||_F^2 per user, (B,), for z (B, latent_dim) and hidden (B, hidden) of :meth:`encode`.

        J = W1 diag(f1') W2 diag(f2'), so ||J||^2 = <W1^T W1, A A^T> with A = diag(f1') W2 diag(f2'): the Gram matrix
        is hidden x hidden, and no (n_items x latent_dim) Jacobian is formed.
        """
        gram = _Gram.apply(self.input.weight)
        slope, weight = 1 - hidden**2, self.code.weight
        if self.config["code"] == "linear":
            return ((slope @ (gram * (weight.T @ weight))) * slope).sum(-1)
        a = (slope[:, :, None] * weight.T) * (1 - z**2)[:, None, :]  # (B, hidden, latent_dim)
        return ((gram @ a) * a).sum((1, 2))

    # --- the divergence ----------------------------------------------------------------------------------------

    def contrast_moments(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z|x) over some draws of the noise, (B, latent_dim) each, no gradient."""
        with torch.no_grad():
            z, _ = self.encode(batch, self.draw_noise(CONTRAST_DRAWS, len(batch)))
            return z.mean(0), z.var(0).clamp_min(1e-6).log()

    def divergence(self, batch: Batch, z: Tensor, moments: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the estimate of log q(z|x) - log p(z), (B,), that T gives (Eq. 5); its mean is the KL divergence."""
        if moments is None:
            return self.posterior_critic(batch, z)
        mu, logvar = moments
        ratio = self.posterior_critic(batch, (z - mu) * torch.exp(-0.5 * logvar))
        return ratio + gaussian_log_prob(z, mu, logvar) - standard_normal_log_prob(z)

    # --- the three players -------------------------------------------------------------------------------------

    def posterior_critic_loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the negative of Eq. 4: T high on posterior samples, low on the prior's."""
        with torch.no_grad():
            z = self.encode(batch, self.draw_noise(1, len(batch)))[0][0]
        if self.config["contrast"]:
            mu, logvar = self.contrast_moments(batch)
            z = (z - mu) * torch.exp(-0.5 * logvar)
        return self._game(self.posterior_critic(batch, z), self.posterior_critic(batch, torch.randn_like(z)))

    def click_critic_loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the negative of Eq. 9: D high on real clicks, low on reconstructed ones."""
        with torch.no_grad():
            z = self.encode(batch, self.draw_noise(1, len(batch)))[0][0]
            reconstructed = self.reconstruct(batch, self.decode(z))
        real = self.click_critic(batch, torch.ones_like(reconstructed))
        return self._game(real, self.click_critic(batch, reconstructed))

    @staticmethod
    def _game(real: Tensor, fake: Tensor) -> tuple[Tensor, dict]:
        """Return -log sigma(real) - log(1 - sigma(fake)), batch mean, and how often the critic is right."""
        right = 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())
        return (softplus(-real) + softplus(fake)).mean(), {"right": right}

    @staticmethod
    def reconstruct(batch: Batch, logits: Tensor) -> Tensor:
        """Return sigma(logits) at the batch's interactions, (n,): x_hat * x without its zeros."""
        return torch.sigmoid(logits[batch.rows, batch.items])

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the generator's loss, the negative of Eq. 13 with its sign corrected, and its terms."""
        alpha = linear_annealing(progress, self.config["alpha"], self.config["anneal"])
        z, hidden = (part[0] for part in self.encode(batch, self.draw_noise(1, len(batch))))
        logits = self.decode(z)
        distortion = -self.likelihood.log_prob(logits, batch).mean()
        with frozen(self.posterior_critic):
            divergence = self.divergence(batch, z, self.contrast_moments(batch) if self.config["contrast"] else None)
        divergence = divergence.mean()
        loss, terms = distortion + alpha * divergence, {"distortion": distortion, "divergence": divergence}
        if self.click_critic is not None:
            with frozen(self.click_critic):
                fooled = -softplus(-self.click_critic(batch, self.reconstruct(batch, logits))).mean()
            loss, terms = loss - self.config["beta"] * fooled, terms | {"log_d": fooled}
        if self.config["gamma"] > 0:
            contraction = self.contraction(z, hidden).mean()
            loss, terms = loss + self.config["gamma"] * contraction, terms | {"contraction": contraction}
        return loss, terms | {"alpha": alpha}

    def phases(self) -> list[Phase]:
        """On every batch one update of T, one of D if there is one, and one of encoder and decoder."""
        critics = [("T", self.posterior_critic, self.posterior_critic_loss)]
        if self.click_critic is not None:
            critics.append(("D", self.click_critic, self.click_critic_loss))
        phases = []
        for name, critic, loss in critics:
            groups = [{"params": list(critic.parameters()), "betas": (0.5, 0.999)}]
            phases.append(Phase(name, groups, loss, lr=self.config["critic_lr"], per="batch"))
        own = [p for name, p in self.named_parameters() if "critic" not in name]
        return [*phases, Phase("G", own, self.loss, lr=self.config["lr"], per="batch")]

    def scores(self, batch: Batch) -> Tensor:
        """Return the logits at the mean of z over 16 fixed draws of the noise (at zero noise, if it is additive)."""
        noise = self.scoring_noise if self.config["injection"] == "learned" else self.draw_noise(1, 1, scale=0.0)
        return self.decode(self.encode(batch, noise)[0].mean(0))
