"""The rating log: who rated what, in the order of the source."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError, counted
from .columns import Column, RefusedError, Table, as_ids, as_titles, find_columns, read_column
from .items import Items


@dataclass(frozen=True)
class Reading:
    """How a log came out of its source.

    ``rows`` that stood there · ``left_out`` how many of them for which reason · ``columns`` the source's name of each
    column that was read · ``unused`` names of the others · ``warnings`` what was said about it.
    """

    rows: int
    left_out: dict[str, int] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def _number_ids(found: Column, untyped: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct ids in ascending order, and for each row its place among them."""
    if (found.codes < 0).any():
        raise RefusedError(-1, "is missing")
    ids, place = np.unique(as_ids(found.values, untyped=untyped), return_inverse=True)
    return ids, place.astype(np.int64, copy=False)[found.codes]


def _repeated(log: RatingLog, keep: str) -> np.ndarray | None:
    """Return (n,) which entries repeat a pair of which the "first" or "last" is to ``keep``; None if there are none."""
    pair = log.user * log.n_items + log.item
    if (pair[1:] > pair[:-1]).all():  # most files are sorted
        return None
    in_order = np.sort(pair)
    if (in_order[1:] > in_order[:-1]).all():
        return None
    del in_order
    return pd.Series(pair, copy=False).duplicated(keep=keep).to_numpy()


def _title_of_each(items: np.ndarray, found: Column, n_items: int) -> tuple[np.ndarray, int]:
    """Return each item's first title, "" where it has none, and the number of items that have several."""
    titles = as_titles(found.values)
    some = found.codes >= 0
    rows = pd.DataFrame({"item": items[some], "title": titles[found.codes[some]]})
    rows = rows[rows["title"] != ""].drop_duplicates()
    first = rows.drop_duplicates("item")
    title_of = np.full(n_items, "", dtype=object)
    title_of[first["item"]] = first["title"]
    return title_of, int(rows["item"][rows["item"].duplicated()].nunique())


@dataclass(frozen=True)
class RatingLog:
    """Ratings of one data set, one entry per row of the source, in its order.

    ``user``, ``item`` (n,) int64 codes 0..n_users-1 and 0..n_items-1, numbered by ascending source id ·
    ``rating`` (n,) float32 or None where the source has only clicks · ``timestamp`` (n,) int64 or None ·
    ``user_ids``, ``item_ids`` the source ids by code · ``titles`` by item code, or None ·
    ``is_test`` (n,) bool: a split that comes with the data, or None · ``reading`` how it was read (:class:`Reading`).
    """

    name: str
    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray | None
    timestamp: np.ndarray | None
    user_ids: np.ndarray
    item_ids: np.ndarray
    titles: tuple[str, ...] | None = None
    is_test: np.ndarray | None = None
    reading: Reading | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    @cached_property
    def items(self) -> Items:
        """The items' source ids and titles."""
        return Items(tuple(self.item_ids.tolist()), self.titles)

    @cached_property
    def sha256(self) -> str:
        """Hash of the content (source ids, ratings, order), whatever archive or file it came from."""
        digest = hashlib.sha256()
        for array in (self.user, self.item, self.rating, self.is_test):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).data)
        for ids in (self.user_ids, self.item_ids):
            digest.update("\n".join(map(str, ids.tolist())).encode())
        return digest.hexdigest()

    @classmethod
    def from_frame(
        cls,
        df: pd.DataFrame,
        user: Hashable | None = None,
        item: Hashable | None = None,
        rating: Hashable | None = None,
        time: Hashable | None = None,
        is_test: Hashable | None = None,
        title: Hashable | None = None,
        name: str = "frame",
    ) -> RatingLog:
        """Make a log of a pandas table, one row an interaction.

        ``user`` to ``title`` name its columns (default: those that are called user, item, rating, timestamp, is_test,
        title, or as :func:`read_own_file` knows them); other columns are ignored. Ids, dates, titles and repeated pairs
        are treated as there, except that the table's types count: ids "7" and "8" stay text.

        Raises:
            DataError: ``df`` is no table or an empty one, a column is missing or twice there, or holds a value it
                cannot take; the message names the row, counted from 1.
        """
        if not isinstance(df, pd.DataFrame):
            raise DataError(f"{name}: from_frame reads a pandas DataFrame, not {type(df).__name__}")
        given = dict(user=user, item=item, rating=rating, timestamp=time, is_test=is_test, title=title)
        given = {column: label for column, label in given.items() if label is not None}
        labels = list(df.columns)
        columns = {
            column: Column.of(str(labels[at]), df.iloc[:, at], each=column in ("rating", "timestamp"))
            for column, at in find_columns(name, labels, given).items()
        }
        return cls.from_table(name, Table(name, columns, labels, asked=frozenset(given)))

    @classmethod
    def from_scipy(
        cls,
        matrix: Any,
        user_ids: Sequence | None = None,
        item_ids: Sequence | None = None,
        titles: Sequence | None = None,
        name: str = "matrix",
    ) -> RatingLog:
        """Make a log of a SciPy sparse matrix or array (users, items) of any format.

        Its values are ratings, unless all are 1 or true: then it has only clicks. Equal matrices make equal logs: a
        stored 0 is no interaction, and values stored for one place add up, with a warning that counts either. (Ratings
        with 0 on their scale need :meth:`from_frame`.) Users and items without an entry are not in the log.

        ``user_ids`` by row and ``item_ids`` by column are distinct; default the numbers of rows and columns. ``titles``
        are by column.

        Raises:
            DataError: ``matrix`` is not sparse, not of two dimensions or empty, ids or titles do not fit its shape, an
                id occurs twice, or a value is no finite number.
        """
        if not hasattr(matrix, "tocoo") or len(matrix.shape) != 2:
            raise DataError(f"{name}: from_scipy reads a sparse matrix (users, items), not {type(matrix).__name__}")
        entries = matrix.tocoo(copy=True)
        stored = entries.nnz
        entries.sum_duplicates()
        left_out = {"added to another value of the same place": stored - entries.nnz}
        entries.eliminate_zeros()
        left_out["stored zeros"] = stored - entries.nnz - sum(left_out.values())
        left_out = {reason: count for reason, count in left_out.items() if count}
        notes = tuple(
            f"{name}: {counted(count, 'value')} of {stored:,}: {reason}" for reason, count in left_out.items()
        )
        for note in notes:
            warnings.warn(note)

        def column(argument: str, names: Sequence | None, axis: int, at: np.ndarray) -> Column:
            names = pd.Series(range(matrix.shape[axis]) if names is None else names)
            if len(names) != matrix.shape[axis]:
                raise DataError(f"{name}: {counted(len(names), 'name')} in {argument} for {matrix.shape[axis]:,}")
            if argument != "titles" and names.duplicated().any():
                raise DataError(f"{name}: {names[names.duplicated()].iloc[0]!r} stands twice in {argument}")
            return Column.of(argument, names.iloc[at])

        columns = {
            "user": column("user_ids", user_ids, 0, entries.row),
            "item": column("item_ids", item_ids, 1, entries.col),
        }
        if titles is not None:
            columns["title"] = column("titles", titles, 1, entries.col)
        if entries.data.dtype.kind != "b" and (entries.data != 1).any():
            columns["rating"] = Column.of("value", entries.data, each=True)
        table = Table(name, columns, place=lambda at: f"entry ({entries.row[at]}, {entries.col[at]})")
        log = cls.from_table(name, table)
        return replace(log, reading=replace(log.reading, rows=stored, left_out=left_out, warnings=notes))

    @classmethod
    def from_table(cls, name: str, table: Table, *, merge: bool = True) -> RatingLog:
        """Check a table and number its ids: the one way into a log, whatever the source.

        Pairs that occur again are merged, the last kept, with a warning that counts them, or refused if not ``merge``.

        Raises:
            DataError: the table is empty, or holds a value that its column cannot take.
        """
        rows = len(table.columns["user"].codes)
        if rows == 0:
            raise DataError(f"{table.source}: no interactions inside")
        notes: list[str] = []

        def warn(note: str) -> None:
            notes.append(f"{table.source}{note}")
            warnings.warn(notes[-1], stacklevel=4)

        read: dict[str, Any] = {"rating": None, "timestamp": None, "is_test": None}
        for column, found in table.columns.items():
            try:
                if column in ("user", "item"):
                    read[f"{column}_ids"], read[column] = _number_ids(found, table.untyped)
                elif column != "title":
                    read[column] = read_column(column, found)
            except RefusedError as refused:
                renamed = found.name.strip().lower() != column
                row = table.place(found.first_row(refused.code))
                at = f", {row}: {found.name.strip()}{f' (read as the {column})' * renamed} {refused}"
                if column == "timestamp" and column not in table.asked:
                    warn(f"{at}: neither a number nor an ISO date, so timestamps are left out")
                    continue
                remedy = "Repair or remove that row" + f", or rename the column if it is no {column}" * renamed
                raise DataError(f"{table.source}{at}. {remedy}") from refused
        titles = None
        if "title" in table.columns:
            found, several = _title_of_each(read["item"], table.columns["title"], len(read["item_ids"]))
            if several:
                warn(f": {counted(several, 'item')} with several titles, the first is kept")
            if any(found):
                titles = tuple(title or str(i) for title, i in zip(found, read["item_ids"].tolist(), strict=True))
        log = cls(name=name, titles=titles, **read)
        repeated = _repeated(log, keep="last" if merge else "first")
        n = 0 if repeated is None else int(repeated.sum())
        if n and not merge:
            at = int(np.argmax(repeated))
            raise DataError(
                f"{table.source}, {table.place(at)}: user {log.user_ids[log.user[at]]} and item "
                f"{log.item_ids[log.item[at]]} stand there a second time; {n} such rows in all. "
                "The file is damaged, or two copies were joined: fetch it again"
            )
        if n:
            warn(f": {counted(n, 'repeated (user, item) pair')} merged, the last rating kept")
            log = log.select(~repeated)
        used = {column: found.name.strip() for column, found in table.columns.items()}
        if log.timestamp is None:
            used.pop("timestamp", None)
        reading = Reading(
            rows=rows,
            left_out={"repeated pairs": n} if n else {},
            columns=used,
            unused=tuple(sorted({str(label).strip() for label in table.labels} - set(used.values()))),
            warnings=tuple(notes),
        )
        return replace(log, reading=reading)

    def select(self, keep: np.ndarray) -> RatingLog:
        """Return the entries where ``keep`` (n,) is true; users and items keep their codes."""

        def cut(array):
            return None if array is None else array[keep]

        return replace(
            self,
            user=cut(self.user),
            item=cut(self.item),
            rating=cut(self.rating),
            timestamp=cut(self.timestamp),
            is_test=cut(self.is_test),
        )


def log_of_table(name: str, frame: pd.DataFrame, titles: dict | None) -> RatingLog:
    """Make a log of a parsed table of the catalogue; ``titles`` by item id.

    ``frame`` is emptied column by column: of twenty million ratings there is no room for both.

    Raises:
        DataError: the table is empty, or a pair stands there twice.
    """
    where, first_line = frame.attrs.get("where", name), frame.attrs.get("first_line", 1)
    columns = {
        column: Column.of(column, frame.pop(column), each=column in ("rating", "timestamp")) for column in list(frame)
    }
    table = Table(where, columns, place=lambda at: f"line {at + first_line}", asked=frozenset(columns))
    log = RatingLog.from_table(name, table, merge=False)
    if titles is None:
        return log
    return replace(log, titles=tuple(str(titles.get(i, i)) for i in log.item_ids.tolist()))
