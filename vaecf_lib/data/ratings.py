"""The rating log: who rated what, in the order of the source file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ..errors import DataError
from .items import Items

LARGEST_RATING = float(np.finfo(np.float32).max)


def _number_ids(name: str, column: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct ids in ascending order, and for each entry of ``ids`` (n,) its place among them."""
    try:
        codes, distinct = pd.factorize(ids)
        order = np.argsort(distinct, kind="stable")
    except TypeError as error:
        raise DataError(
            f"{name}: the ids of {column} are not all numbers or all text ({error}). Make them text: astype(str)"
        ) from error
    if (codes < 0).any():
        raise DataError(f"{name}, row {int(np.argmax(codes < 0)) + 1}: {column} is missing. Remove that row")
    odd = [value for value in distinct.tolist() if not isinstance(value, int | float | str)]
    if odd:
        raise DataError(f"{name}: {column} {odd[0]!r} is neither a number nor text. Make the ids text: astype(str)")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return distinct[order], place[codes]


def _numbers(name: str, frame: pd.DataFrame, column: str) -> np.ndarray | None:
    """Return a column (n,) as float32 ratings, int64 timestamps or bool ``is_test``; None if it is not there."""
    if column not in frame:
        return None
    rule, kind = {
        "rating": ("a finite number", np.float32),
        "timestamp": ("a whole number", np.int64),
        "is_test": ("0 or 1", bool),
    }[column]
    try:
        values = frame[column].to_numpy(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: {column} must be {rule} in every row ({error})") from error
    limit = LARGEST_RATING if column == "rating" else 2.0**62
    sound = np.isin(values, (0, 1)) if column == "is_test" else np.abs(values) <= limit
    if not sound.all():
        at = int(np.argmin(sound))
        raise DataError(f"{name}, row {at + 1}: {column} is {values[at]:g}, but must be {rule}")
    return frame[column].to_numpy(kind) if column == "timestamp" else values.astype(kind)  # large whole numbers exact


@dataclass(frozen=True)
class RatingLog:
    """Ratings of one data set, one entry per line of the source, in its order.

    ``user``, ``item`` (n,) int64 codes 0..n_users-1 and 0..n_items-1, numbered by ascending source id ·
    ``rating`` (n,) float32 or None where the source has only clicks · ``timestamp`` (n,) int64 or None ·
    ``user_ids``, ``item_ids`` the source ids by code · ``titles`` by item code, or None ·
    ``is_test`` (n,) bool: a split that comes with the data, or None.
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
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        for ids in (self.user_ids, self.item_ids):
            digest.update("\n".join(map(str, ids.tolist())).encode())
        return digest.hexdigest()

    @classmethod
    def from_frame(cls, name: str, frame: pd.DataFrame, *, titles: dict | None = None) -> RatingLog:
        """Number the ids of a table with columns user, item and optionally rating, timestamp, is_test.

        Raises:
            DataError: a column is missing or twice there, the table is empty, a (user, item) pair occurs twice, ids
                are missing or of mixed types, a rating or timestamp is no number, or ``is_test`` is not 0 or 1.
        """
        columns = list(frame.columns)
        for column in ("user", "item", "rating", "timestamp", "is_test"):
            if columns.count(column) > 1 or (column in ("user", "item") and column not in columns):
                raise DataError(
                    f"{name}: needs one column {column!r}, found {list(map(str, columns))[:8]}. Rename the columns to "
                    "user, item and, where there are any, rating, timestamp, is_test"
                )
        if frame.empty:
            raise DataError(f"{name}: no ratings found. Check that the file is complete")
        user_ids, user = _number_ids(name, "user", frame["user"].to_numpy())
        item_ids, item = _number_ids(name, "item", frame["item"].to_numpy())
        repeated = pd.DataFrame({"user": user, "item": item}).duplicated().to_numpy()
        if repeated.any():
            at = int(np.flatnonzero(repeated)[0])
            where = frame.attrs.get("where", name)
            raise DataError(
                f"{where}, line {at + frame.attrs.get('first_line', 1)}: user {user_ids[user[at]]} and item "
                f"{item_ids[item[at]]} stand there a second time; {int(repeated.sum())} such lines in all. "
                "The file is damaged, or two copies were joined: fetch it again"
            )
        return cls(
            name=name,
            user=user.astype(np.int64),
            item=item.astype(np.int64),
            rating=_numbers(name, frame, "rating"),
            timestamp=_numbers(name, frame, "timestamp"),
            user_ids=user_ids,
            item_ids=item_ids,
            titles=None if titles is None else tuple(str(titles.get(i, i)) for i in item_ids.tolist()),
            is_test=_numbers(name, frame, "is_test"),
        )

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
