"""What the systems share that know the users they were trained on."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..data import Batch, Interactions
from ..errors import ConfigError
from .base import Model


class UserModel(Model):
    """A system that knows the users it was trained on, by their row, and no others.

    Its weights depend on the number of users: it is ``n_users`` of its config, taken from the training data at
    the first :meth:`prepare`, which calls :meth:`build` then.
    """

    needs: ClassVar[str] = "user"

    def __init__(self, n_items: int, n_users: int | None = None):
        super().__init__(n_items)
        if n_users is not None:
            self._build(n_users)

    def build(self, n_users: int) -> None:
        """Make all weights for ``n_users`` users; :meth:`reset_parameters` draws them."""
        raise TypeError(f"{type(self).__name__} does not implement build()")

    def _build(self, n_users: int) -> None:
        with torch.random.fork_rng(devices=[]):  # so that a first fit draws what a second one would
            self.build(n_users)
        self.reset_parameters()

    def prepare(self, train: Interactions) -> None:
        """Check the number of users; make the weights if there are none yet.

        Raises:
            ConfigError: the weights are for another number of users.
        """
        super().prepare(train)
        if self.config["n_users"] is None:
            self.config["n_users"] = train.n_users
            self._build(train.n_users)
            self.to(train.device)
        elif self.config["n_users"] != train.n_users:
            raise ConfigError(
                f"the model knows {self.config['n_users']} users, the data have {train.n_users}: build a new one"
            )

    def check_users(self, batch: Batch) -> Tensor:
        """Return the batch's users; -1, of somebody it was not trained on, only if the system needs "either".

        Raises:
            ConfigError: the model was never fitted, or a user is not among those it was trained on.
        """
        n_users, users = self.config["n_users"], batch.users
        first = -1 if self.needs == "either" else 0
        if n_users is None or bool(((users < first) | (users >= n_users)).any()):
            does = "rates" if self.rates else "scores"
            raise ConfigError(f"{self.slug} {does} only for the users it was trained on: fit it on data with them")
        return users
