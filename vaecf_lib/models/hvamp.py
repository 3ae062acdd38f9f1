"""H+Vamp Gated, the hierarchical VampPrior with gates: Kim and Suh (RecSys 2019)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ..data import Batch
from ..maths import gaussian_log_prob, linear_annealing, sample_gaussian, vamp_prior_log_prob
from ..nn import ItemLayer, SparseInput, full_precision
from .base import Phase
from .likelihood import ClickLikelihood, LikelihoodModel


def activate(a: Tensor, gated: bool) -> Tensor:
    """Return h * sigmoid(g) for a = (h, g), (..., 2 width), or tanh(a)."""
    if not gated:
        return torch.tanh(a)
    h, g = a.chunk(2, dim=-1)
    return h * torch.sigmoid(g)


class GatedLayer(nn.Module):
    """A linear layer times the sigmoid of another (Eq. 11), or tanh of one."""

    def __init__(self, n_in: int, width: int, gated: bool):
        super().__init__()
        self.gated, self.linear = gated, nn.Linear(n_in, width * (2 if gated else 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., width) for x (..., n_in)."""
        return activate(self.linear(x), self.gated)


def gated_layers(widths: list[int], gated: bool) -> nn.Sequential:
    """Return layers between ``widths``."""
    return nn.Sequential(*(GatedLayer(a, b, gated) for a, b in pairwise(widths)))


class GaussianNet(nn.Module):
    """Layers, then mu and log sigma^2, which is kept between -12 and 4."""

    def __init__(self, widths: list[int], latent_dim: int, gated: bool):
        super().__init__()
        self.layers, self.head = gated_layers(widths, gated), nn.Linear(widths[-1], 2 * latent_dim)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2, each (..., latent_dim)."""
        mu, logvar = full_precision(self.head(self.layers(h))).chunk(2, dim=-1)
        return mu, logvar.clamp(-12, 4)


class HierarchicalDecoder(nn.Module):
    """p(x|z1,z2): a layer of each, then layers of both, then a linear one to all items."""

    def __init__(self, latent_dim: int, hidden: int, layers: int, n_items: int, gated: bool):
        super().__init__()
        self.z1, self.z2 = (GatedLayer(latent_dim, hidden, gated) for _ in range(2))
        self.joint = gated_layers([2 * hidden] + (layers - 1) * [hidden], gated)
        self.output = ItemLayer(hidden, n_items)

    def features(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Return what the last layer reads, (..., hidden)."""
        return self.joint(torch.cat([self.z1(z1), self.z2(z2)], -1))


class HVamp(LikelihoodModel):
    """Two latent layers, a prior of pseudo-users for the upper one, and gates for activations.

    q(z1, z2|x) = q(z2|x) q(z1|x, z2), p(z1, z2) = p(z2) p(z1|z2), p(z2) = mean over k of q(z2|u_k) at learned
    pseudo-inputs u_k in [0, 1] (Tomczak and Welling 2018). Minimises, per user, -log p(x|z1,z2) + beta (log q(z2|x) +
    log q(z1|x,z2) - log p(z2) - log p(z1|z2)) at one sample. As in the public code u_k is dropped out, but not
    normalised, as the users' inputs are; its Adam also gives each gradient the length one, which this has not.

    Args:
        n_items: number of items.
        latent_dim: size of z1 and of z2.
        hidden: width of all layers.
        layers: of each network, the one to z or to the items left out.
        gated: gates; False: tanh.
        pseudo_inputs: how many the prior has.
        beta: final weight of the KL term; 0.3 is the authors' for Netflix.
        anneal: share of training over which the weight rises linearly from 0 to ``beta``: 100 of at most 400 epochs
            in the public code.
        dropout: share of a user's clicks hidden from the encoders at each update, from each of the two anew.
        likelihood: "multinomial", "bernoulli" or "n_choose_k".
        lr: Adam's learning rate.
    """

    slug = "hvamp"
    about = "two latent layers, VampPrior, gates (Kim and Suh 2019)"
    descends = "mult-vae"
    changes = "the prior, two latent layers"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        hidden: int = 600,
        layers: int = 2,
        gated: bool = True,
        pseudo_inputs: int = 1000,
        beta: float = 0.3,
        anneal: float = 0.25,
        dropout: float = 0.5,
        likelihood: ClickLikelihood = "multinomial",
        lr: float = 5e-4,
    ):
        super().__init__(n_items)
        self.use_likelihood(likelihood)
        width = hidden * (2 if gated else 1)
        self.input_z2, self.input_z1 = (SparseInput(n_items, width, dropout) for _ in range(2))
        self.q_z2 = GaussianNet(layers * [hidden], latent_dim, gated)
        self.z2_for_q_z1 = GatedLayer(latent_dim, hidden, gated)
        self.q_z1 = GaussianNet([2 * hidden] + (layers - 1) * [hidden], latent_dim, gated)
        self.p_z1 = GaussianNet([latent_dim] + layers * [hidden], latent_dim, gated)
        self.decoder = HierarchicalDecoder(latent_dim, hidden, layers, n_items, gated)
        self.pseudo = nn.Parameter(torch.empty(pseudo_inputs, n_items))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew: He's normal ones for a fan-in of all items or units, as in the public code."""
        for part in self.modules():
            if isinstance(part, nn.Linear | SparseInput):
                fan_in = self.n_items if isinstance(part, SparseInput) else part.in_features
                nn.init.normal_(part.weight, std=(2 / fan_in) ** 0.5)
                nn.init.uniform_(part.bias, -(fan_in**-0.5), fan_in**-0.5)
        nn.init.normal_(self.pseudo, 0.05, 0.01)

    def encode_z2(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2 of q(z2|x), each (B, latent_dim)."""
        return self.q_z2(activate(self.input_z2(batch), self.config["gated"]))

    def encode_z1(self, batch: Batch, z2: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2 of q(z1|x,z2), each (B, latent_dim)."""
        x = activate(self.input_z1(batch), self.config["gated"])
        return self.q_z1(torch.cat([x, self.z2_for_q_z1(z2)], -1))

    def log_prior_z2(self, z2: Tensor) -> Tensor:
        """Return log p(z2), (B,)."""
        u = nn.functional.dropout(self.pseudo.clamp(0, 1), self.config["dropout"], self.training)
        h = u @ self.input_z2.weight + self.input_z2.bias
        return vamp_prior_log_prob(z2, *self.q_z2(activate(h, self.config["gated"])))

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of distortion + beta rate, and its terms in nats per user."""
        q_z2 = self.encode_z2(batch)
        z2 = sample_gaussian(*q_z2)
        q_z1 = self.encode_z1(batch, z2)
        z1 = sample_gaussian(*q_z1)
        log_p = self.likelihood.through(self.decoder.output, self.decoder.features(z1, z2), batch)
        log_q = gaussian_log_prob(z2, *q_z2) + gaussian_log_prob(z1, *q_z1)
        log_prior = self.log_prior_z2(z2) + gaussian_log_prob(z1, *self.p_z1(z2))
        distortion, rate = -log_p.mean(), (log_q - log_prior).mean()
        beta = linear_annealing(progress, self.config["beta"], self.config["anneal"])
        return distortion + beta * rate, {"distortion": distortion, "rate": rate, "beta": beta}

    def phases(self) -> list[Phase]:
        """One phase over all weights."""
        return [Phase("all", list(self.parameters()), self.loss, lr=self.config["lr"])]

    def scores(self, batch: Batch) -> Tensor:
        """Return the logits at the means, of q(z2|x) and of q(z1|x,z2) there; (B, n_items)."""
        z2, _ = self.encode_z2(batch)
        z1, _ = self.encode_z1(batch, z2)
        return self.likelihood.on_scale(self.decoder.output(self.decoder.features(z1, z2)), batch)
