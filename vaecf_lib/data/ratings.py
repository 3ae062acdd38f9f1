"""The rating log: who rated what, in the order of the source file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ..errors import DataError
from .items import Items


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
            DataError: the table is empty, or a (user, item) pair occurs twice.
        """
        if frame.empty:
            raise DataError(f"{name}: no ratings found. Check that the file is complete")
        repeated = frame.duplicated(["user", "item"]).to_numpy()
        if repeated.any():
            at = int(np.flatnonzero(repeated)[0])
            where = frame.attrs.get("where", name)
            raise DataError(
                f"{where}, line {at + frame.attrs.get('first_line', 1)}: user {frame['user'].iloc[at]} and item "
                f"{frame['item'].iloc[at]} stand there a second time; {int(repeated.sum())} such lines in all. "
                "The file is damaged, or two copies were joined: fetch it again"
            )
        user_ids, user = np.unique(frame["user"].to_numpy(), return_inverse=True)
        item_ids, item = np.unique(frame["item"].to_numpy(), return_inverse=True)

        def column(key, dtype):
            return frame[key].to_numpy(dtype) if key in frame else None

        return cls(
            name=name,
            user=user.astype(np.int64),
            item=item.astype(np.int64),
            rating=column("rating", np.float32),
            timestamp=column("timestamp", np.int64),
            user_ids=user_ids,
            item_ids=item_ids,
            titles=None if titles is None else tuple(str(titles.get(i, i)) for i in item_ids.tolist()),
            is_test=column("is_test", bool),
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
