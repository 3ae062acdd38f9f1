"""Columns of a table: found by their names, and turned into what a rating log keeps, or refused.

A column is held as its distinct values and, for every row, its place among them: a value is checked once, and the
first row that holds a bad one is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError

LARGEST_RATING = float(np.finfo(np.float32).max)

_NAMES = {  # what a column may be called, in the order of preference
    "user": ("user", "user_id", "userid", "uid"),
    "item": ("item", "item_id", "itemid", "iid", "movieid", "movie_id", "song", "song_id", "product_id"),
    "rating": ("rating", "score", "value", "stars"),
    "timestamp": ("timestamp", "time", "ts"),
    "is_test": ("is_test",),
    "title": ("title",),
}
_PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,19}")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_TRUTH = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


class Column(NamedTuple):
    """``name`` in the source · ``codes`` (n,) place in ``values`` of every row, -1 where missing · ``values`` (m,).

    ``codes`` is None where ``values`` stand row by row.
    """

    name: str
    codes: np.ndarray | None
    values: np.ndarray

    @classmethod
    def of(cls, name: str, entries: np.ndarray | pd.Series, *, each: bool = False) -> Column:
        """Return the column of the (n,) ``entries``, of any type of NumPy or pandas.

        With ``each``, numbers stand one by one: nearly all timestamps are distinct, and ratings need no coding.
        """
        if each and isinstance(entries.dtype, np.dtype) and entries.dtype.kind in "iuf":
            return cls(name, None, np.asarray(entries))
        try:
            codes, values = pd.factorize(entries)
        except (TypeError, ValueError):  # lists, records: no ids or numbers, and refused as such
            codes, values = np.arange(len(entries)), entries
        return cls(name, narrow(codes), _plain(values))

    def first_row(self, code: int) -> int:
        """Return the first row that holds value number ``code``."""
        return code if self.codes is None else int(np.argmax(self.codes == code))


@dataclass(frozen=True)
class Table:
    """What a source holds, before any of it is checked.

    ``source`` what messages call it · ``columns`` user, item and, where there are any, rating, timestamp, is_test,
    title · ``labels`` the names of all its columns · ``place`` what messages call the row with a number (from 0) ·
    ``asked`` the columns that were asked for by a name · ``untyped`` is every value text, so that plain whole numbers
    among the ids are meant as such?
    """

    source: str
    columns: dict[str, Column]
    labels: Sequence[Hashable] = ()
    place: Callable[[int], str] = lambda at: f"row {at + 1}"
    asked: frozenset[str] = frozenset()
    untyped: bool = False


class RefusedError(Exception):
    """Value number ``code`` cannot stand in its column."""

    def __init__(self, code: int, reason: str):
        super().__init__(reason)
        self.code = code


def narrow(numbers: np.ndarray) -> np.ndarray:
    """Return whole numbers in half the bytes, as int32, where all of them fit."""
    if len(numbers) and -(2**31) <= numbers.min() and numbers.max() < 2**31:
        return numbers.astype(np.int32, copy=False)
    return numbers


def _plain(values: Any) -> np.ndarray:
    """Return values as NumPy's own whole numbers, numbers or truths, if all of them are; no value is missing."""
    array = np.asarray(values)
    if array.dtype.kind != "O":
        return array
    found = {"integer": (np.int64, np.uint64), "floating": (np.float64,), "boolean": (bool,)}
    for kind in found.get(pd.api.types.infer_dtype(array, skipna=False), ()):
        try:
            return array.astype(kind)
        except OverflowError:
            continue
    return array


def _shown(value: Any) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    return " ".join(repr(value).split())[:40]


def find_columns(
    source: str,
    labels: Sequence[Hashable],
    given: Mapping[str, Hashable] | None = None,
    needed: tuple[str, ...] = ("user", "item"),
) -> dict[str, int]:
    """Return the place among ``labels`` of each column that is there, by ``given`` names or else the usual ones.

    Raises:
        DataError: one of ``needed`` or ``given`` is not there, or more than once, or is given for two columns.
    """
    given = given or {}
    lower = [str(label).strip().lower() for label in labels]
    shown, found = [str(label) for label in labels[:8]], {}
    for column, name in given.items():
        places = [at for at, label in enumerate(labels) if name in (label, str(label).strip())]
        if not places:
            raise DataError(f"{source}: no column {name!r} to read as the {column} among {shown}")
        if len(places) > 1:
            raise DataError(f"{source}: two columns are called {name!r}. Rename or remove one of them")
        if places[0] in found.values():
            raise DataError(f"{source}: column {name!r} is given twice: name one column for each of {', '.join(given)}")
        found[column] = places[0]
    taken = set(found.values())
    for column in (column for column in _NAMES if column not in given):
        free = [name if at not in taken else None for at, name in enumerate(lower)]
        name = next((name for name in _NAMES[column] if name in free), None)
        if name is None and column in needed:
            raise DataError(
                f"{source}: no column {column!r} among {shown}. Name the columns {', '.join(needed)} and, if there are "
                "ratings, rating; or say which of them is which"
            )
        if free.count(name) > 1 and name is not None:
            raise DataError(f"{source}: two columns are called {name!r}. Rename or remove one of them")
        if name is not None:
            found[column] = free.index(name)
    return found


def as_ids(values: np.ndarray, *, untyped: bool) -> np.ndarray:
    """Return ids as integers or text; of an ``untyped`` file integers only if all are plain ("7", not "07").

    Raises:
        RefusedError: an id is neither a whole number nor text.
    """
    if values.dtype.kind in "iu":
        return values
    if values.dtype.kind == "f":
        bad = ~((np.abs(values) < 2.0**53) & (values == np.floor(values)))
        if bad.any():
            at = int(np.argmax(bad))
            raise RefusedError(at, f"is {_shown(values[at])}, not a whole number: write ids as integers or text")
        return values.astype(np.int64)
    ids = []
    for at, value in enumerate(values.tolist() if values.dtype.kind == "O" else values[:1]):
        try:
            text = (value.decode() if isinstance(value, bytes) else value).strip()
            text.encode()
        except (AttributeError, UnicodeError) as error:
            reason = f"is {_shown(value)}, neither a whole number nor text"
            if isinstance(value, int) and not isinstance(value, bool):
                reason = f"is {_shown(value)}, but other ids there are not whole numbers: make all of them text"
            raise RefusedError(at, reason) from error
        if not text:
            raise RefusedError(at, "is missing")
        ids.append(text)
    if untyped and all(map(_PLAIN_INTEGER.fullmatch, ids)):
        for kind in (np.int64, np.uint64):
            try:
                return np.array([int(text) for text in ids], dtype=kind)
            except OverflowError:
                continue
    return np.array(ids, dtype=object)


def as_number(value: Any) -> float:
    """Return a number, or one written down as text; nan for anything else."""
    try:
        return float(value) if not isinstance(value, str) or _NUMBER.fullmatch(value.strip()) else np.nan
    except (TypeError, ValueError, OverflowError):
        return np.nan


def as_ratings(values: np.ndarray) -> np.ndarray:
    """Return ratings in single precision.

    Raises:
        RefusedError: one is no finite number of single precision.
    """
    if values.dtype.kind in "biuf":
        numbers = values.astype(np.float64, copy=False)
    else:
        numbers = np.array([as_number(value) for value in values.tolist()], dtype=np.float64)
    bad = ~np.isfinite(numbers)
    if bad.any():
        at = int(np.argmax(bad))
        raise RefusedError(at, f"is missing or not a number: {_shown(values[at])}")
    if (np.abs(numbers) > LARGEST_RATING).any():
        at = int(np.argmax(np.abs(numbers)))
        raise RefusedError(at, f"is {_shown(values[at])}, beyond the largest number in single precision")
    return numbers.astype(np.float32)


def as_truths(values: np.ndarray) -> np.ndarray:
    """Return 0 or 1, true or false as truths; any other text would be true to NumPy.

    Raises:
        RefusedError: a value is something else.
    """
    truths = [_TRUTH.get(str(value).strip().lower()) for value in values.tolist()]
    if None in truths:
        at = truths.index(None)
        raise RefusedError(at, f"is {_shown(values[at])}: only 0 or 1, true or false are understood")
    return np.array(truths, dtype=bool)


def as_seconds(values: np.ndarray) -> np.ndarray:
    """Return numbers as they are and ISO dates as seconds since 1970 (UTC where no zone is given).

    Raises:
        RefusedError: a value is neither.
    """
    known = np.zeros(len(values), dtype=bool)
    if values.dtype.kind in "biufO":
        numbers = pd.to_numeric(values, errors="coerce")
        known = np.abs(numbers.astype(np.float64)) < 2.0**63
        if known.all():
            return numbers.astype(np.int64)
    if values.dtype.kind not in "OM":
        at = int(np.argmin(known))
        raise RefusedError(at, f"is {_shown(values[at])}")
    form = None if values.dtype.kind == "M" else "ISO8601"
    dates = pd.DatetimeIndex(pd.to_datetime(values, format=form, utc=True, errors="coerce"))
    if dates.isna().any():
        unknown = dates.isna() & ~known
        at = int(np.argmax(unknown if unknown.any() else dates.isna()))
        raise RefusedError(at, f"is {_shown(values[at])}")
    return dates.tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)


def as_titles(values: np.ndarray) -> np.ndarray:
    """Return titles as text in one line, as lists of them are printed."""
    return np.array([" ".join(str(value).split()) for value in values.tolist()], dtype=object)


def read_column(column: str, found: Column) -> np.ndarray:
    """Return the (n,) ratings as float32, timestamps as int64 or ``is_test`` as bool.

    Raises:
        RefusedError: a value is missing, or cannot stand in this column.
    """
    if found.codes is not None and (found.codes < 0).any():
        raise RefusedError(-1, "is missing" + (" or not a number" if column == "rating" else ""))
    values = {"rating": as_ratings, "timestamp": as_seconds, "is_test": as_truths}[column](found.values)
    return values if found.codes is None else values[found.codes]
