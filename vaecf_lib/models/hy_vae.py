"""Hy-VAE: a variational and a deep autoencoder side by side, Liu et al."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ..data import Batch, Interactions
from ..errors import ConfigError
from ..maths import gaussian_kl, linear_annealing, observed_squared_error, sample_gaussian
from ..nn import ItemLayer, SparseInput
from .base import Phase
from .likelihood import LikelihoodModel


class HyVAE(LikelihoodModel):
    """Two branches read one pre-coded user vector, and a last layer fuses their ratings.

    A branch alone is the system "deepae" or "vae" (Table III).

    Loss: L_rec + beta L_KL + L_deep, where L_rec is the squared error of the fused prediction and L_deep that of the
    deep branch, both on observed ratings alone, and L_KL the closed-form divergence (Eq. 9 as it can be read; the
    paper does not define L_deep). A branch alone has its own squared error, and the VAE its divergence.

    Args:
        n_items: number of items.
        branches: "both", "deep" or "vae".
        hidden: width of the outer hidden layers.
        code: width of the middle one.
        code_is: "latent", the middle layer of the VAE is z; or "hidden", a latent layer of ``latent_dim`` lies
            inside it.
        latent_dim: size of z if ``code_is="hidden"``.
        depth: hidden layers of the deep branch: 3, 5 or 7 (256-512-256, and more of the outer width around).
        fusion: "concat", a dense layer over both predictions that starts as their mean; or "sum", their mean.
        beta: weight of the divergence.
        anneal: share of training over which beta rises from 0.
        dropout: share of the deep branch's code that is dropped. (The paper's 0.8 may also be what is kept.)
        penalty: weight of the squared weights of the ``penalised`` layers.
        penalised: "deep", the layers of the deep branch between the shared layer and the branch's output layer, which
            is free; or "all".
        error: "sum" of a user's squared errors, as a Gaussian likelihood has it, or their "mean".
        missing: what stands for missing ratings in the input: "zero", or "user_mean", the user's own level (which
            is subtracted, so that missing entries cost nothing).
        lr: RMSprop's step size.
    """

    slug = "hyvae"
    about = "VAE and deep autoencoder fused, for ratings (Liu et al.)"
    descends = "mult-vae"
    changes = "ratings; a second branch"

    def __init__(
        self,
        n_items: int,
        branches: Literal["both", "deep", "vae"] = "both",
        hidden: int = 256,
        code: int = 512,
        code_is: Literal["latent", "hidden"] = "latent",
        latent_dim: int = 200,
        depth: int = 3,
        fusion: Literal["concat", "sum"] = "concat",
        beta: float = 0.2,
        anneal: float = 0.0,
        dropout: float = 0.8,
        penalty: float = 1e-4,
        penalised: Literal["deep", "all"] = "deep",
        error: Literal["sum", "mean"] = "sum",
        missing: Literal["zero", "user_mean"] = "user_mean",
        lr: float = 1e-4,
    ):
        super().__init__(n_items)
        self.use_likelihood("gaussian")
        if depth % 2 == 0:
            raise ConfigError(f"{self.slug}: depth={depth}: must be odd, as many layers before the code as after it")
        self.input = SparseInput(n_items, hidden, dropout=0.0)  # the shared pre-coding layer
        if branches != "deep":
            inner = code if code_is == "latent" else latent_dim
            self.to_code = nn.Identity() if code_is == "latent" else nn.Sequential(nn.Linear(hidden, code), nn.ReLU())
            self.posterior = nn.Linear(hidden if code_is == "latent" else code, 2 * inner)
            out = [nn.Linear(inner, hidden)] if code_is == "latent" else [nn.Linear(inner, code), nn.ReLU()]
            out += [] if code_is == "latent" else [nn.Linear(code, hidden)]
            self.decoder = nn.Sequential(*out, nn.ReLU())
            self.vae_output = ItemLayer(hidden, n_items)
        if branches != "vae":
            widths = [hidden] * (depth // 2) + [code] + [hidden] * (depth // 2)
            layers: list[nn.Module] = []
            for at, (before, after) in enumerate(pairwise(widths)):
                layers += [nn.Linear(before, after), nn.ReLU()]
                layers += [nn.Dropout(dropout)] if at == depth // 2 - 1 else []
            self.deep = nn.Sequential(*layers)
            self.deep_output = ItemLayer(hidden, n_items)
        if branches == "both" and fusion == "concat":
            self.fuse = ItemLayer(2 * n_items, n_items)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew; the fusing layer starts as the mean of its two inputs."""
        super().reset_parameters()
        if hasattr(self, "fuse"):
            eye = torch.eye(self.n_items, device=self.device)
            with torch.no_grad():
                self.fuse.weight.copy_(0.5 * torch.cat([eye, eye], 1))
                self.fuse.bias.zero_()

    def precode(self, batch: Batch) -> Tensor:
        """Return the layer that both branches read, (B, hidden)."""
        values = batch.values
        if self.config["missing"] == "user_mean":
            values = values - self.likelihood.items.mean() - self.likelihood.users(batch)[batch.rows, 0]
        return torch.relu(self.input.bag(batch, values) + self.input.bias)

    def encode(self, shared: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2 of the variational branch from the pre-coded users, each (B, latent)."""
        mu, logvar = self.posterior(self.to_code(shared)).chunk(2, dim=-1)
        return mu, logvar

    def branches(self, batch: Batch) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return V_vae, V_deep, both (B, n_items), and the KL divergence, (B,); None for what is not there.

        The two are what is predicted beyond the items' and users' means. A dense layer over plain ratings, all of
        them near 4, would answer every step of its weights with a shift of all predictions.
        """
        shared = self.precode(batch)
        vae = deep = kl = None
        if self.config["branches"] != "deep":
            mu, logvar = self.encode(shared)
            kl = gaussian_kl(mu, logvar)
            z = sample_gaussian(mu, logvar) if self.training else mu
            vae = self.vae_output(self.decoder(z))
        if self.config["branches"] != "vae":
            deep = self.deep_output(self.deep(shared))
        return vae, deep, kl

    def combine(self, vae: Tensor | None, deep: Tensor | None) -> Tensor:
        """Return the fused prediction, (B, n_items), still without the means."""
        if vae is None or deep is None:
            return deep if vae is None else vae
        return self.fuse(torch.cat([vae, deep], 1)) if self.config["fusion"] == "concat" else 0.5 * (vae + deep)

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of L_rec + beta L_KL + L_deep, and its terms per user."""
        vae, deep, kl = self.branches(batch)
        rest = self.likelihood.centred(batch)

        def error(prediction: Tensor) -> Tensor:
            squares = observed_squared_error(prediction, rest)
            squares = squares / batch.counts.clamp_min(1) if self.config["error"] == "mean" else squares
            return squares.mean()

        terms = {"error": error(self.combine(vae, deep))}
        loss = terms["error"]
        if kl is not None:
            terms["rate"] = kl.mean()
            loss = loss + linear_annealing(progress, self.config["beta"], self.config["anneal"]) * terms["rate"]
        if vae is not None and deep is not None:
            terms["deep"] = error(deep)
            loss = loss + terms["deep"]
        penalised = self if self.config["penalised"] == "all" else getattr(self, "deep", None)
        if self.config["penalty"] > 0 and penalised is not None:
            squares = [p.square().sum() for p in penalised.parameters() if p.ndim == 2]
            loss = loss + self.config["penalty"] * torch.stack(squares).sum()
        return loss, terms

    def phases(self) -> list[Phase]:
        """One phase over all weights, with RMSprop."""
        return [Phase("all", list(self.parameters()), self.loss, lr=self.config["lr"], optimiser="rmsprop")]

    def scores(self, batch: Batch) -> Tensor:
        """Return the ratings at the posterior mean, (B, n_items)."""
        vae, deep, _ = self.branches(batch)
        return self.likelihood.on_scale(self.combine(vae, deep), batch)

    def item_vectors(self) -> Tensor:
        """Return the weights of the branches' output layers, side by side, (n_items, d)."""
        outputs = [getattr(self, name) for name in ("vae_output", "deep_output") if hasattr(self, name)]
        return torch.cat([output.weight for output in outputs], 1)

    @torch.no_grad()
    def rates_per_dimension(self, train: Interactions) -> Tensor:
        """Return the mean KL divergence of each latent dimension over users, (latent,), in nats."""
        total = 0.0
        for batch in train.to(self.device).batches(500):
            mu, logvar = self.encode(self.precode(batch))
            total = total + gaussian_kl(mu, logvar, per_dimension=True).sum(0)
        return total / train.n_users
