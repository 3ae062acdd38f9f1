"""Your own interactions from ``.csv``, ``.tsv``, ``.parquet`` or ``.npz``: read as written, refused where unclear."""

from __future__ import annotations

import csv
import gzip
import io
import warnings
import zlib
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import count, islice
from operator import itemgetter
from pathlib import Path

import numpy as np

from ..errors import DataError, counted
from .columns import Column, Table, as_number, find_columns
from .kept import KeptLog
from .plain_text import NotPlainError, read_plain
from .ratings import RatingLog

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".csv.gz": ",", ".tsv.gz": "\t"}
_KINDS = (*_SEPARATORS, ".parquet", ".npz")


def _kind(path: Path) -> str:
    """Return by what the file's name ends: one of _KINDS, or else its suffix."""
    return next((kind for kind in _KINDS if path.name.lower().endswith(kind)), path.suffix.lower())


def _open(path: Path) -> io.BufferedIOBase:
    """Open a file, unpacked if it is a ``.gz``."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _open_text(path: Path) -> io.TextIOWrapper:
    """Open a text file in UTF-8, with or without a byte order mark."""
    return io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="")


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
    with _open_text(path) as handle:
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
            with _open(path) as again:
                line = next(n for n, text in enumerate(again.read().split(b"\n"), 1) if not _is_utf8(text))
            raise DataError(f"{path}, line {line}: not UTF-8 text. Save the file as UTF-8") from error
        except csv.Error as error:
            raise DataError(f"{path}, line {start}: quotes that do not match ({error}). Repair that line") from error


def _blocks(path: Path, separator: str, n_columns: int) -> Iterator[list[list[str]]]:
    """Yield the records below the header by the thousand: :func:`_records` in a hurry."""
    with _open_text(path) as handle:
        reader = csv.reader(handle, delimiter=separator, strict=True)
        next(reader)
        while block := list(islice(reader, 1000)):
            if set(map(len, block)) != {n_columns}:
                raise csv.Error("lines of different length")
            yield block


def _read_text(path: Path, separator: str, given: Mapping[str, str]) -> tuple[list[str], dict[str, Column]]:
    """Return the names of a delimited file's columns and those that are read, as text without spaces around it."""
    _, header = next(_records(path, separator), (1, None))
    if header is None:
        raise DataError(f"{path}: cannot be read as {_kind(path)}: the file is empty")
    other = next((mark for mark in ";\t,|" if mark != separator and mark in header[0]), None)
    if len(header) == 1 and other:
        raise DataError(f"{path}: {other!r} between its columns. Put commas there in a .csv, tabs in a .tsv")
    wanted = find_columns(str(path), header, given)

    def coded(blocks: Iterable[list[list[str]]]) -> dict[str, Column]:
        columns = {column: (at, defaultdict(count().__next__), array("q")) for column, at in wanted.items()}
        for block in blocks:
            for at, code_of, codes in columns.values():
                codes.extend(map(code_of.__getitem__, map(str.strip, map(itemgetter(at), block))))
        return {
            column: Column(header[at], np.array(codes, dtype=np.int64), np.array(list(code_of), dtype=object))
            for column, (at, code_of, codes) in columns.items()
        }

    try:
        return header, read_plain(partial(_open, path), separator, header, wanted)
    except NotPlainError:  # quotes, or a trouble that the readers below find again and name
        pass
    try:
        return header, coded(_blocks(path, separator, len(header)))
    except (csv.Error, UnicodeDecodeError):  # name the line, or find that only blank lines follow
        return header, coded([fields] for _, fields in islice(_records(path, separator), 1, None))


def _read_parquet(path: Path, given: Mapping[str, str]) -> tuple[list[str], dict[str, Column]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: pip install pyarrow to read .parquet") from error
    with parquet.ParquetFile(path, page_checksum_verification=True) as file:
        names = file.schema_arrow.names
        wanted = find_columns(str(path), names, given)
        table = file.read(columns=[names[at] for at in wanted.values()])
    return names, {
        column: Column.of(names[at], table.column(names[at]).to_pandas(), each=column in ("rating", "timestamp"))
        for column, at in wanted.items()
    }


def _read_npz(path: Path, given: Mapping[str, str]) -> tuple[list[str], dict[str, Column]]:
    # Opened here, for of a damaged file numpy would leave that to the garbage collector.
    with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
        names = list(file.files)
        if {"format", "shape", "data"} <= set(names):
            raise DataError(
                f"{path}: a matrix of scipy. Load it with scipy.sparse.load_npz and give it to RatingLog.from_scipy"
            )
        wanted = {column: names[at] for column, at in find_columns(str(path), names, given).items()}
        try:
            arrays = {column: file[name] for column, name in wanted.items()}
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise DataError(
                f"{path}: holds Python's objects, which are not read. Save text as text: user=user.astype(str)"
            ) from error
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
    return names, {
        column: Column.of(wanted[column], entries, each=column in ("rating", "timestamp"))
        for column, entries in arrays.items()
    }


def read_own_file(
    path: str | Path,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    time: str | None = None,
    is_test: str | None = None,
    title: str | None = None,
) -> RatingLog:
    """Read a user's own interactions from ``.csv``, ``.tsv`` (either may be a ``.gz``), ``.parquet`` or ``.npz``.

    Needs columns (arrays) ``user`` and ``item``; takes ``rating``, ``timestamp``, ``title`` (of the item) and, to fix
    the split, ``is_test`` where present, and ignores others. Columns of other names are named by the arguments: by
    default ``userId``, ``movie_id``, ``score``, ``time`` and a few more are known. Text files are UTF-8; spaces around
    a field do not count.

    Ids are integers where all of a column are plain ("7"), else text as written: "007" and "7" are two ids, and "NA"
    is one. ``rating`` is any number of single precision, ``is_test`` 0 or 1, true or false. ``timestamp`` is a number,
    or an ISO date turned into seconds since 1970; anything else there is left out with a warning, unless ``time`` asks
    for it. Repeated (user, item) pairs are merged, the last row kept, with a warning that counts them. Of several
    titles an item has the first, with a warning; without any it is called by its id. What was read of a large file is
    kept until the file or these options change (``vaecf_lib.data.kept``).

    Raises:
        DataError: the file is missing, empty or of another kind, lacks a column, has a line with more or fewer fields
            than the first, or holds a value its column cannot take; the message names the line.
    """
    path = Path(path)
    kind = _kind(path)
    separator = _SEPARATORS.get(kind)
    given = dict(user=user, item=item, rating=rating, timestamp=time, is_test=is_test, title=title)
    given = {column: name for column, name in given.items() if name is not None}
    known = "a .csv, .tsv (or .csv.gz, .tsv.gz), .parquet or .npz"
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file. Give the path of {known} file")
        if kind not in _KINDS:
            raise DataError(f"{path}: unknown kind {kind!r}. Use {known}")
        kept = KeptLog.of(path, own=given)
        if (log := kept.load()) is not None:
            for note in log.reading.warnings:
                warnings.warn(note, stacklevel=2)
            return log
        if separator:
            labels, columns = _read_text(path, separator, given)
        else:
            labels, columns = (_read_parquet if kind == ".parquet" else _read_npz)(path, given)
    except DataError:
        raise
    except Exception as error:  # readers raise many kinds; the user needs the file's name and the reason
        raise DataError(f"{path}: cannot be read as {kind}: {' '.join(str(error).split())}") from error

    def place(at: int) -> str:
        if not separator:
            return f"row {at + 1}"
        return f"line {next(islice(_records(path, separator), at + 1, None))[0]}"

    table = Table(str(path), columns, labels, place, asked=frozenset(given), untyped=separator is not None)
    log = RatingLog.from_table(path.name[: -len(kind)], table)
    kept.keep(log)
    return log


def read_history(path: str | Path) -> list[tuple[str, float | None]]:
    """Read what one person has: (item's id or title, rating or None) in the order of the file.

    A ``.csv`` or ``.tsv`` has a column item and, where there are ratings, rating; any other file is text with one id or
    title a line. Each may be a ``.gz``.

    Raises:
        DataError: the file is missing, empty or damaged, lacks a column, or is about several users.
    """
    path = Path(path)
    separator = _SEPARATORS.get(_kind(path))
    try:
        if separator is None:
            with _open_text(path) as handle:
                history = [(line.strip(), None) for line in handle if line.strip()]
        else:
            history = _read_history_table(path, separator)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text. Save the file as UTF-8, one item id or title a line") from error
    except (OSError, EOFError, zlib.error) as error:  # the last two: of a damaged .gz
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}). Give the path of a .txt, .csv or .tsv") from error
    if not history:
        raise DataError(f"{path}: no item inside. Write one id or title a line, or a .csv with a column item")
    return history


def _read_history_table(path: Path, separator: str) -> list[tuple[str, float | None]]:
    records = _records(path, separator)
    _, header = next(records, (1, []))
    place = find_columns(str(path), header, needed=("item",))
    history, users = [], set()
    for line, fields in records:
        found = {column: fields[at].strip() for column, at in place.items()}
        rating = as_number(found["rating"]) if "rating" in found else None
        if not found["item"] or (rating is not None and not np.isfinite(rating)):
            what = "rating is missing or not a number" if found["item"] else "item is missing"
            raise DataError(f"{path}, line {line}: {what}. Repair or remove that line")
        users.add(found.get("user"))
        history.append((found["item"], rating))
    if len(users) > 1:
        raise DataError(f"{path}: holds {counted(len(users), 'user')}: give the lines of one person")
    return history
