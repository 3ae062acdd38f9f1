"""The papers' protocols: which ratings train, validate and test."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import ConfigError, counted, shown
from ..options import checked
from .interactions import Interactions
from .items import Items
from .ratings import RatingLog


@dataclass(frozen=True)
class HeldOut:
    """What a model is shown of some users (``history``) and must find (``targets``): same shape, no pair in both.

    Users without targets are never scored; ``n_without_targets`` counts them. ``strangers``: the rows are other people
    than those of the training part, so that a row number says nothing to a system that knows its users.
    """

    history: Interactions
    targets: Interactions
    strangers: bool = False

    @property
    def n_without_targets(self) -> int:
        """Number of users that have nothing to be found."""
        return int((self.targets.counts == 0).sum())

    def to(self, device) -> HeldOut:
        """Return the same parts on ``device``."""
        return replace(self, history=self.history.to(device), targets=self.targets.to(device))


@dataclass(frozen=True)
class Kept:
    """What a protocol's ``threshold`` and ``min_items`` left of a log; ``str()`` says it in one line.

    ``ratings``, ``users`` (kept, of all) · ``threshold`` None where none was applied · ``scale`` lowest and highest
    rating of the log, None if it has only clicks.
    """

    ratings: tuple[int, int]
    users: tuple[int, int]
    threshold: float | None
    min_items: int
    scale: tuple[float, float] | None

    def __str__(self) -> str:
        what = "interactions" if self.scale is None else "ratings"
        threshold = "no threshold" if self.threshold is None else f"threshold {self.threshold:g}"
        scale = "" if self.scale is None else f"{threshold} on ratings from {self.scale[0]:g} to {self.scale[1]:g}, "
        return (
            f"{scale}at least {counted(self.min_items, 'item')} per user: "
            f"{self.ratings[0]:,} of {self.ratings[1]:,} {what} and {self.users[0]:,} of {self.users[1]:,} users kept"
        )


@dataclass(frozen=True)
class People:
    """The users of a split by their source ids, and all that the data say of each.

    ``ids`` (n,) source ids · ``histories`` (n, n_items) everything that was kept of them, held-out parts included ·
    ``train_rows`` (n,) int64 row of the training part, -1 for users that were held out ·
    ``disliked`` (n, n_items) what they rated below the threshold: part of no history, and never recommended to them;
    None if there is nothing of the kind.
    """

    ids: np.ndarray
    histories: Interactions
    train_rows: np.ndarray
    disliked: Interactions | None = None


@dataclass(frozen=True)
class Split:
    """A data set cut by a protocol.

    ``train`` what models fit · ``valid``, ``test`` (:class:`HeldOut`; None where nothing is held out) · ``item_index``
    (n_items,) code in the log of each column · ``protocol`` its name · ``titles`` by column ·
    ``items`` ids and titles by code in the log, None if nobody knows them ·
    ``kept`` what the protocol's threshold and min_items left (None where it has neither) ·
    ``people`` who the users are (:class:`People`), for those who will be served ·
    ``source`` which log was cut how: its name, its hash and the split's settings, as JSON has them.
    """

    protocol: str
    train: Interactions
    valid: HeldOut | None
    test: HeldOut | None
    item_index: np.ndarray
    titles: tuple[str, ...] | None = None
    items: Items | None = None
    kept: Kept | None = None
    people: People | None = None
    source: dict[str, Any] | None = None

    @property
    def n_items(self) -> int:
        """Number of columns of every part."""
        return self.train.n_items

    def to(self, device) -> Split:
        """Return the same split on ``device``."""
        valid, test = (part and part.to(device) for part in (self.valid, self.test))
        return replace(self, train=self.train.to(device), valid=valid, test=test)


def positives(log: RatingLog, threshold: float | None) -> RatingLog:
    """Keep the ratings at or above ``threshold`` (all of them if None, or if the log has only clicks)."""
    if threshold is None or log.rating is None:
        return log
    kept = log.select(log.rating >= threshold)
    if len(kept) == 0:
        raise ConfigError(
            f"no rating of {log.name} is at or above threshold={threshold:g} "
            f"(ratings reach {log.rating.max():g}): lower the threshold"
        )
    return kept


def negatives(log: RatingLog, threshold: float | None) -> RatingLog:
    """Keep what :func:`positives` leaves out: the ratings below ``threshold``."""
    if threshold is None or log.rating is None:
        return log.select(np.zeros(len(log), dtype=bool))
    return log.select(log.rating < threshold)


def what_is_kept(log: RatingLog, liked: RatingLog, users: np.ndarray, threshold: float | None, min_items: int) -> Kept:
    """Count what is left of ``log``: the entries in ``liked`` of ``users``; warn where hardly anything is, or all."""
    scale = None if log.rating is None else (float(log.rating.min()), float(log.rating.max()))
    kept = Kept(
        ratings=(int(np.bincount(liked.user, minlength=log.n_users)[users].sum()), len(log)),
        users=(len(users), int(np.count_nonzero(np.bincount(log.user)))),
        threshold=None if scale is None else threshold,
        min_items=max(min_items, 1),
        scale=scale,
    )
    # A fifth, for the highest mark alone is some 22 % of MovieLens' ratings, and a choice one may make.
    if kept.ratings[0] < kept.ratings[1] / 5 or kept.users[0] < kept.users[1] / 2:
        warnings.warn(f"{log.name}: {kept}. To keep more, lower threshold or min_items")
    if kept.threshold is not None and kept.threshold < scale[0] < scale[1]:
        warnings.warn(f"{log.name}: {kept}. All ratings count as liked: give a threshold on their scale, or None")
    return kept


def _refuse_empty(log: RatingLog, remedy: str, **parts: Interactions) -> None:
    for name, part in parts.items():
        if part.nnz == 0:
            raise ConfigError(f"nothing of {log.name} is left for {name}: {remedy}")


TRAIN, VALID, TEST = range(3)


def cut_interactions(
    protocol: str,
    log: RatingLog,
    part: np.ndarray,
    users: np.ndarray,
    item_index: np.ndarray,
    *,
    disliked: RatingLog,
    kept: Kept,
    source: dict[str, Any],
    remedies: dict[str, str],
) -> Split:
    """Cut the interactions of ``users`` with the items ``item_index`` (codes, ascending): every part has all users.

    ``part`` (n,) is TRAIN, VALID or TEST for each entry of ``log``. In the test all but the targets is history: a
    validation click is known by then, and must not take a place in the ranking. ``disliked``: what the threshold took
    from ``log``.

    Raises:
        ConfigError: nothing is left for one of the parts (training, validation, test) that ``remedies`` names.
    """
    row, column = np.full(log.n_users, -1), np.full(log.n_items, -1)
    row[users], column[item_index] = np.arange(len(users)), np.arange(len(item_index))
    there = (row[log.user] >= 0) & (column[log.item] >= 0)

    def matrix(keep: np.ndarray) -> Interactions:
        values = None if log.rating is None else log.rating[keep]
        shape = (len(users), len(item_index))
        return Interactions.from_pairs(row[log.user[keep]], column[log.item[keep]], values, shape=shape)

    train, validation, targets = (matrix(there & (part == which)) for which in (TRAIN, VALID, TEST))
    parts = {"training": train, "test": targets, "validation": validation}
    for name, remedy in remedies.items():
        _refuse_empty(log, remedy, **{name: parts[name]})
    return Split(
        protocol=protocol,
        train=train,
        valid=HeldOut(train, validation) if validation.nnz else None,
        test=HeldOut(matrix(there & (part != TEST)) if validation.nnz else train, targets),
        item_index=item_index,
        titles=_titles(log, item_index),
        items=log.items,
        kept=kept,
        people=_people(log, disliked, users, users, item_index),
        source=source,
    )


def _active_users(log: RatingLog, min_items: int) -> np.ndarray:
    """Return the codes of the users with at least ``min_items`` entries, ascending."""
    return np.flatnonzero(np.bincount(log.user, minlength=log.n_users) >= max(min_items, 1))


def some_active_users(log: RatingLog, min_items: int) -> np.ndarray:
    """Return the active users, of whom there must be one."""
    users = _active_users(log, min_items)
    if len(users) == 0:
        raise ConfigError(f"no user of {log.name} has {counted(min_items, 'item')}: lower min_items")
    return users


def _hold_out_fifth(user: np.ndarray, rng: np.random.RandomState, share: float, at_least: int) -> np.ndarray:
    """Mark int(share * n) random entries of each user with ``at_least`` entries; ``user`` (n,) codes.

    Shares are meant as written: 0.15 / 0.8 of 16 is 3, although the product falls short of it by a rounding error.
    """
    held = np.zeros(len(user), dtype=bool)
    order = np.argsort(user, kind="stable")  # user by user, in the order of the log
    bounds = np.flatnonzero(np.diff(user[order], prepend=-1, append=-1))
    for start, stop in pairwise(bounds):
        n = stop - start
        if n >= at_least:
            held[order[start + rng.choice(n, size=int(share * n + 1e-9), replace=False)]] = True
    return held


def _titles(log: RatingLog, item_index: np.ndarray) -> tuple[str, ...] | None:
    return None if log.titles is None else tuple(log.titles[i] for i in item_index)


def _people(
    log: RatingLog, disliked: RatingLog, users: np.ndarray, train_users: np.ndarray, item_index: np.ndarray
) -> People:
    """Return who ``users`` (ascending codes) are and what the logs have of them in the columns ``item_index``."""
    row, column = np.full(log.n_users, -1), np.full(log.n_items, -1)
    row[users], column[item_index] = np.arange(len(users)), np.arange(len(item_index))

    def matrix(log: RatingLog, ratings: np.ndarray | None) -> Interactions:
        keep = (row[log.user] >= 0) & (column[log.item] >= 0)
        values = None if ratings is None else ratings[keep]
        shape = (len(users), len(item_index))
        return Interactions.from_pairs(row[log.user[keep]], column[log.item[keep]], values, shape=shape)

    train_rows = np.full(len(users), -1)
    train_rows[row[train_users]] = np.arange(len(train_users))
    below = matrix(disliked, None)
    return People(log.user_ids[users], matrix(log, log.rating), train_rows, below if below.nnz else None)


def source_of(log: RatingLog, protocol: str, **settings: Any) -> dict[str, Any]:
    """Return which log is cut and how.

    Raises:
        ConfigError: it is no log.
    """
    if not isinstance(log, RatingLog):
        raise ConfigError(
            f"log={shown(log)}: must be a RatingLog, as of RatingLog.from_frame(df), read_own_file(path) or "
            "load_dataset(name)"
        )
    return {"data": log.name, "data_sha256": log.sha256, "protocol": protocol, "settings": settings}


@checked
def split_strong(
    log: RatingLog,
    n_heldout: int | None = None,
    threshold: float | None = 4,
    min_items: int = 5,
    seed: int = 98765,
) -> Split:
    """Strong generalisation as in Liang et al. 2018: validate and test on users never trained on.

    Keep ratings at or above ``threshold`` and users with ``min_items`` of them; permute the users with ``seed``;
    the last 2·``n_heldout`` are for validation and test (None: a tenth of the users each). Items are those of the
    training users. Of each held-out user's remaining items int(0.2 n) random ones are targets if n >= 5, with
    the seed set anew for either group, as in the authors' notebook; the rest is the history. A split that comes with
    the log (``is_test``) holds out interactions, not users, and is not used here.

    Raises:
        ConfigError: an option is out of range, ``n_heldout`` leaves no training users, the threshold leaves no ratings,
            or no held-out user has anything to be found.
    """
    source = source_of(log, "strong", n_heldout=n_heldout, threshold=threshold, min_items=min_items, seed=seed)
    whole, log = log, positives(log, threshold)
    users = _active_users(log, min_items)
    n_heldout = max(len(users) // 10, 1) if n_heldout is None else n_heldout
    if len(users) - 2 * n_heldout < 1:
        most = (len(users) - 1) // 2
        remedy = f"choose at most {most}" if most > 0 else "it takes three users"
        raise ConfigError(
            f"n_heldout={n_heldout} does not fit {counted(len(users), 'user')} with at least "
            f"{counted(min_items, 'item')}: {remedy}, or lower min_items"
        )
    kept = what_is_kept(whole, log, users, threshold, min_items)
    shuffled = users[np.random.RandomState(seed).permutation(len(users))]
    groups = [np.sort(group) for group in np.split(shuffled, [len(users) - 2 * n_heldout, len(users) - n_heldout])]

    in_train = np.zeros(log.n_users, dtype=bool)
    in_train[groups[0]] = True
    item_index = np.flatnonzero(np.bincount(log.item[in_train[log.user]]))
    column = np.full(log.n_items, -1)
    column[item_index] = np.arange(len(item_index))

    def rows(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        row = np.full(log.n_users, -1)
        row[group] = np.arange(len(group))
        keep = (row[log.user] >= 0) & (column[log.item] >= 0)
        return row[log.user[keep]], column[log.item[keep]]

    def held_out(group: np.ndarray) -> HeldOut:
        user, item = rows(group)
        targets = _hold_out_fifth(user, np.random.RandomState(seed), 0.2, at_least=5)
        shape = (len(group), len(item_index))
        return HeldOut(
            Interactions.from_pairs(user[~targets], item[~targets], shape=shape),
            Interactions.from_pairs(user[targets], item[targets], shape=shape),
            strangers=True,
        )

    train = Interactions.from_pairs(*rows(groups[0]), shape=(len(groups[0]), len(item_index)))
    valid, test = held_out(groups[1]), held_out(groups[2])
    _refuse_empty(
        log,
        "no user held out for it has 5 items that training users know. Raise n_heldout or min_items, or hold out "
        "interactions instead of users (weak protocol)",
        validation=valid.targets,
        test=test.targets,
    )
    return Split(
        protocol="strong",
        train=train,
        valid=valid,
        test=test,
        item_index=item_index,
        titles=_titles(log, item_index),
        items=log.items,
        kept=kept,
        people=_people(replace(log, rating=None), negatives(whole, threshold), users, groups[0], item_index),
        source=source,
    )


@checked
def split_weak(
    log: RatingLog,
    test: float = 0.2,
    valid: float = 0.0,
    threshold: float | None = None,
    min_items: int = 5,
    seed: int = 98765,
) -> Split:
    """Weak generalisation as in CFGAN and VAEGAN: of every user a random fifth is the test.

    int(``test``·n) of a user's n entries are test targets and, if ``valid`` > 0, about ``valid``·n of the others
    validation targets; the rest trains and is the history in validation. In the test the history is everything but
    the test targets: a validation click is known by then, and must not take a place in the ranking. All ratings are
    positive unless a ``threshold`` is given. A log that brings its own split (``is_test``) is cut there instead, all
    its users are kept, and ``valid`` is a share of what that leaves of each.

    Raises:
        ConfigError: an option is out of range, or nothing is left for training, validation or test.
    """
    source = source_of(log, "weak", test=test, valid=valid, threshold=threshold, min_items=min_items, seed=seed)
    test_share = test if log.is_test is None else 0.0
    if test == 0 or valid + test_share >= 1:
        raise ConfigError(f"test={test:g} and valid={valid:g} must be shares that leave something to train on")
    whole, log = log, positives(log, threshold)
    min_items = min_items if log.is_test is None else 1
    users = some_active_users(log, min_items)
    kept = what_is_kept(whole, log, users, threshold, min_items)
    log = log.select(np.isin(log.user, users))
    rng = np.random.RandomState(seed)
    is_test = _hold_out_fifth(log.user, rng, test, at_least=2) if log.is_test is None else log.is_test
    part = np.where(is_test, TEST, TRAIN)
    if valid > 0:
        rest = np.flatnonzero(~is_test)
        part[rest[_hold_out_fifth(log.user[rest], rng, valid / (1 - test_share), at_least=2)]] = VALID
    remedy = "is_test must mark some interactions, not all" if log.is_test is not None else "change test and min_items"
    return cut_interactions(
        "weak",
        replace(log, rating=None),
        part,
        users,
        np.arange(log.n_items),
        disliked=negatives(whole, threshold),
        kept=kept,
        source=source,
        remedies={"training": remedy, "test": remedy} | ({"validation": "raise valid"} if valid > 0 else {}),
    )


@checked
def split_ratings(
    log: RatingLog,
    train: float = 0.8,
    valid: float = 0.1,
    test: float = 0.1,
    seed: int = 98765,
    published: bool = True,
) -> Split:
    """Hold out ratings at random, pooled over users: 80/10/10 as in Hy-VAE, 70/15/15 as in VAE-BMF.

    Values are the ratings on their own scale. A log that brings its own split (``is_test``, as Monti et al.'s Douban
    and Flixster do) keeps it if ``published``, and ``valid`` is then cut from its training part.

    Raises:
        ConfigError: an option is out of range, the log has no ratings, the shares do not add up to 1, or nothing is
            left for training or test.
    """
    source = source_of(log, "ratings", train=train, valid=valid, test=test, seed=seed, published=published)
    if log.rating is None:
        raise ConfigError(f"{log.name} has no ratings: use the strong or weak protocol for clicks")
    if train == 0 or test == 0 or abs(train + valid + test - 1) > 1e-9:
        raise ConfigError(f"train={train:g}, valid={valid:g}, test={test:g} must be shares that add up to 1")
    n, rng = len(log), np.random.RandomState(seed)
    if log.is_test is None or not published:
        parts = np.split(rng.permutation(n), [round(train * n), round((train + valid) * n)])
    else:
        rest = rng.permutation(np.flatnonzero(~log.is_test))
        n_valid = round(valid / (train + valid) * len(rest))
        parts = [rest[n_valid:], rest[:n_valid], np.flatnonzero(log.is_test)]

    def part(at: np.ndarray) -> Interactions:
        return Interactions.from_pairs(log.user[at], log.item[at], log.rating[at], shape=(log.n_users, log.n_items))

    fit, held, targets, item_index = *map(part, parts), np.arange(log.n_items)
    drawn = log.is_test is None or not published
    remedy = "change the shares, or give more ratings" if drawn else "is_test must mark some ratings, not all"
    _refuse_empty(log, remedy, training=fit, test=targets)
    return Split(
        protocol="ratings",
        train=fit,
        valid=HeldOut(fit, held) if held.nnz else None,
        test=HeldOut(fit, targets),
        item_index=item_index,
        titles=_titles(log, item_index),
        items=log.items,
        people=_people(log, negatives(log, None), np.arange(log.n_users), np.arange(log.n_users), item_index),
        source=source,
    )


@checked
def split_all(log: RatingLog, threshold: float | None = None, min_items: int = 5, ratings: bool = False) -> Split:
    """Train on everything: no validation, no test (both None). For a refit, once the number of epochs is chosen.

    Keeps users with ``min_items`` entries at or above ``threshold``, and the items that these have. Values are the
    ratings if ``ratings``, else all entries are clicks.

    Raises:
        ConfigError: an option is out of range, the log has no ratings, or nothing is kept.
    """
    source = source_of(log, "all", threshold=threshold, min_items=min_items, ratings=ratings)
    if ratings and log.rating is None:
        raise ConfigError(f"{log.name} has no ratings: leave ratings=False for clicks")
    whole, log = log, positives(log, threshold)
    users = some_active_users(log, min_items)
    kept = what_is_kept(whole, log, users, threshold, min_items)
    item_index = np.unique(log.item[np.isin(log.user, users)])
    rated = log if ratings else replace(log, rating=None)
    people = _people(rated, negatives(whole, threshold), users, users, item_index)
    return Split(
        protocol="all",
        train=people.histories,
        valid=None,
        test=None,
        item_index=item_index,
        titles=_titles(log, item_index),
        items=log.items,
        kept=kept,
        people=people,
        source=source,
    )


def refit_split(log: RatingLog, split: Split) -> Split:
    """Return all that ``split`` kept of ``log`` as training data: :func:`split_all` with that split's settings.

    Under the strong protocol it has more columns than ``split``: items that only held-out users had.

    Raises:
        ConfigError: ``split`` was cut from another log.
    """
    if split.source is None or split.source["data_sha256"] != log.sha256:
        raise ConfigError(f"the split was not cut from this log ({log.name}): give the log that it was cut from")
    kept, ratings = split.kept, split.train.values is not None
    if kept is None:  # the ratings protocol keeps everything
        return split_all(log, min_items=0, ratings=ratings)
    return split_all(log, threshold=kept.threshold, min_items=kept.min_items, ratings=ratings)


def hold_out(log: RatingLog, column: np.ndarray, n_columns: int, *, rated: bool, seed: int = 98765) -> HeldOut:
    """Hold out a fifth of what each user of ``log`` has, for a system that was trained on other people.

    Args:
        log: one row a user; a split that comes with it (``is_test``) is used instead of a random fifth.
        column: (log.n_items,) the system's column of each item code, -1 for items that it does not know.
        n_columns: how many columns the system has.
        rated: keep the ratings as values.
        seed: of the fifth; users with less than 5 known items have no targets, as in :func:`split_strong`.
    """
    log = log.select(column[log.item] >= 0)
    is_test = log.is_test
    if is_test is None:
        is_test = _hold_out_fifth(log.user, np.random.RandomState(seed), 0.2, at_least=5)

    def part(keep: np.ndarray) -> Interactions:
        values = log.rating[keep] if rated else None
        return Interactions.from_pairs(log.user[keep], column[log.item[keep]], values, shape=(log.n_users, n_columns))

    return HeldOut(part(~is_test), part(is_test), strangers=True)
