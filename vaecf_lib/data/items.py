"""Who the items are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from ..errors import DataError


@dataclass(frozen=True)
class Items:
    """The source ids of a data set's items, and their titles if they have any, by item code of the rating log."""

    ids: tuple[int | str, ...]
    titles: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _codes(self) -> dict[str, list[int]]:
        codes: dict[str, list[int]] = {}
        for code, title in enumerate(self.titles or ()):
            codes.setdefault(title, []).append(code)
        return codes | {str(item): [code] for code, item in enumerate(self.ids)}

    def code(self, name: str) -> int | None:
        """Return the code of the item with this id, or else this title; None if there is none.

        Raises:
            DataError: several items have this title.
        """
        codes = self._codes.get(name, [])
        if len(codes) > 1:
            ids = ", ".join(str(self.ids[code]) for code in codes[:5])
            raise DataError(f"{len(codes)} items are called {name!r}: give an id instead, one of {ids}")
        return codes[0] if codes else None

    @property
    def sha256(self) -> str:
        """Hash of ids and titles."""
        return hashlib.sha256(json.dumps([self.ids, self.titles]).encode()).hexdigest()
