"""Serving: histories in, ranked lists out, for one person or for many at once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .checkpoints import write_atomically
from .data import Interactions, Items, RatingLog, read_own_file
from .errors import ConfigError, DataError, counted, shown
from .evaluation import evaluating, top_items
from .models.base import Model

Name = int | str
Entry = Name | tuple[Name, float]


@dataclass(frozen=True)
class OneHistory:
    """One person's ``entries`` out of a file, ``source``, by which messages call them."""

    source: str
    entries: Sequence[Entry]


Histories = Iterable[Entry] | Mapping[Any, Iterable[Entry]] | pd.DataFrame | RatingLog | OneHistory | str | Path

SCORE_BYTES = 64e6  # of one batch's scores, so that memory does not grow with the number of people
BATCH = 500  # people at a time where the catalogue is small: more are no faster


class Lists(NamedTuple):
    """Lists one after the other, best item first; each array (m,), on the CPU.

    ``person`` row of the histories · ``rank`` from 1 · ``column`` of the item · ``score``.
    """

    person: np.ndarray
    rank: np.ndarray
    column: np.ndarray
    score: np.ndarray


def check_length(k: Any) -> None:
    """Refuse what is no length of a list.

    Raises:
        ConfigError: ``k`` is not a whole number above 0.
    """
    if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
        raise ConfigError(f"k={k!r}: the length of the list must be a whole number above 0")


def refuse_strangers(model: Model) -> None:
    """Refuse people of whom only the history is known, if the model cannot read one.

    Raises:
        ConfigError: the model scores only the users it was trained on.
    """
    if model.needs == "user":
        raise ConfigError(
            f"{model.slug} scores only the users it was trained on and cannot read a new person's history: "
            "train a system that can, as mult-vae for clicks or hyvae for ratings"
        )


@torch.inference_mode()
def best_items(
    model: Model,
    histories: Interactions,
    rows: Tensor,
    users: Tensor,
    k: int,
    candidates: Tensor | None = None,
    disliked: Interactions | None = None,
) -> Lists:
    """Return the ``k`` best items of each of the ``rows`` of ``histories``, never one that the row has.

    Args:
        model: trained; left in the mode it was in.
        histories: (n, n_items).
        rows: (m,) which of them to serve, in this order.
        users: (m,) row of the training part that is the same person, -1 for others.
        k: length of a list; it is shorter where fewer items are left.
        candidates: (n_items,) bool, the columns that may be shown; None for all.
        disliked: (n, n_items) what else a row is not shown; None for nothing.

    Equal scores rank by column. Memory: (B, n_items) scores for a batch of B people, B chosen by SCORE_BYTES.
    """
    histories, users = histories.to(model.device), users.to(model.device)
    disliked = disliked and disliked.to(model.device)
    hidden = None if candidates is None else ~candidates.to(model.device)
    batch_size = min(BATCH, max(1, int(SCORE_BYTES / (4 * model.n_items))))
    parts = []
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            here = slice(start, start + batch_size)
            batch = replace(histories.rows(rows[here]), users=users[here])
            scores = model.scores(batch).float().clone()
            scores[batch.rows, batch.items] = -math.inf
            if disliked is not None:
                more = disliked.rows(rows[here])
                scores[more.rows, more.items] = -math.inf
            if hidden is not None:
                scores.masked_fill_(hidden, -math.inf)
            columns = top_items(scores, k)
            values = scores.gather(1, columns)
            person, place = (values > -math.inf).nonzero(as_tuple=True)
            found = (rows[here].to(person.device)[person], place + 1, columns[person, place], values[person, place])
            parts.append([part.cpu().numpy() for part in found])
    if not parts:
        return Lists(*(np.zeros(0, dtype=kind) for kind in (np.int64, np.int64, np.int64, np.float32)))
    return Lists(*map(np.concatenate, zip(*parts, strict=True)))


def history_matrix(
    model: Model, person: np.ndarray, column: np.ndarray, ratings: np.ndarray | None, n_people: int
) -> Interactions:
    """Return entries (n,) as the (n_people, n_items) matrix that ``model`` reads; the last of a repeated pair counts.

    A model of clicks gets no values; one of ratings gets zeros where it reads none.
    """
    key = person * model.n_items + column
    order = np.argsort(key, kind="stable")
    order = order[np.append(np.diff(key[order]) > 0, True)[: len(order)]]
    values = None
    if model.rated:
        values = (np.zeros(len(key)) if ratings is None else np.nan_to_num(ratings))[order]
    return Interactions.from_pairs(person[order], column[order], values, shape=(n_people, model.n_items))


def check_ratings_of(model: Model, source: str, items: Sequence[Any], ratings: np.ndarray) -> None:
    """Check the ``ratings`` (n,; nan where none was given) of ``items`` (n,) for a model trained on ratings.

    ``source`` is what messages call where they come from.

    Raises:
        DataError: one is missing where the model reads them, or infinite.
    """
    missing = np.isnan(ratings)
    if missing.any() and model.reads_values:
        raise DataError(
            f"{source}: item {_plain(items[int(missing.argmax())])!r} has no rating, and this {model.slug} reads "
            "ratings: give (item, rating), in a file a column rating"
        )
    if np.isinf(ratings).any():
        at = int(np.isinf(ratings).argmax())
        raise DataError(f"{source}: item {_plain(items[at])!r}: the rating {ratings[at]} is not a number")
    low, high = model.rating_range.tolist()
    outside = ratings[(ratings < low) | (ratings > high)]
    if len(outside):
        warnings.warn(
            f"{source}: {counted(len(outside), 'rating')} outside the training data's {low:g} to {high:g}, as "
            f"{outside[0]:g}"
        )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


# --- one person, by the codes of the rating log ------------------------------------------------------------------


@dataclass(frozen=True)
class Recommendation:
    """One entry of a list: the item's code in the rating log, its title (or None) and its score."""

    item: int
    title: str | None
    score: float


def recommend(
    model: Model, history: Iterable[Entry], k: int = 10, titles: Sequence[str] | None = None
) -> list[Recommendation]:
    """Return the ``k`` best items for someone with ``history``, never one they have.

    For ids, and for many people at once, see :meth:`Run.recommend`.

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
    refuse_strangers(model)
    check_length(k)
    items = model.item_names or Items(())
    if titles is not None:
        items = Items(items.ids, tuple(titles))
        if len(titles) != (len(items) or len(titles)) or len(titles) <= int(model.item_index.max()):
            raise ConfigError(f"{len(titles)} titles do not fit the model's items: give one a code, as log.titles")
    if isinstance(history, str | bytes) or not isinstance(history, Iterable):
        raise ConfigError(f"history={shown(history)}: must be a list of items, also of one item")
    if model.rates and not model.rated:
        raise ConfigError(f"this {model.slug} was never trained: call fit first")
    codes, ratings = _by_code(model, history, items)
    item_index = model.item_index.cpu().numpy()
    column = np.full(max(codes.max(initial=0), item_index.max()) + 1, -1)
    column[item_index] = np.arange(len(item_index))
    known = column[codes] >= 0
    if not known.all():
        unseen = len(np.unique(codes[~known]))
        warnings.warn(f"{counted(unseen, 'item')} of the history left out: never seen in training")
    person = np.zeros(int(known.sum()), dtype=np.int64)
    matrix = history_matrix(model, person, column[codes[known]], ratings[known], 1)
    found = best_items(model, matrix, torch.zeros(1, dtype=torch.int64), torch.full((1,), -1), k)
    names = items.titles
    return [
        Recommendation(code, names and names[code], score)
        for code, score in zip(item_index[found.column].tolist(), found.score.tolist(), strict=True)
    ]


def _by_code(model: Model, history: Iterable[Entry], items: Items) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes and ratings (nan: none) of the entries, checked against what the model knows and reads."""
    n_codes = max(int(model.item_index.max()) + 1, len(items), len(items.titles or ()))
    codes, ratings, names = [], [], []
    for entry in history:
        item, rating = _pair(entry)
        code = items.code(item) if isinstance(item, str) else int(item)
        if code is None:
            raise DataError(f"no item is called {item!r}: give its id or title as in the data, or its code")
        if not 0 <= code < n_codes:
            raise DataError(f"item code {code} is not in the catalogue (0 to {n_codes - 1})")
        if not math.isnan(rating) and not model.rated:
            raise DataError(f"this {model.slug} was trained on clicks and reads no ratings: give only the liked items")
        names.append(item), codes.append(code), ratings.append(rating)
    ratings = np.array(ratings, dtype=np.float64)
    if model.rated:
        check_ratings_of(model, "the history", names, ratings)
    return np.array(codes, dtype=np.int64), ratings


def _pair(entry: Any) -> tuple[Name, float]:
    """Return an entry's item and rating (nan: none given).

    Raises:
        DataError: it is no item and no pair of an item and a rating.
    """
    item, rating = entry if isinstance(entry, tuple | list) and len(entry) == 2 else (entry, None)
    sound = isinstance(item, str) or (isinstance(item, Real) and not isinstance(item, bool) and item == item // 1)
    try:
        number = math.nan if rating is None else float(rating)
    except (TypeError, ValueError, OverflowError):
        sound = False
    if not sound:
        raise DataError(f"{shown(entry)}: must be an item's code, id or title, or a pair of that and a rating")
    if rating is not None and math.isnan(number):
        raise DataError(f"item {item!r}: the rating {rating} is not a number")
    return item, number


# --- many people, by ids --------------------------------------------------------------------------------------------


class _Entries(NamedTuple):
    """Entries (n,) of ``people`` (p,), of whom ``person`` (n,) says which, on ``items``, of which ``item`` (n,) does.

    ``source``: what messages call them · ``ratings`` (n,), nan or None where there are none.
    """

    source: str
    people: np.ndarray
    person: np.ndarray
    item: np.ndarray
    items: np.ndarray
    ratings: np.ndarray | None


def read_histories(model: Model, histories: Histories) -> tuple[np.ndarray, Interactions]:
    """Return who the people are, (p,), and what they have, (p, n_items), as ``model`` reads it.

    Raises:
        DataError: none of the items is known, an entry is no item, or ratings are missing that the model reads.
    """
    if model.rates and not model.rated:
        raise ConfigError(f"this {model.slug} was never trained: call fit first")
    entries = _entries(histories)
    column = columns_of(model, entries.items)
    unknown = column < 0
    if unknown.any():
        first = _plain(entries.items[int(unknown.argmax())])
        if unknown.all():
            raise DataError(f"{entries.source}: none of its items is known, the first is {first!r}: use ids or titles")
        warnings.warn(
            f"{entries.source}: {counted(int(unknown.sum()), 'unknown item')} left out, the first is {first!r}"
        )
        known = ~unknown[entries.item]
        nothing_left = np.setdiff1d(entries.person, entries.person[known])
        if len(nothing_left):
            first = _plain(entries.people[nothing_left[0]])
            warnings.warn(
                f"{entries.source}: {counted(len(nothing_left), 'user')} without any known item, the first "
                f"is {first!r}, will get the list for an empty history"
            )
        ratings = None if entries.ratings is None else entries.ratings[known]
        entries = entries._replace(person=entries.person[known], item=entries.item[known], ratings=ratings)
    ratings = entries.ratings
    if model.rated:
        if ratings is None:
            ratings = np.full(len(entries.item), np.nan)
        check_ratings_of(model, entries.source, entries.items[entries.item], ratings)
    elif ratings is not None and not np.isnan(ratings).all():
        warnings.warn(
            f"{entries.source}: this run was trained on clicks, so ratings are not read: all items count as liked"
        )
    matrix = history_matrix(model, entries.person, column[entries.item], ratings, len(entries.people))
    return entries.people, matrix


def _entries(histories: Histories) -> _Entries:
    """Return histories of any form as arrays."""
    source = "the histories"
    if isinstance(histories, str | Path):
        source, histories = str(histories), read_own_file(histories)
    elif isinstance(histories, OneHistory):
        source, histories = histories.source, histories.entries
    if isinstance(histories, RatingLog):
        log = histories
        people, person = np.unique(log.user, return_inverse=True)  # those that a selection has left
        items, item = np.unique(log.item, return_inverse=True)
        return _Entries(source, log.user_ids[people], person, item, log.item_ids[items], log.rating)
    if isinstance(histories, pd.DataFrame):
        return _Entries(source, *_of_frame(histories))
    people = histories if isinstance(histories, Mapping) else {None: histories}
    for name, history in people.items():
        if isinstance(history, str | Mapping) or not isinstance(history, Iterable):
            whose = "the history" if people is not histories else f"the history of {shown(name)}"
            raise DataError(f"{whose} is {shown(history)}: must be a list of items, or of (item, rating)")
    pairs = [(row, *_pair(entry)) for row, history in enumerate(people.values()) for entry in history]
    person, items, ratings = zip(*pairs, strict=True) if pairs else ((), (), ())
    codes, distinct = pd.factorize(as_names(items))
    names = pd.Series(list(people), dtype=None if people else object).to_numpy()
    return _Entries(source, names, np.array(person, dtype=np.int64), codes, distinct, np.array(ratings, dtype=float))


def _of_frame(frame: pd.DataFrame) -> tuple:
    """Return the fields of :class:`_Entries` but its first."""
    coded = {}
    for name in ("user", "item"):
        if list(frame.columns).count(name) != 1:
            raise DataError(
                f"the histories need one column {name!r}, found {list(map(str, frame.columns))[:8]}: rename the "
                "columns to user, item and, where there are ratings, rating"
            )
        coded[name] = pd.factorize(frame[name])
        if (coded[name][0] < 0).any():
            raise DataError(f"the histories, row {int((coded[name][0] < 0).argmax()) + 1}: {name} is missing")
    (person, people), (item, items) = coded.values()
    ratings = None
    if "rating" in frame:
        ratings = pd.to_numeric(frame["rating"], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return np.asarray(people), person, item, np.asarray(items), ratings


def text_of(name: Any) -> str:
    """Return an id as text, in which "12", 12 and a table's 12.0 are the same."""
    return str(int(name)) if isinstance(name, float) and name.is_integer() else str(name)


def columns_of(model: Model, names: np.ndarray) -> np.ndarray:
    """Return the model's column of each item (n,), called by its id or title; -1 for those it does not know.

    Raises:
        DataError: the model has no ids, or several items have a title.
    """
    items = model.item_names
    if items is None:
        raise DataError("the run knows no item ids: train it on a split that does, as `vaecf fit` makes")
    column = np.full(len(items) + 1, -1)  # the last is that of no item
    column[model.item_index.cpu().numpy()] = np.arange(model.n_items)
    codes = [items.code(text_of(name)) for name in names.tolist()]
    return column[[-1 if code is None else code for code in codes]].astype(np.int64)


def as_names(names: Any) -> np.ndarray:
    """Return one id, or several, as an array (n,) of objects.

    Raises:
        DataError: it is neither.
    """
    if not isinstance(names, str | Integral | Iterable):
        raise DataError(f"{shown(names)}: must be an id, or a list of ids")
    names = [names] if isinstance(names, str | Integral) else list(names)
    array = np.empty(len(names), dtype=object)
    array[:] = names
    return array


def candidates(model: Model, exclude: Any, only: Any) -> Tensor | None:
    """Return which columns may be shown, (n_items,) bool: those of ``only`` without those of ``exclude``; None for all.

    Raises:
        DataError: none of the items in ``only`` is known.
    """
    allowed = torch.full((model.n_items,), only is None)
    for option, names, allow in (("only", () if only is None else only, True), ("exclude", exclude, False)):
        names = as_names(names)
        column = columns_of(model, names) if len(names) else np.zeros(0, dtype=np.int64)
        unknown = column < 0
        if unknown.any():
            first = f"{option}: {counted(int(unknown.sum()), 'unknown item')}, the first is {names[unknown.argmax()]!r}"
            if allow and unknown.all():
                raise DataError(f"{first}, and no other: use ids or titles as in the data")
            warnings.warn(first)
        allowed[torch.from_numpy(column[~unknown])] = allow
    return None if bool(allowed.all()) else allowed


def write_lists(frame: pd.DataFrame, path: Path) -> None:
    """Write a table of lists, atomically: .csv, .tsv, .parquet, or .json and .jsonl with one object a line.

    Raises:
        ConfigError: the name ends otherwise, .parquet needs a package that is not there, or there is no such folder.
    """
    kind = check_kind(path)

    def write(temporary: Path) -> None:
        if kind == ".parquet":
            frame.to_parquet(temporary, index=False)
        elif kind in (".json", ".jsonl"):
            frame.to_json(temporary, orient="records", lines=True, force_ascii=False)
        else:
            frame.to_csv(temporary, sep="," if kind == ".csv" else "\t", index=False, encoding="utf-8")

    write_atomically(path, write)


def check_kind(path: Path) -> str:
    """Return the kind of file that ``path`` names.

    Raises:
        ConfigError: it is none that :func:`write_lists` knows, needs a package that is not there, or there is no such
            folder.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".parquet", ".json", ".jsonl"):
        raise ConfigError(f"{path}: unknown kind {kind!r}. Use .csv, .tsv, .parquet, .json or .jsonl")
    if kind == ".parquet" and find_spec("pyarrow") is None:
        raise ConfigError(f"{path}: pip install pyarrow to write .parquet")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}: make it first")
    return kind
