"""What all systems with a choice of likelihood share."""

from __future__ import annotations

import torch

from ..data import Interactions
from ..errors import ConfigError
from ..maths import LIKELIHOODS, rating_log_prob
from .base import Model
from .ratings import check_ratings, row_means


class LikelihoodModel(Model):
    """A decoder ``self.output`` whose logits go into a likelihood: of clicks, or "gaussian", of ratings.

    Subclasses call :meth:`use_likelihood` in their constructor and score clicks by ``self.log_prob``.
    """

    def use_likelihood(self, name: str) -> None:
        """Take the log-probability function called ``name``.

        Raises:
            ConfigError: there is none.
        """
        known = LIKELIHOODS | {"gaussian": rating_log_prob}
        if name not in known:
            raise ConfigError(f"likelihood={name!r}: choose one of {', '.join(known)}")
        self.likelihood, self.log_prob, self.rates = name, known[name], name == "gaussian"

    def prepare(self, train: Interactions) -> None:
        """Check that the interactions suit the likelihood.

        Raises:
            ConfigError: ratings, and the likelihood is one of yes or no; or clicks, and it is "gaussian".
        """
        if self.rates:
            check_ratings(train)
        elif train.values is not None and self.likelihood != "multinomial":
            raise ConfigError(
                f"likelihood={self.likelihood!r} is a model of clicks, not of ratings: use the strong or weak protocol"
            )

    def start(self, train: Interactions) -> None:
        """Let the decoder's bias start at the items' mean ratings, if this is a model of ratings."""
        if self.rates:
            with torch.no_grad():
                self.output.bias.copy_(row_means(train.transposed()))
