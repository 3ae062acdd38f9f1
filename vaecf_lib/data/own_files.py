"""Your own interactions from ``.csv``, ``.tsv``, ``.parquet`` or ``.npz``: read as written, refused where unclear.

Each column is held as its distinct values and, for every row, its place among them: a value is checked once, and the
first row that holds a bad one is named.
"""

from __future__ import annotations

import csv
import re
import warnings
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import count, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError
from .ratings import LARGEST_RATING, RatingLog

_NAMES = {  # what a column may be called, in the order of preference
    "user": ("user", "user_id", "userid", "uid"),
    "item": ("item", "item_id", "itemid", "iid", "movieid", "movie_id", "song", "song_id", "product_id"),
    "rating": ("rating", "score", "value", "stars"),
    "timestamp": ("timestamp", "time", "ts"),
    "is_test": ("is_test",),
}
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,19}")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_TRUTH = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


class _Column(NamedTuple):
    """``name`` in the file · ``codes`` (n,) place in ``values`` of every row, -1 where missing · ``values`` (m,)."""

    name: str
    codes: np.ndarray
    values: np.ndarray


class _RefusedError(Exception):
    """Value number ``code`` cannot stand in its column."""

    def __init__(self, code: int, reason: str):
        super().__init__(reason)
        self.code = code


def _shown(value: Any) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    return " ".join(repr(value).split())[:40]


def _wanted(path: Path, names: list[str], needed: tuple[str, ...] = ("user", "item")) -> dict[str, str]:
    """Return the file's own name of each column that is there; refuse a file without those ``needed``."""
    lower = [str(name).strip().lower() for name in names]
    found = {}
    for column, synonyms in _NAMES.items():
        match = next((s for s in synonyms if s in lower), None)
        if match is not None:
            if lower.count(match) > 1:
                raise DataError(f"{path}: two columns are called {match!r}. Rename or remove one of them")
            found[column] = names[lower.index(match)]
        elif column in needed:
            raise DataError(
                f"{path}: no column {column!r} among {names[:8]}. "
                f"The first line must name the columns {', '.join(needed)} and, if there are ratings, rating"
            )
    return found


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line and fields of every record, the header first; refuse the first line that does not fit.

    Blank lines at the end are no matter.
    """
    n_columns = blank = None
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(handle, delimiter=separator, strict=True)
        try:
            start = 1
            for fields in reader:
                n_columns = n_columns or len(fields)
                if not fields:
                    blank = blank or start
                elif blank:
                    raise DataError(f"{path}, line {blank}: the line is blank. Remove it")
                elif len(fields) != n_columns:
                    raise DataError(
                        f"{path}, line {start}: {len(fields)} fields, but the first line names {n_columns} columns. "
                        f"Repair that line; a field that contains {separator!r} stands in quotes"
                    )
                else:
                    yield start, fields
                start = reader.line_num + 1
        except UnicodeDecodeError as error:
            line = next(n for n, text in enumerate(path.read_bytes().split(b"\n"), 1) if not _is_utf8(text))
            raise DataError(f"{path}, line {line}: not UTF-8 text. Save the file as UTF-8") from error
        except csv.Error as error:
            raise DataError(f"{path}, line {start}: quotes that do not match ({error}). Repair that line") from error


def _blocks(path: Path, separator: str, n_columns: int) -> Iterator[list[list[str]]]:
    """Yield the records below the header by the thousand: :func:`_records` in a hurry."""
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(handle, delimiter=separator, strict=True)
        next(reader)
        while block := list(islice(reader, 1000)):
            if set(map(len, block)) != {n_columns}:
                raise csv.Error("lines of different length")
            yield block


def _read_text(path: Path, separator: str) -> dict[str, _Column]:
    """Return the columns of a delimited file, every field as text without spaces around it."""
    _, header = next(_records(path, separator), (1, None))
    if header is None:
        raise DataError(f"{path}: cannot be read as {path.suffix}: the file is empty")
    wanted = _wanted(path, header)

    def coded(blocks: Iterable[list[list[str]]]) -> dict[str, _Column]:
        columns = {
            column: (header.index(name), defaultdict(count().__next__), array("q")) for column, name in wanted.items()
        }
        for block in blocks:
            for place, code_of, codes in columns.values():
                codes.extend(map(code_of.__getitem__, map(str.strip, map(itemgetter(place), block))))
        return {
            column: _Column(wanted[column], np.array(codes, dtype=np.int64), np.array(list(code_of), dtype=object))
            for column, (_, code_of, codes) in columns.items()
        }

    try:
        return coded(_blocks(path, separator, len(header)))
    except (csv.Error, UnicodeDecodeError):  # name the line, or find that only blank lines follow
        return coded([fields] for _, fields in islice(_records(path, separator), 1, None))


def _coded(name: str, entries: np.ndarray | pd.Series) -> _Column:
    try:
        codes, values = pd.factorize(entries)
    except (TypeError, ValueError):  # lists, records: no ids or numbers, and refused as such
        codes, values = np.arange(len(entries)), entries
    return _Column(name, codes, np.asarray(values))


def _read_parquet(path: Path) -> dict[str, _Column]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: pip install pyarrow to read .parquet") from error
    with parquet.ParquetFile(path, page_checksum_verification=True) as file:
        wanted = _wanted(path, file.schema_arrow.names)
        table = file.read(columns=list(wanted.values()))
    return {column: _coded(name, table.column(name).to_pandas()) for column, name in wanted.items()}


def _read_npz(path: Path) -> dict[str, _Column]:
    with np.load(path, allow_pickle=False) as file:
        wanted = _wanted(path, file.files)
        arrays = {column: file[name] for column, name in wanted.items()}
    for column, entries in arrays.items():
        if entries.shape != (arrays["user"].size,):
            raise DataError(
                f"{path}: array {wanted[column]!r} has shape {entries.shape}, {wanted['user']!r} "
                f"{arrays['user'].shape}: each must hold one value per interaction"
            )
        if entries.dtype.kind == "S":
            entries = np.char.decode(entries, "utf-8")
        # pandas codes neither text of fixed width nor numbers of the other byte order
        kind = object if entries.dtype.kind == "U" else entries.dtype.newbyteorder("=")
        arrays[column] = entries.astype(kind)
    return {column: _coded(wanted[column], entries) for column, entries in arrays.items()}


def _ids(values: np.ndarray, *, untyped: bool) -> np.ndarray:
    """Return ids as integers or text; of an ``untyped`` file integers only if all are plain ("7", not "07")."""
    if values.dtype.kind in "iu":
        return values
    if values.dtype.kind == "f":
        bad = ~((np.abs(values) < 2.0**53) & (values == np.floor(values)))
        if bad.any():
            at = int(np.argmax(bad))
            raise _RefusedError(at, f"is {_shown(values[at])}, not a whole number: write ids as integers or text")
        return values.astype(np.int64)
    ids = []
    for at, value in enumerate(values.tolist() if values.dtype.kind == "O" else [values[0]]):
        try:
            text = (value.decode() if isinstance(value, bytes) else value).strip()
            text.encode()
        except (AttributeError, UnicodeError) as error:
            raise _RefusedError(at, f"is {_shown(value)}, neither a whole number nor text") from error
        if not text:
            raise _RefusedError(at, "is missing")
        ids.append(text)
    if untyped and all(map(_PLAIN_INTEGER.fullmatch, ids)):
        for kind in (np.int64, np.uint64):
            try:
                return np.array([int(text) for text in ids], dtype=kind)
            except OverflowError:
                continue
    return np.array(ids, dtype=object)


def _as_number(value: Any) -> float:
    try:
        return float(value) if not isinstance(value, str) or _NUMBER.fullmatch(value.strip()) else np.nan
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _ratings(values: np.ndarray) -> np.ndarray:
    numbers = np.array([_as_number(value) for value in values.tolist()], dtype=np.float64)
    bad = ~np.isfinite(numbers)
    if bad.any():
        at = int(np.argmax(bad))
        raise _RefusedError(at, f"is missing or not a number: {_shown(values[at])}")
    if (np.abs(numbers) > LARGEST_RATING).any():
        at = int(np.argmax(np.abs(numbers)))
        raise _RefusedError(at, f"is {_shown(values[at])}, beyond the largest number in single precision")
    return numbers


def _truths(values: np.ndarray) -> np.ndarray:
    truths = [_TRUTH.get(str(value).strip().lower()) for value in values.tolist()]
    if None in truths:
        at = truths.index(None)
        raise _RefusedError(at, f"is {_shown(values[at])}: only 0 or 1, true or false are understood")
    return np.array(truths, dtype=bool)


def _seconds(values: np.ndarray) -> np.ndarray:
    """Return numbers as they are and ISO dates as seconds since 1970 (UTC where no zone is given)."""
    known = np.zeros(len(values), dtype=bool)
    if values.dtype.kind in "biufO":
        numbers = pd.to_numeric(values, errors="coerce")
        known = np.abs(numbers.astype(np.float64)) < 2.0**63
        if known.all():
            return numbers.astype(np.int64)
    if values.dtype.kind not in "OM":
        raise _RefusedError(0, f"is {_shown(values[0])}")
    form = None if values.dtype.kind == "M" else "ISO8601"
    dates = pd.DatetimeIndex(pd.to_datetime(values, format=form, utc=True, errors="coerce"))
    if dates.isna().any():
        unknown = dates.isna() & ~known
        at = int(np.argmax(unknown if unknown.any() else dates.isna()))
        raise _RefusedError(at, f"is {_shown(values[at])}")
    return dates.tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)


def _convert(column: str, found: _Column, untyped: bool) -> np.ndarray:
    """Return the column's (n,) values in the type the log keeps."""
    if (found.codes < 0).any():
        raise _RefusedError(-1, "is missing" + (" or not a number" if column == "rating" else ""))
    if column in ("user", "item"):
        return _ids(found.values, untyped=untyped)[found.codes]
    return {"rating": _ratings, "timestamp": _seconds, "is_test": _truths}[column](found.values)[found.codes]


def read_own_file(path: str | Path) -> RatingLog:
    """Read a user's own interactions from ``.csv``, ``.tsv``, ``.parquet`` or ``.npz``.

    Needs columns (arrays) ``user`` and ``item``; takes ``rating``, ``timestamp`` and, to fix the split, ``is_test``
    where present, and ignores others. Text files are UTF-8; spaces around a field do not count.

    Ids are integers where all of a column are plain ("7"), else text as written: "007" and "7" are two ids, and "NA"
    is one. ``rating`` is any number of single precision, ``is_test`` 0 or 1, true or false. ``timestamp`` is a number,
    or an ISO date turned into seconds since 1970; anything else there is left out with a warning, since no protocol
    needs it. Repeated (user, item) pairs are merged, the last kept, with a warning that counts them.

    Raises:
        DataError: the file is missing, empty or of another kind, lacks a column, has a line with more or fewer fields
            than the first, or holds a value its column cannot take; the message names the line.
    """
    path = Path(path)
    kind = path.suffix.lower()
    separator = _SEPARATORS.get(kind)
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file. Give the path of a .csv, .tsv, .parquet or .npz file")
        if separator:
            columns = _read_text(path, separator)
        elif kind in (".parquet", ".npz"):
            columns = _read_parquet(path) if kind == ".parquet" else _read_npz(path)
        else:
            raise DataError(f"{path}: unknown kind {kind!r}. Use .csv, .tsv, .parquet or .npz")
    except DataError:
        raise
    except Exception as error:  # readers raise many kinds; the user needs the file's name and the reason
        raise DataError(f"{path}: cannot be read as {kind}: {' '.join(str(error).split())}") from error
    if len(columns["user"].codes) == 0:
        raise DataError(f"{path}: no interactions inside")

    converted = {}
    for column, found in columns.items():
        try:
            converted[column] = _convert(column, found, untyped=separator is not None)
        except _RefusedError as refused:
            row = int(np.argmax(found.codes == refused.code))
            unit, number = "row", row + 1
            if separator:
                unit, (number, _) = "line", next(islice(_records(path, separator), row + 1, None))
            renamed = found.name.strip().lower() != column
            name = f"{found.name.strip()} (read as the {column})" if renamed else column
            at = f"{path}, {unit} {number}: {name} {refused}"
            if column == "timestamp":
                warnings.warn(f"{at}: neither a number nor an ISO date, so timestamps are left out")
                continue
            remedy = f"Repair or remove that {unit}" + (f", or rename the column if it is no {column}" * renamed)
            raise DataError(f"{at}. {remedy}") from refused

    frame = pd.DataFrame({column: pd.Series(entries, dtype=entries.dtype) for column, entries in converted.items()})
    repeated = frame.duplicated(["user", "item"], keep="last")
    if repeated.any():
        warnings.warn(f"{path}: {int(repeated.sum())} repeated (user, item) pairs merged, the last rating kept")
        frame = frame[~repeated]
    return RatingLog.from_frame(path.stem, frame)


def read_history(path: str | Path) -> list[tuple[str, float | None]]:
    """Read what one person has: (item's id or title, rating or None) in the order of the file.

    A ``.csv`` or ``.tsv`` has a column item and, where there are ratings, rating; any other file is text with one id or
    title a line.

    Raises:
        DataError: the file is missing, empty or damaged, lacks a column, or is about several users.
    """
    path = Path(path)
    separator = _SEPARATORS.get(path.suffix.lower())
    try:
        if separator is None:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
            history = [(line.strip(), None) for line in lines if line.strip()]
        else:
            history = _read_history_table(path, separator)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text. Save the file as UTF-8, one item id or title a line") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Give the path of a .txt, .csv or .tsv") from error
    if not history:
        raise DataError(f"{path}: no item inside. Write one id or title a line, or a .csv with a column item")
    return history


def _read_history_table(path: Path, separator: str) -> list[tuple[str, float | None]]:
    records = _records(path, separator)
    _, header = next(records, (1, []))
    place = {column: header.index(name) for column, name in _wanted(path, header, needed=("item",)).items()}
    history, users = [], set()
    for line, fields in records:
        found = {column: fields[at].strip() for column, at in place.items()}
        rating = _as_number(found["rating"]) if "rating" in found else None
        if not found["item"] or (rating is not None and not np.isfinite(rating)):
            what = "rating is missing or not a number" if found["item"] else "item is missing"
            raise DataError(f"{path}, line {line}: {what}. Repair or remove that line")
        users.add(found.get("user"))
        history.append((found["item"], rating))
    if len(users) > 1:
        raise DataError(f"{path}: holds {len(users)} users: give the lines of one person")
    return history
