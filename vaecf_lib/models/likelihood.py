"""What all systems with a choice of likelihood share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..data import Batch, Interactions
from ..errors import ConfigError
from ..maths import LIKELIHOODS
from ..nn import ItemLayer
from .base import Model
from .ratings import Ratings

ClickLikelihood = Literal["multinomial", "bernoulli", "n_choose_k"]
Likelihood = Literal["multinomial", "bernoulli", "n_choose_k", "gaussian"]
MOST_DRAWN_FROM = 2**24  # items: torch.multinomial's limit


class Clicks(nn.Module):
    """The click form of a system: its logits go into the likelihood called ``name``, and rank as they are."""

    chances: Tensor

    def __init__(self, name: ClickLikelihood, n_items: int, n_sampled: int | None = None):
        super().__init__()
        self.name, self.log_prob, self.n_sampled = name, LIKELIHOODS[name], n_sampled
        if n_sampled is not None:
            self.register_buffer("chances", torch.ones(n_items))

    def prepare(self, train: Interactions) -> None:
        """Check that the interactions suit the likelihood; note how popular the items are, to draw some of them.

        Raises:
            ConfigError: ratings, and the likelihood is one of yes or no.
        """
        if train.values is not None and self.name != "multinomial":
            raise ConfigError(
                f"likelihood={self.name!r} is a model of clicks, not of ratings: use the strong or weak protocol, or "
                "time or leave-one-out with ratings=false"
            )
        if self.n_sampled is not None:
            self.chances.copy_(train.item_counts + 1)

    def through(self, output: ItemLayer, h: Tensor, batch: Batch, frozen: bool = False) -> Tensor:
        """Return log p(x | logits of the layer for h), (B,), h (B, d); ``frozen`` takes its weights as constants.

        In training it is an estimate if only some items are to be drawn.
        """
        if self.n_sampled is not None and self.training:
            return output.sampled_log_prob(h, batch, self.chances, self.n_sampled, frozen)
        return output.log_prob(h, batch, self.name, frozen)

    def on_scale(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the logits, (B, n_items)."""
        return logits


class LikelihoodModel(Model):
    """A system whose decoder's output goes into a likelihood: of clicks, or "gaussian", of ratings.

    ``self.likelihood`` has ``log_prob(logits, batch)``, (B,), the same ``through`` a layer that gives the logits, and
    ``on_scale(logits, batch)``, the scores (B, n_items); constructors choose it by :meth:`use_likelihood`.
    """

    def use_likelihood(self, name: Likelihood, n_sampled: int | None = None) -> None:
        """Take the likelihood called ``name``; in training, draw ``n_sampled`` items for the multinomial's normaliser.

        Raises:
            ConfigError: items are to be drawn for another likelihood.
        """
        self.rates = name == "gaussian"
        if name != "multinomial" and n_sampled is not None:
            raise ConfigError(f"n_sampled={n_sampled} is for likelihood='multinomial', not {name!r}: leave it out")
        if n_sampled is not None and self.n_items > MOST_DRAWN_FROM:
            raise ConfigError(
                f"n_sampled={n_sampled}: torch draws from at most {MOST_DRAWN_FROM:,} items: leave it out"
            )
        self.likelihood = Ratings(self.n_items) if self.rates else Clicks(name, self.n_items, n_sampled)

    def log_prob(self, z: Tensor, batch: Batch, frozen: bool = False) -> Tensor:
        """Return log p(x|z), (B,), for z (B, latent_dim); ``frozen`` takes the decoder's weights as constants."""
        return self.likelihood.through(self.decoder.output, self.decoder.features(z, frozen), batch, frozen)

    def prepare(self, train: Interactions) -> None:
        """Note what the likelihood needs of the interactions.

        Raises:
            ConfigError: they are ratings, and the likelihood is one of yes or no; or clicks, and it is "gaussian".
        """
        self.likelihood.prepare(train)
