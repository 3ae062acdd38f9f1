"""The papers' protocols: which ratings train, validate and test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ..errors import ConfigError
from .interactions import Interactions
from .items import Items
from .ratings import RatingLog


@dataclass(frozen=True)
class HeldOut:
    """What a model is shown of some users (``history``) and must find (``targets``): same shape, no pair in both.

    Users without targets are never scored; :attr:`n_without_targets` counts them.
    """

    history: Interactions
    targets: Interactions

    @property
    def n_without_targets(self) -> int:
        """Number of users that have nothing to be found."""
        return int((self.targets.counts == 0).sum())

    def to(self, device) -> HeldOut:
        """Return the same parts on ``device``."""
        return HeldOut(self.history.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Split:
    """A data set cut by a protocol.

    ``train`` what models fit · ``valid``, ``test`` (:class:`HeldOut`; ``valid`` may be None) · ``item_index``
    (n_items,) code in the log of each column · ``protocol`` strong, weak or ratings · ``titles`` by column · ``items`` ids and
    titles by code in the log, None if nobody knows them.
    """

    protocol: str
    train: Interactions
    valid: HeldOut | None
    test: HeldOut
    item_index: np.ndarray
    titles: tuple[str, ...] | None = None
    items: Items | None = None

    @property
    def n_items(self) -> int:
        """Number of columns of every part."""
        return self.train.n_items

    def to(self, device) -> Split:
        """Return the same split on ``device``."""
        valid = None if self.valid is None else self.valid.to(device)
        return replace(self, train=self.train.to(device), valid=valid, test=self.test.to(device))


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


def _active_users(log: RatingLog, min_items: int) -> np.ndarray:
    """Return the codes of the users with at least ``min_items`` entries, ascending."""
    return np.flatnonzero(np.bincount(log.user, minlength=log.n_users) >= max(min_items, 1))


def _hold_out_fifth(user: np.ndarray, rng: np.random.RandomState, share: float, at_least: int) -> np.ndarray:
    """Mark int(share * n) random entries of each user with ``at_least`` entries; ``user`` (n,) codes."""
    held = np.zeros(len(user), dtype=bool)
    order = np.argsort(user, kind="stable")  # user by user, in the order of the log
    bounds = np.flatnonzero(np.diff(user[order], prepend=-1, append=-1))
    for start, stop in pairwise(bounds):
        n = stop - start
        if n >= at_least:
            held[order[start + rng.choice(n, size=int(share * n), replace=False)]] = True
    return held


def _titles(log: RatingLog, item_index: np.ndarray) -> tuple[str, ...] | None:
    return None if log.titles is None else tuple(log.titles[i] for i in item_index)


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
        ConfigError: ``n_heldout`` leaves no training users, or the threshold leaves no ratings.
    """
    log = positives(log, threshold)
    users = _active_users(log, min_items)
    n_heldout = max(len(users) // 10, 1) if n_heldout is None else int(n_heldout)
    if n_heldout < 1 or len(users) - 2 * n_heldout < 1:
        raise ConfigError(
            f"n_heldout={n_heldout} does not fit {len(users)} users with at least {min_items} items: "
            f"choose 1 to {max((len(users) - 1) // 2, 0)}, or lower min_items"
        )
    users = users[np.random.RandomState(seed).permutation(len(users))]
    groups = np.split(users, [len(users) - 2 * n_heldout, len(users) - n_heldout])

    in_train = np.isin(log.user, groups[0])
    item_index = np.unique(log.item[in_train])
    column = np.full(log.n_items, -1)
    column[item_index] = np.arange(len(item_index))

    def rows(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        group = np.sort(group)
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
        )

    train = Interactions.from_pairs(*rows(groups[0]), shape=(len(groups[0]), len(item_index)))
    return Split("strong", train, held_out(groups[1]), held_out(groups[2]), item_index, _titles(log, item_index), log.items)


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
    positive unless a ``threshold`` is given. A log that brings its own split (``is_test``) is cut there instead, and
    all its users are kept.

    Raises:
        ConfigError: shares outside (0, 1), or nothing is left to train on.
    """
    if not 0 < test < 1 or not 0 <= valid < 1 - test:
        raise ConfigError(f"test={test:g} and valid={valid:g} must be shares that leave something to train on")
    log = positives(log, threshold)
    users = _active_users(log, min_items if log.is_test is None else 1)
    if len(users) == 0:
        raise ConfigError(f"no user of {log.name} has {min_items} items: lower min_items")
    log = log.select(np.isin(log.user, users))
    item_index = np.arange(log.n_items)
    row = np.full(log.n_users, -1)
    row[users] = np.arange(len(users))
    rng = np.random.RandomState(seed)
    is_test = log.is_test
    if is_test is None:
        is_test = _hold_out_fifth(log.user, rng, test, at_least=2)
    is_valid = np.zeros(len(log), dtype=bool)
    if valid > 0:
        rest = np.flatnonzero(~is_test)
        is_valid[rest[_hold_out_fifth(log.user[rest], rng, valid / (1 - test), at_least=2)]] = True

    def part(keep: np.ndarray) -> Interactions:
        return Interactions.from_pairs(row[log.user[keep]], log.item[keep], shape=(len(users), log.n_items))

    train = part(~is_test & ~is_valid)
    return Split(
        "weak",
        train,
        HeldOut(train, part(is_valid)) if valid > 0 else None,
        HeldOut(part(~is_test) if valid > 0 else train, part(is_test)),
        item_index,
        _titles(log, item_index),
        log.items,
    )


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
        ConfigError: the log has no ratings, or the shares do not add up to 1.
    """
    if log.rating is None:
        raise ConfigError(f"{log.name} has no ratings: use the strong or weak protocol for clicks")
    if min(train, valid, test) < 0 or train == 0 or test == 0 or abs(train + valid + test - 1) > 1e-9:
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

    fit, item_index = part(parts[0]), np.arange(log.n_items)
    return Split(
        "ratings",
        fit,
        HeldOut(fit, part(parts[1])) if len(parts[1]) else None,
        HeldOut(fit, part(parts[2])),
        item_index,
        _titles(log, item_index),
        log.items,
    )
