"""The option ``implicit_slim`` of systems with item tables: Shenbin and Nikolenko (ICLR 2024)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Interactions
from ..errors import ConfigError
from ..maths import implicit_slim
from ..nn import times_gram
from .likelihood import LikelihoodModel


def check_threshold(slug: str, options: dict[str, Any], train: Interactions) -> None:
    """Refuse to renew tables from no item at all.

    Raises:
        ConfigError: no item has ``slim_threshold`` users, and ``implicit_slim`` is not None.
    """
    most, threshold = int(train.item_counts.max()), options["slim_threshold"]
    if options["implicit_slim"] is not None and most < threshold:
        raise ConfigError(
            f"{slug}: slim_threshold={threshold}: no item has so many users, the most popular one {most}: lower it"
        )


@torch.no_grad()
def renew(tables: list[Tensor], options: dict[str, Any], turn: int, train: Interactions) -> None:
    """Replace the tables, each (n_items, width), by their ImplicitSLIM form if ``turn``, from 1, is a turn for it."""
    if options["implicit_slim"] is None or turn % options["implicit_slim"]:
        return
    times, counts = partial(times_gram, train), train.item_counts
    for table in tables:
        table.copy_(
            implicit_slim(
                table, times, counts, options["slim_penalty"], options["slim_alpha"], options["slim_threshold"]
            )
        )


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
        check_threshold(self.slug, self.config, train)

    def before_epoch(self, epoch: int, train: Interactions) -> None:
        """Renew the tables if it is their turn."""
        renew(self.item_tables(), self.config, epoch, train)
