"""What a log holds and how it would be split, before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import ConfigError, counted
from .interactions import Interactions
from .ratings import RatingLog, Reading
from .splits import Split

_ACTIVITY = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # where the bins of the histogram begin


@dataclass(frozen=True)
class PartSize:
    """Users and items with an interaction in a part of a split, and the number of interactions: targets, if held out.

    ``users_without_targets`` held-out users that have nothing to be found; None for the training part.
    """

    users: int
    items: int
    interactions: int
    users_without_targets: int | None = None

    @classmethod
    def of(cls, part: Interactions, without: int | None = None) -> PartSize:
        """Count ``part``."""
        return cls(int((part.counts > 0).sum()), int((part.item_counts > 0).sum()), part.nnz, without)


@dataclass(frozen=True)
class SplitReport:
    """What a protocol makes of a log: ``refused`` says why it cannot be used, and the sizes are None then.

    ``kept`` what its threshold and min_items leave · ``train``, ``valid``, ``test`` sizes, None where there is no such
    part · ``warnings`` that come with it.
    """

    refused: str | None = None
    kept: str | None = None
    train: PartSize | None = None
    valid: PartSize | None = None
    test: PartSize | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What :func:`check` found; ``str()`` says it in lines, :meth:`to_json` as JSON has it.

    ``reading`` rows read and left out, columns · ``user_ids``, ``item_ids`` "whole numbers" or "text" · ``density``
    share of all (user, item) pairs that are there · ``ratings`` (lowest, highest, number of distinct ones) ·
    ``dates`` first and last · ``published_test`` entries that the data mark as test · ``activity`` users by number of
    items, from "1" to "1000+" · ``splits`` by protocol · the last four None or empty where there is nothing of it.
    """

    name: str
    reading: Reading
    users: int
    items: int
    interactions: int
    density: float
    user_ids: str
    item_ids: str
    titles: bool
    ratings: tuple[float, float, int] | None
    dates: tuple[str, str] | None
    published_test: int | None
    activity: dict[str, int]
    splits: dict[str, SplitReport] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        reading, lines = self.reading, []
        dropped = "".join(f", {count:,} left out ({reason})" for reason, count in reading.left_out.items())
        lines.append(f"{self.name}: {counted(reading.rows, 'row')} read{dropped}")
        if reading.columns:
            unused = f"; not read: {', '.join(reading.unused)}" if reading.unused else ""
            lines.append(f"columns: {', '.join(f'{k} from {v!r}' for k, v in reading.columns.items())}{unused}")
        titles = ", with titles" if self.titles else ""
        lines.append(f"{counted(self.users, 'user')} (ids: {self.user_ids})")
        lines.append(f"{counted(self.items, 'item')} (ids: {self.item_ids}){titles}")
        lines.append(f"{counted(self.interactions, 'interaction')}, {100 * self.density:.3g} % of all pairs")
        if self.ratings is None:
            lines.append("no ratings: clicks")
        else:
            low, high, distinct = self.ratings
            lines.append(f"ratings from {low:g} to {high:g}, {counted(distinct, 'distinct value')}")
        lines.append("no timestamps" if self.dates is None else f"timestamps from {self.dates[0]} to {self.dates[1]}")
        if self.published_test is not None:
            lines.append(f"is_test marks {counted(self.published_test, 'interaction')}")
        lines += ["", "items of a user   users"]
        widest = max(self.activity.values())
        for label, count in self.activity.items():
            lines.append(f"{label:>15s} {count:7,} {'#' * -(-40 * count // widest)}".rstrip())
        for protocol, split in self.splits.items():
            lines += ["", f"{protocol}: {split.refused or split.kept or 'everything is kept'}"]
            for name, part in (("train", split.train), ("validation", split.valid), ("test", split.test)):
                if part is not None:
                    none = part.users_without_targets
                    aside = f" ({counted(none, 'user')} without any)" if none else ""
                    lines.append(
                        f"  {name:11s}{counted(part.users, 'user'):>15s} {counted(part.items, 'item'):>15s} "
                        f"{counted(part.interactions, 'interaction'):>24s}{aside}"
                    )
        said = [*reading.warnings, *(note for split in self.splits.values() for note in split.warnings)]
        return "\n".join(lines + [""] * bool(said) + [f"warning: {note}" for note in dict.fromkeys(said)])


def _kind(ids: np.ndarray) -> str:
    return "whole numbers" if ids.dtype.kind in "iu" else "text"


def _date(seconds: int) -> str:
    """Return a timestamp as a date, if it can be seconds since 1970; else the number."""
    if not 0 <= seconds < 2**33:  # up to the year 2242; beyond are milliseconds
        return f"{seconds}"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _activity(log: RatingLog) -> dict[str, int]:
    """Count the users by their number of items; bins beyond the most active user are left out."""
    counts = np.bincount(log.user, minlength=log.n_users)
    edges = [start for start in _ACTIVITY if start <= counts.max()]
    labels = [f"{a}-{b - 1}" if b - 1 > a else f"{a}" for a, b in pairwise(_ACTIVITY)]
    labels.append(f"{_ACTIVITY[-1]}+")
    users = np.histogram(counts, [*edges, np.inf])[0]
    return dict(zip(labels[: len(edges)], users.tolist(), strict=True))


def _try(cut: Callable[[RatingLog], Split], log: RatingLog) -> SplitReport:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            split = cut(log)
        except ConfigError as error:
            return SplitReport(refused=str(error))
    valid, test = (
        None if part is None else PartSize.of(part.targets, part.n_without_targets)
        for part in (split.valid, split.test)
    )
    return SplitReport(
        kept=None if split.kept is None else str(split.kept),
        train=PartSize.of(split.train),
        valid=valid,
        test=test,
        warnings=tuple(str(warning.message) for warning in caught),
    )


def check(log: RatingLog, cuts: Mapping[str, Callable[[RatingLog], Split]] | None = None) -> Report:
    """Report what ``log`` holds and what each of ``cuts``, by protocol, makes of it: the splits are really cut.

    A protocol that refuses the log is reported with its reason; nothing is printed or warned.
    """
    ratings = None
    if log.rating is not None:
        ratings = (float(log.rating.min()), float(log.rating.max()), len(np.unique(log.rating)))
    dates = None
    if log.timestamp is not None:
        dates = (_date(int(log.timestamp.min())), _date(int(log.timestamp.max())))
    return Report(
        name=log.name,
        reading=log.reading or Reading(len(log)),
        users=log.n_users,
        items=log.n_items,
        interactions=len(log),
        density=len(log) / (log.n_users * log.n_items),
        user_ids=_kind(log.user_ids),
        item_ids=_kind(log.item_ids),
        titles=log.titles is not None,
        ratings=ratings,
        dates=dates,
        published_test=None if log.is_test is None else int(log.is_test.sum()),
        activity=_activity(log),
        splits={protocol: _try(cut, log) for protocol, cut in (cuts or {}).items()},
    )
