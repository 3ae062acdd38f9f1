"""What all systems with a choice of likelihood share."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ..data import Batch, Interactions
from ..errors import ConfigError
from ..maths import LIKELIHOODS
from .base import Model
from .ratings import Ratings

ClickLikelihood = Literal["multinomial", "bernoulli", "n_choose_k"]
Likelihood = Literal["multinomial", "bernoulli", "n_choose_k", "gaussian"]


class Clicks(nn.Module):
    """The click form of a system: its logits go into the likelihood called ``name``, and rank as they are."""

    def __init__(self, name: ClickLikelihood):
        super().__init__()
        self.name, self.log_prob = name, LIKELIHOODS[name]

    def prepare(self, train: Interactions) -> None:
        """Check that the interactions suit the likelihood.

        Raises:
            ConfigError: ratings, and the likelihood is one of yes or no.
        """
        if train.values is not None and self.name != "multinomial":
            raise ConfigError(
                f"likelihood={self.name!r} is a model of clicks, not of ratings: use the strong or weak protocol, or "
                "time or leave-one-out with ratings=false"
            )

    def on_scale(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the logits, (B, n_items)."""
        return logits


class LikelihoodModel(Model):
    """A system whose decoder's output goes into a likelihood: of clicks, or "gaussian", of ratings.

    ``self.likelihood`` has ``log_prob(logits, batch)``, (B,), and ``on_scale(logits, batch)``, the scores (B, n_items);
    constructors choose it by :meth:`use_likelihood`.
    """

    def use_likelihood(self, name: Likelihood) -> None:
        """Take the likelihood called ``name``."""
        self.rates = name == "gaussian"
        self.likelihood = Ratings(self.n_items) if self.rates else Clicks(name)

    def prepare(self, train: Interactions) -> None:
        """Note what the likelihood needs of the interactions.

        Raises:
            ConfigError: they are ratings, and the likelihood is one of yes or no; or clicks, and it is "gaussian".
        """
        self.likelihood.prepare(train)
