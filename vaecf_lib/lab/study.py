"""What a study is: data, a protocol and rows, each a system with its options."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ConfigError
from ..evaluation import parse_metric
from ..experiment import assign_settings

Options = dict[str, Any]


def with_cut(protocol: str, cut: str | None) -> str:
    """Return a protocol with the cut of its ratings, if it has one: strong, ratings/80."""
    return protocol if cut is None else f"{protocol}/{cut}"


@dataclass(frozen=True)
class Row:
    """One row of a study: a ``system`` by its slug with its ``options``, and how it is split and trained.

    ``split`` and ``fit``: options of the split function and of :func:`vaecf_lib.fit`, beside the study's own ·
    ``epochs``, ``seeds``: None for the study's.
    """

    system: str
    options: Options = field(default_factory=dict)
    split: Options = field(default_factory=dict)
    fit: Options = field(default_factory=dict)
    epochs: int | None = None
    seeds: int | None = None

    def but(self, *, fit: Options | None = None, epochs: int | None = None, **options: Any) -> Row:
        """Return the row with some of its options, its training or its epochs changed."""
        epochs = self.epochs if epochs is None else epochs
        return replace(self, options=self.options | options, fit=self.fit | (fit or {}), epochs=epochs)


@dataclass(frozen=True)
class Study:
    """Systems to be run alike, under one protocol on some data sets.

    ``protocol``: strong, weak or ratings · ``data``: each data set's options of the split · ``rows``: by their labels ·
    ``cut``: a name for how ratings are cut, for results of one cut are never compared with those of another ·
    ``epochs``: None leaves them to the command · ``metrics``: None for the protocol's ·
    ``seeds``: how many runs each row has, with seeds 0, 1, …: the ledger finds fault with rows that have fewer ·
    ``chosen``: rows that differ on a data set, because something else was chosen there, by data set and label.

    Raises:
        ConfigError: a row's system or one of its options is unknown, stands in the wrong place or is out of range, or
            ``chosen`` names a data set or label that the study does not have, or a metric is unknown.
    """

    protocol: str
    data: dict[str, Options]
    rows: dict[str, Row]
    cut: str | None = None
    epochs: int | None = None
    batch_size: int = 500
    metrics: tuple[str, ...] | None = None
    seeds: int = 3
    chosen: dict[str, dict[str, Row]] = field(default_factory=dict)

    def __post_init__(self):
        for metric in self.metrics or ():
            parse_metric(metric)
        for dataset, rows in self.chosen.items():
            if dataset not in self.data or not set(rows) <= set(self.rows):
                raise ConfigError(f"chosen: the study has no data set {dataset!r}, or not all of the rows chosen there")
        for dataset, split in self.data.items():
            for label, row in self.rows_on(dataset).items():
                parts = (split | row.split, row.options, row.fit)
                if assign_settings(self.settings(dataset, row), row.system, self.protocol) != parts:
                    raise ConfigError(f"{label}: an option stands in the wrong place, among split, model and training")

    @property
    def full_protocol(self) -> str:
        """The protocol with the cut of ratings, if there is one: strong, ratings/80."""
        return with_cut(self.protocol, self.cut)

    def rows_on(self, dataset: str) -> dict[str, Row]:
        """Return the rows by their labels, as they were chosen on a data set."""
        return self.rows | self.chosen.get(dataset, {})

    def settings(self, dataset: str, row: Row) -> Options:
        """Return the options of a row's split, model and training as one, which is how ``vaecf fit --set`` has them."""
        return self.data.get(dataset, {}) | row.split | row.options | row.fit
