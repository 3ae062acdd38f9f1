"""Splits by time: train on what came before, find what came after."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from ..errors import ConfigError, counted
from ..options import checked
from .ratings import RatingLog
from .splits import (
    TEST,
    TRAIN,
    VALID,
    Split,
    cut_interactions,
    negatives,
    positives,
    some_active_users,
    source_of,
    what_is_kept,
)


def _as_wanted(log: RatingLog, ratings: bool) -> RatingLog:
    """Return ``log`` with its ratings, or as clicks."""
    if ratings and log.rating is None:
        raise ConfigError(f"{log.name} has no ratings: leave ratings=False for clicks")
    return log if ratings else replace(log, rating=None)


def _doubt_a_frequent_moment(log: RatingLog) -> None:
    """Warn where a quarter of all entries have one timestamp: some data write 0 for a time that is not known."""
    moments, counts = np.unique(log.timestamp, return_counts=True)
    most = int(counts.argmax())
    if counts[most] > len(log) / 4:
        warnings.warn(
            f"{log.name}: {counts[most]:,} of {counted(len(log), 'entry', 'entries')} have the timestamp "
            f"{moments[most]}. If that stands for a time that is not known, do not cut by time"
        )


@checked
def split_time(
    log: RatingLog,
    valid: float = 0.1,
    test: float = 0.1,
    threshold: float | None = None,
    min_items: int = 5,
    ratings: bool = False,
) -> Split:
    """Cut at two moments, the same for all: train before the first, validate up to the second, test after it.

    Of the entries at or above ``threshold`` the last share ``test`` by ``timestamp`` is the test, the share ``valid``
    before it validation. Entries of one moment stay together, on the later side of a cut, so that shares may be larger
    than asked. Nothing of the future decides who takes part: users are those with ``min_items`` entries in training,
    items those that training users have by then; what others do later, and newcomers, are left out. The history in
    validation is the training part, in the test all before it. Users who never come back have no targets, and are not
    scored. Values are the ratings if ``ratings`` (for systems that predict them), else all entries are clicks. A split
    that comes with the log (``is_test``) is not used.

    Raises:
        ConfigError: an option is out of range, the log has no timestamps, or no ratings that ``ratings`` asks for, or
            nothing is left for training, validation or test.
    """
    source = source_of(log, "time", valid=valid, test=test, threshold=threshold, min_items=min_items, ratings=ratings)
    if log.timestamp is None:
        raise ConfigError(
            f"{log.name} has no timestamps to cut by: give a column timestamp, or choose another protocol"
        )
    if test == 0 or valid + test >= 1:
        raise ConfigError(f"valid={valid:g} and test={test:g} must be shares that leave something to train on")
    _doubt_a_frequent_moment(log)
    liked = _as_wanted(positives(log, threshold), ratings)
    moments = np.sort(liked.timestamp)
    n = len(moments)
    first, second = (moments[min(round(share * n), n - 1)] for share in (1 - valid - test, 1 - test))
    part = np.select([liked.timestamp >= second, liked.timestamp >= first], [TEST, VALID], TRAIN)
    before = liked.select(part == TRAIN)
    if len(before) == 0:
        raise ConfigError(f"nothing of {log.name} is left for training: all that is before the cuts has their moment")
    users = some_active_users(before, min_items)
    item_index = np.unique(before.item[np.isin(before.user, users)])
    taken = liked.select(np.isin(liked.item, item_index))
    remedy = "its users do nothing then with items that they knew. Raise the share, or lower min_items"
    return cut_interactions(
        "time",
        liked,
        part,
        users,
        item_index,
        disliked=negatives(log, threshold),
        kept=what_is_kept(log, taken, users, threshold, min_items),
        source=source,
        remedies={"test": remedy} | ({"validation": remedy} if valid > 0 else {}),
    )


@checked
def split_leave_one_out(
    log: RatingLog,
    threshold: float | None = None,
    min_items: int = 5,
    ratings: bool = False,
    seed: int = 98765,
) -> Split:
    """Hide two entries of each user: the last is the test, the one before it validation, as in He et al. 2017 (NCF).

    The order is that of ``timestamp``, of equal ones that of the log; without timestamps two random ones are hidden.
    Entries at or above ``threshold`` count, and users with ``min_items`` of them. Who has two of them keeps one to
    train on and has nothing in validation, who has one has no target at all. All items of these users are columns. The
    history in validation is the training part, in the test validation as well. Values are the ratings if ``ratings``
    (for systems that predict them), else all entries are clicks. A split that comes with the log (``is_test``) is not
    used.

    Raises:
        ConfigError: an option is out of range, the log has no ratings that ``ratings`` asks for, or no user has enough
            entries.
    """
    source = source_of(log, "leave-one-out", threshold=threshold, min_items=min_items, ratings=ratings, seed=seed)
    if log.timestamp is not None:
        _doubt_a_frequent_moment(log)
    liked = _as_wanted(positives(log, threshold), ratings)
    users = some_active_users(liked, min_items)
    n = len(liked)
    when = np.random.RandomState(seed).permutation(n) if log.timestamp is None else liked.timestamp
    order = np.lexsort((np.arange(n), when, liked.user))
    size = np.bincount(liked.user, minlength=log.n_users)
    from_end = np.empty(n, dtype=np.int64)  # 0 for a user's last entry, 1 for the one before
    from_end[order] = size.cumsum()[liked.user[order]] - 1 - np.arange(n)
    enough = size[liked.user]
    part = np.select([(from_end == 0) & (enough >= 2), (from_end == 1) & (enough >= 3)], [TEST, VALID], TRAIN)
    remedy = "no user has {} entries. Lower the threshold, or choose another protocol"
    return cut_interactions(
        "leave-one-out",
        liked,
        part,
        users,
        np.unique(liked.item[np.isin(liked.user, users)]),
        disliked=negatives(log, threshold),
        kept=what_is_kept(log, liked, users, threshold, min_items),
        source=source,
        remedies={"test": remedy.format("two"), "validation": remedy.format("three")},
    )
