"""The option ``implicit_slim`` of systems with item tables: Shenbin and Nikolenko (ICLR 2024)."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from ..data import Interactions
from ..errors import ConfigError
from ..maths import implicit_slim
from ..nn import times_gram
from .likelihood import LikelihoodModel


class ItemTableModel(LikelihoodModel):
    """A system with ``encoder.input`` and ``decoder.output``, one row of weights an item, which may be renewed.

    With the option ``implicit_slim`` both tables are replaced by their ImplicitSLIM form before every so-manyth epoch;
    the optimiser keeps its moments, as in the public code. Of ratings it reads who rated what, not how.
    """

    def item_tables(self) -> list[nn.Parameter]:
        """Return the tables, each (n_items, width)."""
        return [self.encoder.input.weight, self.decoder.output.weight]

    def prepare(self, train: Interactions) -> None:
        """Note what the likelihood needs, and check that some item is popular enough.

        Raises:
            ConfigError: none has ``slim_threshold`` users, and the tables are to be renewed; or the interactions do not
                suit the likelihood.
        """
        super().prepare(train)
        most, threshold = int(train.item_counts.max()), self.config["slim_threshold"]
        if self.config["implicit_slim"] is not None and most < threshold:
            raise ConfigError(
                f"{self.slug}: slim_threshold={threshold}: no item has so many users, the most popular one {most}: "
                "lower it"
            )

    @torch.no_grad()
    def before_epoch(self, epoch: int, train: Interactions) -> None:
        """Renew the tables if it is their turn."""
        step = self.config["implicit_slim"]
        if step is None or epoch % step:
            return
        for table in self.item_tables():
            table.copy_(
                implicit_slim(
                    table,
                    partial(times_gram, train),
                    train.item_counts,
                    self.config["slim_penalty"],
                    self.config["slim_alpha"],
                    self.config["slim_threshold"],
                )
            )
