"""VASP, a deep variational autoencoder with a shallow parallel path: Vančura and Kordík (2021)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..data import Batch
from ..errors import ConfigError
from ..maths import LIKELIHOODS, gaussian_kl, sample_gaussian
from ..nn import SparseInput, full_precision, row_sum
from .base import Model, Phase

NEARLY_SURE = -1e-7  # the largest log-probability, as Keras clips them: that of the opposite stays finite


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Split each user's clicks at random; return inputs and targets, 2 B rows each.

    Row u has the smaller half of user u's clicks as input and the other as target, row B + u the reverse. Values are
    left out.
    """
    order = torch.rand(len(batch.items), device=batch.items.device).argsort()
    order = order[batch.rows[order].argsort(stable=True)]  # by row, within it at random
    place = torch.arange(len(order), device=order.device) - batch.offsets[batch.rows]
    first = torch.empty_like(batch.rows, dtype=torch.bool)
    half = batch.counts // 2
    first[order] = place < half[batch.rows]
    parts = []
    for upper, counts in ((first, (half, batch.counts - half)), (~first, (batch.counts - half, half))):
        rows = torch.where(upper, batch.rows, batch.rows + len(batch))
        rows, sorted_by = rows.sort(stable=True)
        parts.append(Batch(batch.users.repeat(2), torch.cat(counts), rows, batch.items[sorted_by], None, batch.n_items))
    return parts[0], parts[1]


def focal_loss(log_p: Tensor, y: Batch, alpha: float, gamma: float) -> Tensor:
    """Return -sum_i alpha_i (1 - p_i)^gamma log p_i, (B,), p_i the probability of what came about (Lin et al. 2017).

    Args:
        log_p: (B, n_items) log-probabilities of a click.
        y: the clicks.
        alpha: weight of the clicked; 1 - alpha is that of the others.
        gamma: how much less counts what is sure; 0: the cross entropy.
    """
    log_not = torch.log(-torch.expm1(log_p))
    others = (alpha - 1) * torch.exp(gamma * log_p) * log_not
    at = y.rows, y.items
    clicked = -alpha * torch.exp(gamma * log_not[at]) * log_p[at]
    return others.sum(-1) + y.row_sums(clicked - others[at])


class SkipLayers(nn.Module):
    """Layers h_l = LN(swish(W_l h_{l-1} + sum of all earlier h)), the first without anything earlier."""

    def __init__(self, hidden: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden, eps=1e-3) for _ in range(layers))

    def forward(self, a: Tensor) -> Tensor:
        """Return the last h, (B, hidden), for what the first layer's swish is given, (B, hidden)."""
        h = self.norms[0](nn.functional.silu(a))
        earlier = h
        for layer, norm in zip(self.layers, list(self.norms)[1:], strict=True):
            h = norm(nn.functional.silu(layer(h) + earlier))
            earlier = earlier + h
        return h


class VASP(Model):
    """The product of a deep VAE's probabilities (FLVAE) and of those of a linear item-item model (neural EASE).

    p_i = sigmoid(f_i(h)) sigmoid(g_i(z)) sigmoid((x B)_i): h the decoder's last layer, z the code, B items x items with
    a diagonal of zeros. At each update every user's clicks are split in halves, and each half predicts the other.
    Minimises the focal loss over all items plus beta times the mean of KL[q(z|x) || N(0, I)] over the latent
    dimensions. With a likelihood instead of the focal loss its logits are the log-odds of p: for "n_choose_k" that is
    exactly the distribution of independent clicks with these probabilities, given their number. Ratings are not read.

    The public code has hidden=4096, latent_dim=2048, batches of 1,024 and Nadam with lr=5e-5 for 50 epochs, then 1e-5
    for 40; here it is Adam. On ML-20M its B reads and scores three tenths of the items; here, all.

    Args:
        n_items: number of items.
        latent_dim: size of z.
        hidden: width of all layers.
        layers: of the encoder, to h.
        decoder_layers: of the decoder.
        beta: weight of the mean KL of a latent dimension.
        alpha: the focal loss's weight of clicks, one minus it that of the other items.
        gamma: the focal loss's exponent: how much less counts what is sure.
        likelihood: "focal", or "multinomial", "bernoulli" or "n_choose_k".
        lr: Adam's learning rate.
        memory_gb: refuse a catalogue for which B, its gradient and Adam's moments take more GB than this.
    """

    slug = "vasp"
    about = "a deep VAE times a neural EASE, focal loss (Vančura and Kordík 2021)"
    descends = "mult-vae"
    changes = "a linear item–item path, the loss"
    reads_values = False

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        hidden: int = 600,
        layers: int = 7,
        decoder_layers: int = 5,
        beta: float = 1.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        likelihood: Literal["focal", "multinomial", "bernoulli", "n_choose_k"] = "focal",
        lr: float = 5e-4,
        memory_gb: float = 8.0,
    ):
        super().__init__(n_items)
        need = 16 * n_items**2 / 1e9
        if need > memory_gb:
            raise ConfigError(
                f"vasp needs {need:.3g} GB for {n_items:,} items, more than memory_gb={memory_gb:g}: raise it if there "
                "is as much, or keep fewer items"
            )
        self.input = SparseInput(n_items, hidden, dropout=0.0)
        self.encoder = SkipLayers(hidden, layers)
        self.mu, self.logvar = (nn.Linear(hidden, latent_dim) for _ in range(2))
        self.first = nn.Linear(latent_dim, hidden)
        self.decoder = SkipLayers(hidden, decoder_layers)
        self.output, self.output_of_z = nn.Linear(hidden, n_items), nn.Linear(latent_dim, n_items)
        self.B = nn.Parameter(torch.empty(n_items, n_items))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew: uniform as Glorot's, biases zero, as Keras does."""
        for part in self.modules():
            if isinstance(part, nn.LayerNorm):
                part.reset_parameters()
            elif isinstance(part, nn.Linear | SparseInput):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)
        nn.init.xavier_uniform_(self.B)
        self.forget_identity()

    @torch.no_grad()
    def forget_identity(self) -> None:
        """Set B's diagonal to zero, after every update, so that no item predicts itself."""
        self.B.fill_diagonal_(0)

    def encode(self, x: Batch) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2 of q(z|x), each (B, latent_dim); the input is ones, not normalised."""
        h = self.encoder(row_sum(self.input.weight, x) + self.input.bias)
        return full_precision(self.mu(h)), full_precision(self.logvar(h))

    def log_click(self, z: Tensor, x: Batch) -> Tensor:
        """Return log p of a click on each item, (B, n_items)."""
        logits = self.output(self.decoder(self.first(z))), self.output_of_z(z), row_sum(self.B, x)
        return sum(nn.functional.logsigmoid(full_precision(part)) for part in logits).clamp_max(NEARLY_SURE)

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the mean over both halves of all users of distortion + beta mean KL; the rate is the whole KL."""
        self.forget_identity()
        x, y = halves(batch)
        mu, logvar = self.encode(x)
        log_p = self.log_click(sample_gaussian(mu, logvar), x)
        if self.config["likelihood"] == "focal":
            distortion = focal_loss(log_p, y, self.config["alpha"], self.config["gamma"]).mean()
        else:
            log_odds = log_p - torch.log(-torch.expm1(log_p))
            distortion = -LIKELIHOODS[self.config["likelihood"]](log_odds, y).mean()
        rate = gaussian_kl(mu, logvar).mean()
        loss = distortion + self.config["beta"] / self.config["latent_dim"] * rate
        return loss, {"distortion": distortion, "rate": rate}

    def phases(self) -> list[Phase]:
        """One phase over all weights."""
        return [Phase("all", list(self.parameters()), self.loss, lr=self.config["lr"], after=self.forget_identity)]

    def item_vectors(self) -> Tensor:
        """Return the weights of the decoder's last layer, (n_items, hidden)."""
        return self.output.weight

    def scores(self, batch: Batch) -> Tensor:
        """Return log p of a click on each item at the posterior mean, (B, n_items)."""
        return self.log_click(self.encode(batch)[0], batch)
