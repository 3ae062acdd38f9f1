"""What all systems with a choice of likelihood share."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..data import Batch, Interactions
from ..errors import ConfigError
from ..maths import LIKELIHOODS, rating_log_prob
from .base import Model
from .ratings import Offsets, check_ratings

ClickLikelihood = Literal["multinomial", "bernoulli", "n_choose_k"]
Likelihood = Literal["multinomial", "bernoulli", "n_choose_k", "gaussian"]


class LikelihoodModel(Model):
    """A decoder ``self.output`` whose logits go into a likelihood: of clicks, or "gaussian", of ratings.

    Subclasses call :meth:`use_likelihood` in their constructor and score clicks by ``self.log_prob``. For ratings they
    score with :meth:`on_scale`: the decoder models what is left beyond the users' and items' means.
    """

    def use_likelihood(self, name: Likelihood) -> None:
        """Take the log-probability function called ``name``."""
        self.likelihood, self.rates = name, name == "gaussian"
        self.log_prob = self._rating_log_prob if self.rates else LIKELIHOODS[name]
        if self.rates:
            self.offsets = Offsets(self.n_items)

    def _rating_log_prob(self, predictions: Tensor, batch: Batch) -> Tensor:
        return rating_log_prob(predictions, self.offsets.centred(batch))

    def on_scale(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return scores (B, n_items): the logits themselves, or ratings on their own scale."""
        return self.offsets(batch) + logits if self.rates else logits

    def prepare(self, train: Interactions) -> None:
        """Check that the interactions suit the likelihood.

        Raises:
            ConfigError: ratings, and the likelihood is one of yes or no; or clicks, and it is "gaussian".
        """
        if self.rates:
            check_ratings(train)
            self.offsets.take(train)
        elif train.values is not None and self.likelihood != "multinomial":
            raise ConfigError(
                f"likelihood={self.likelihood!r} is a model of clicks, not of ratings: use the strong or weak protocol"
            )
