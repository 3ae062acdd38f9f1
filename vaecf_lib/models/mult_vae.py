"""Mult-VAE and Mult-DAE: Liang, Krishnan, Hoffman and Jebara (WWW 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import Batch, Interactions
from ..maths import gaussian_kl, linear_annealing, sample_gaussian
from ..nn import GaussianEncoder, ItemLayer, MLPDecoder, SparseInput, init_linear, reset_parts
from .base import Phase, penalised
from .item_tables import ItemTableModel
from .likelihood import Likelihood, LikelihoodModel


class MultVAE(ItemTableModel):
    """I-600-200-600-I variational autoencoder with tanh layers.

    Minimises, per user, -E_q[log p(x|z)] + beta KL[q(z|x) || N(0, I)] with one reparametrised sample.

    Args:
        n_items: number of items.
        latent_dim: size of z.
        hidden: width of the encoder's and the decoder's hidden layer.
        beta: final weight of the KL term.
        anneal: share of training over which the weight rises linearly from 0 to ``beta``. The paper's ML-20M run
            reaches its cap after 40,000 of 46,800 updates: 0.85.
        dropout: share of a user's clicks hidden from the encoder at each update.
        likelihood: "multinomial", "bernoulli" or "n_choose_k" (chapter 3); or "gaussian", which makes the model one
            of ratings: squared error on the observed entries.
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

    slug = "mult-vae"
    about = "multinomial likelihood, Gaussian posterior, annealed beta (Liang et al. 2018)"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        hidden: int = 600,
        beta: float = 0.2,
        anneal: float = 0.85,
        dropout: float = 0.5,
        likelihood: Likelihood = "multinomial",
        lr: float = 1e-3,
        n_sampled: int | None = None,
        implicit_slim: int | None = None,
        slim_penalty: float = 100.0,
        slim_alpha: float = 1.0,
        slim_threshold: int = 30,
    ):
        super().__init__(n_items)
        self.use_likelihood(likelihood, n_sampled)
        self.encoder = GaussianEncoder(n_items, hidden, latent_dim, dropout)
        self.decoder = MLPDecoder(latent_dim, hidden, n_items)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        self.reset_layers()
        for layer in (self.encoder.posterior, self.decoder.hidden, self.decoder.output):
            init_linear(layer.weight, layer.bias)

    def reset_layers(self) -> None:
        """Draw every layer as it is by default, the linear ones in vain: all measured runs drew in this order."""
        reset_parts(self.encoder)
        reset_parts(self.decoder)

    def encode(self, batch: Batch, drop: bool = True) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2 of q(z|x), each (B, latent_dim); ``drop=False`` reads the whole input."""
        return self.encoder(batch, drop)

    def decode(self, z: Tensor) -> Tensor:
        """Return the logits eta, (B, n_items), for z (B, latent_dim)."""
        return self.decoder(z)

    def sample(self, batch: Batch, drop: bool = True) -> tuple[Tensor, Tensor]:
        """Return one z ~ q(z|x), (B, latent_dim), and the rate per latent dimension, (B, latent_dim), in nats."""
        mu, logvar = self.encode(batch, drop)
        return sample_gaussian(mu, logvar), gaussian_kl(mu, logvar, per_dimension=True)

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of distortion + beta rate, and its terms in nats per user."""
        z, rate = self.sample(batch)
        distortion, rate = -self.log_prob(z, batch).mean(), rate.sum(-1).mean()
        beta = linear_annealing(progress, self.config["beta"], self.config["anneal"])
        return distortion + beta * rate, {"distortion": distortion, "rate": rate, "beta": beta}

    def phases(self) -> list[Phase]:
        """One phase over all weights."""
        return [Phase("all", list(self.parameters()), self.loss, lr=self.config["lr"])]

    @torch.no_grad()
    def elbo_terms(self, interactions: Interactions, seed: int = 0, batch_size: int = 500) -> dict[str, Tensor]:
        """Return the ELBO's two sides over users, without dropout and with one sample of z per user.

        ``distortion`` mean of -log p(x|z), nats · ``rate`` (latent_dim,) mean KL of each latent dimension, nats.
        """
        device = self.device
        interactions = interactions.to(device)
        distortion, rate = 0.0, 0.0
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            for batch in interactions.batches(batch_size):
                z, rates = self.sample(batch, drop=False)
                distortion = distortion - self.log_prob(z, batch).sum()
                rate = rate + rates.sum(0)
        return {"distortion": distortion / interactions.n_users, "rate": rate / interactions.n_users}

    def scores(self, batch: Batch) -> Tensor:
        """Return the logits at the posterior mean, (B, n_items)."""
        return self.likelihood.on_scale(self.decode(self.encode(batch)[0]), batch)


class MultDAE(LikelihoodModel):
    """I-200-I denoising autoencoder with tanh code and multinomial likelihood.

    Args:
        n_items: number of items.
        latent_dim: width of the code.
        dropout: share of a user's clicks hidden from the encoder at each update.
        penalty: lambda of the penalty lambda ||W||^2 added to the mean loss; the public code has 0.01 / 500. It is
            applied as Adam's coupled weight decay 2 lambda, which has the same gradient.
        likelihood: "multinomial", "bernoulli" or "n_choose_k"; or "gaussian", which makes the model one of ratings.
        lr: Adam's learning rate.
        n_sampled: items drawn at each update to estimate the multinomial's normaliser, for very large catalogues; None:
            all items, exactly.
    """

    slug = "mult-dae"
    about = "multinomial denoising autoencoder with a weight penalty (Liang et al. 2018)"
    descends = "mult-vae"
    changes = "a point for the cloud"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        dropout: float = 0.5,
        penalty: float = 0.01 / 500,
        likelihood: Likelihood = "multinomial",
        lr: float = 1e-3,
        n_sampled: int | None = None,
    ):
        super().__init__(n_items)
        self.use_likelihood(likelihood, n_sampled)
        self.input = SparseInput(n_items, latent_dim, dropout)
        self.output = ItemLayer(latent_dim, n_items)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        super().reset_parameters()
        init_linear(self.output.weight, self.output.bias)

    def encode(self, batch: Batch) -> Tensor:
        """Return the codes, (B, latent_dim)."""
        return torch.tanh(self.input(batch))

    def scores(self, batch: Batch) -> Tensor:
        """Return the logits, or predicted ratings, (B, n_items)."""
        return self.likelihood.on_scale(self.output(self.encode(batch)), batch)

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of -log p(x | code of x); the weight penalty acts in the optimiser."""
        distortion = -self.likelihood.through(self.output, self.encode(batch), batch).mean()
        return distortion, {"distortion": distortion}

    def phases(self) -> list[Phase]:
        """One phase; weights are penalised, biases are not."""
        return [Phase("all", penalised(self.parameters(), self.config["penalty"]), self.loss, lr=self.config["lr"])]
