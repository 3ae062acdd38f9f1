"""Recommendations for one person."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .data import Batch, Items
from .errors import ConfigError, DataError
from .evaluation import top_items
from .models.base import Model

Entry = int | str | tuple[int | str, float]


@dataclass(frozen=True)
class Recommendation:
    """One entry of a list: the item's code in the rating log, its title (or None) and its score."""

    item: int
    title: str | None
    score: float


@torch.inference_mode()
def recommend(
    model: Model, history: Iterable[Entry], k: int = 10, titles: Sequence[str] | None = None
) -> list[Recommendation]:
    """Return the ``k`` best items for someone with ``history``, never one they have.

    Args:
        model: trained with :func:`fit`.
        history: item codes of the rating log (``log.item``), or ids or titles as text, if the model was
            trained with them; for a model that reads ratings, pairs (item, rating). Of an item named twice the last
            entry counts. Items that the training users never had are left out with a warning.
        k: length of the list; shorter if fewer items are left.
        titles: by item code, as ``log.titles``; default those that the model was trained with.

    Raises:
        ConfigError: the model knows only the users it was trained on, ``k`` is not a positive whole number, ``history``
            is no list, or ``titles`` are too many or too few.
        DataError: an item code or a title is unknown, or an entry is neither; ratings are missing, or given to a model
            that reads none.
    """
    if model.needs == "user":
        raise ConfigError(
            f"{model.slug} scores only the users it was trained on and cannot read a new person's history: "
            "train a system that can, as mult-vae for clicks or hyvae for ratings"
        )
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise ConfigError(f"k={k!r}: the length of the list must be a whole number above 0")
    items = model.item_names or Items(())
    if titles is not None:
        items = Items(items.ids, tuple(titles))
        if len(titles) != (len(items) or len(titles)) or len(titles) <= int(model.item_index.max()):
            raise ConfigError(f"{len(titles)} titles do not fit the model's items: give one a code, as log.titles")
    if isinstance(history, str | bytes) or not isinstance(history, Iterable):
        raise ConfigError(f"history={history!r}: must be a list of items, also of one item")
    ratings = _by_code(model, history, items)
    item_index = model.item_index.tolist()
    columns = {code: column for column, code in enumerate(item_index)}
    known = {columns[code]: rating for code, rating in ratings.items() if code in columns}
    if len(known) < len(ratings):
        warnings.warn(f"{len(ratings) - len(known)} items of the history were never seen in training: left out")
    batch = _batch(model, dict(sorted(known.items())))
    model.eval()
    scores = model.scores(batch).float().clone()
    scores[0, batch.items] = -math.inf
    n_left = model.n_items - len(known)
    best = top_items(scores, min(k, n_left))[0].tolist() if n_left else []
    return [
        Recommendation(item_index[c], items.titles and items.titles[item_index[c]], float(scores[0, c])) for c in best
    ]


def _by_code(model: Model, history: Iterable[Entry], items: Items) -> dict[int, float | None]:
    """Return {item code: rating, or None}, checked against what the model knows and reads."""
    if model.rates and not model.rated:
        raise ConfigError(f"this {model.slug} was never trained: call fit first")
    n_codes = max(int(model.item_index.max()) + 1, len(items), len(items.titles or ()))
    ratings: dict[int, float | None] = {}
    for entry in history:
        item, rating = entry if isinstance(entry, tuple | list) and len(entry) == 2 else (entry, None)
        try:
            code = items.code(item) if isinstance(item, str) else int(item)
            sound = isinstance(item, str) or (code == item and not isinstance(item, bool))
            rating = None if rating is None else float(rating)
        except (TypeError, ValueError, OverflowError):
            sound = False
        if not sound:
            raise DataError(f"{entry!r}: must be an item's code, id or title, or a pair of that and a rating")
        if code is None:
            raise DataError(f"no item is called {item!r}: give its id or title as in the data, or its code")
        if not 0 <= code < n_codes:
            raise DataError(f"item code {code} is not in the catalogue (0 to {n_codes - 1})")
        if rating is None and model.rated and model.reads_values:
            raise DataError(f"item {item!r} has no rating, and this {model.slug} reads ratings: give (item, rating)")
        if rating is not None and not model.rated:
            raise DataError(f"this {model.slug} was trained on clicks and reads no ratings: give only the liked items")
        if rating is not None and not math.isfinite(rating):
            raise DataError(f"item {item!r}: the rating {rating} is not a number")
        ratings[code] = rating
    low, high = model.rating_range.tolist()
    outside = [r for r in ratings.values() if r is not None and not low <= r <= high]
    if outside:
        warnings.warn(f"{len(outside)} ratings, as {outside[0]:g}, lie outside the training data's {low:g} to {high:g}")
    return ratings


def _batch(model: Model, known: dict[int, float | None]) -> Batch:
    """Return {column: rating} as a batch of one person who is no user of the training data."""
    items = torch.tensor(list(known), dtype=torch.int64, device=model.device)
    values = None
    if model.rated:
        values = torch.tensor([r or 0.0 for r in known.values()], device=model.device)
    return Batch(
        users=torch.full((1,), -1, device=model.device),
        counts=torch.tensor([len(items)], device=model.device),
        rows=torch.zeros_like(items),
        items=items,
        values=values,
        n_items=model.n_items,
    )
