"""What the systems share that score an item by the items somebody has: a matrix of weights between items."""

from __future__ import annotations

import time
from typing import ClassVar

import torch
from torch import Tensor

from ..data import Batch, Interactions
from ..errors import ConfigError
from ..models.base import Model

ITEMS_AT_ONCE = 8  # rows of the co-occurrences that are counted together: their users' items lie side by side
PAIRS_AT_ONCE = 2**22  # weights that are added up together in a batch's scores
SECONDS_PER_PAIR = 3e-8  # of two items of a user, on one core
WORTH_SAYING = (1e9, 10.0)  # bytes and seconds


def co_occurrences(train: Interactions, by_item: Interactions, items: range) -> Tensor:
    """Return how many users have both, (len(items), n_items): the rows ``items`` of X^T X for clicks X.

    ``by_item`` is ``train`` transposed. Costs one step for each pair of items that a user has, and the memory of those
    of the rows' users; values are not read.
    """
    owners = by_item.rows(torch.arange(items.start, items.stop))
    theirs = train.rows(owners.items)
    places = owners.rows[theirs.rows] * train.n_items + theirs.items
    return torch.bincount(places, minlength=len(items) * train.n_items).view(len(items), -1)


def gram(train: Interactions, dtype: torch.dtype) -> Tensor:
    """Return X^T X for clicks X, (n_items, n_items)."""
    n, by_item = train.n_items, train.transposed()
    matrix = torch.empty(n, n, dtype=dtype, device=train.device)
    for start in range(0, n, ITEMS_AT_ONCE):
        items = range(start, min(start + ITEMS_AT_ONCE, n))
        matrix[start : items.stop] = co_occurrences(train, by_item, items)
    return matrix


def seconds_of_gram(train: Interactions) -> float:
    """Return about how long :func:`gram` takes, on a CPU."""
    return SECONDS_PER_PAIR * float(train.counts.double().square().sum())


def product_rate(device: torch.device, dtype: torch.dtype, n: int = 1024) -> float:
    """Return FLOPs per second in a product of n x n matrices, tried once."""
    a = torch.ones(n, n, dtype=dtype, device=device)
    float((a @ a)[0, 0])  # the first on a GPU also loads the library
    started = time.perf_counter()
    float((a @ a)[0, 0])
    return 2 * n**3 / (time.perf_counter() - started)


def said(slug: str, n_items: int, n_bytes: float, seconds: float, more: str = "") -> str | None:
    """Return in a line what solving takes, if it is worth saying."""
    if n_bytes < WORTH_SAYING[0] and seconds < WORTH_SAYING[1]:
        return None
    time_ = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    return f"{slug}: a matrix of {n_items:,} x {n_items:,} items, {n_bytes / 1e9:.1f} GB, about {time_}{more}"


class ItemItemModel(Model):
    """A system of weights between items, which is solved from the training data in one go.

    Ratings are not read: all items that somebody has count alike. ``tables`` names the buffers whose sizes depend on
    the data, empty until then; ``bytes_needed`` says how many :meth:`start` takes, which are refused where they are
    more than the option ``memory_gb``.
    """

    reads_values: ClassVar[bool] = False
    tables: ClassVar[tuple[str, ...]]

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        """Make room for tables of the sizes that are to be loaded."""
        for name in self.tables:
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=self.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def bytes_needed(self) -> int:
        """Return the memory for all arrays of the solver together, at their most."""
        raise TypeError(f"{type(self).__name__} does not implement bytes_needed()")

    def check_memory(self) -> None:
        """Refuse a catalogue that is too large.

        Raises:
            ConfigError: the solver needs more than ``memory_gb``.
        """
        need, limit = self.bytes_needed() / 1e9, self.config["memory_gb"]
        if need > limit:
            raise ConfigError(
                f"{self.slug} needs {need:.3g} GB for {self.n_items:,} items, more than memory_gb={limit:g}: raise it "
                "if there is as much, keep fewer items, or use itemknn or wmf"
            )

    def check_solved(self) -> None:
        """Refuse to score before there is anything to score by.

        Raises:
            ConfigError: the system was never fitted.
        """
        if getattr(self, self.tables[0]).numel() == 0:
            raise ConfigError(f"this {self.slug} was never trained: call fit first")


class SparseItemItemModel(ItemItemModel):
    """Weights between items of which most are zero, kept as CSR: a row is an item somebody has."""

    tables = ("indptr", "indices", "values")
    indptr: Tensor
    indices: Tensor
    values: Tensor

    def __init__(self, n_items: int):
        super().__init__(n_items)
        self.register_buffer("indptr", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("indices", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("values", torch.zeros(0))

    @property
    def weights(self) -> Interactions:
        """The weights, (n_items, n_items): row i what having item i adds to the scores of the others."""
        self.check_solved()
        return Interactions(self.indptr, self.indices, self.values, (self.n_items, self.n_items))

    def keep(self, had: list[Tensor], scored: list[Tensor], weights: list[Tensor]) -> None:
        """Keep the weights from items ``had`` to items ``scored``, each in parts (n,), in any order."""
        pairs = [torch.cat(parts).cpu().numpy() for parts in (had, scored, weights)]
        matrix = Interactions.from_pairs(*pairs, shape=(self.n_items, self.n_items)).to(self.device)
        self.indptr, self.indices, self.values = matrix.indptr, matrix.indices, matrix.values

    def item_vectors(self) -> Tensor:
        """Return for each item the weights that it is scored by, (n_items, n_items): alike items have alike ones."""
        return self.weights.rows(torch.arange(self.n_items)).dense().T

    def scores(self, batch: Batch) -> Tensor:
        """Return the sums of the weights from what the users have, (B, n_items)."""
        weights = self.weights
        scores = torch.zeros(len(batch) * self.n_items, device=self.device)
        at_once = max(1, PAIRS_AT_ONCE * self.n_items // max(1, weights.nnz))
        for rows, items in zip(batch.rows.split(at_once), batch.items.split(at_once), strict=True):
            found = weights.rows(items)
            scores.index_add_(0, rows[found.rows] * self.n_items + found.items, found.values)
        return scores.view(len(batch), self.n_items)
