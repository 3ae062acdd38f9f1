"""Recommendations for one person."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .data import Batch
from .errors import DataError
from .evaluation import top_items
from .models.base import Model


@dataclass(frozen=True)
class Recommendation:
    """One entry of a list: the item's code in the rating log, its title (or None) and its score."""

    item: int
    title: str | None
    score: float


@torch.inference_mode()
def recommend(
    model: Model, history: Sequence[int] | Sequence[str], k: int = 10, titles: Sequence[str] | None = None
) -> list[Recommendation]:
    """Return the ``k`` best items for someone with ``history``, never one they have.

    Args:
        model: trained with :func:`fit`.
        history: item codes of the rating log (``log.item``), or titles if ``titles`` is given. Items that the
            training users never had are left out with a warning.
        k: length of the list; shorter if the catalogue is.
        titles: by item code, as ``log.titles``.

    Raises:
        DataError: an item code or a title is unknown.
    """
    code_of = {title: code for code, title in enumerate(titles or ())}
    codes = []
    for entry in history:
        if isinstance(entry, str):
            if entry not in code_of:
                raise DataError(f"no item is called {entry!r}: give its title as in the data, or its code")
            entry = code_of[entry]
        codes.append(int(entry))
    columns = {code: column for column, code in enumerate(model.item_index.tolist())}
    top_code = max([*columns, *code_of.values()])
    outside = [code for code in codes if not 0 <= code <= top_code]
    if outside:
        raise DataError(f"item code {outside[0]} is not in the catalogue (0 to {top_code})")
    known = sorted({columns[code] for code in codes if code in columns})
    if len(known) < len(set(codes)):
        warnings.warn(f"{len(set(codes)) - len(known)} items of the history were never seen in training: left out")
    device = model.device
    items = torch.as_tensor(np.array(known, dtype=np.int64), device=device)
    batch = Batch(
        users=torch.zeros(1, dtype=torch.int64, device=device),
        counts=torch.tensor([len(items)], device=device),
        rows=torch.zeros_like(items),
        items=items,
        values=None,
        n_items=model.n_items,
    )
    model.eval()
    scores = model.scores(batch).float().clone()
    scores[0, items] = -math.inf
    best = top_items(scores, min(k, model.n_items - len(known)))[0].tolist()
    item_index = model.item_index.tolist()
    return [
        Recommendation(item_index[c], None if titles is None else titles[item_index[c]], float(scores[0, c]))
        for c in best
    ]
