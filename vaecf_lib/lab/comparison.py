"""Comparing several systems over several data sets by their ranks: Friedman's test and Nemenyi's difference."""

from __future__ import annotations

import math

import pandas as pd

from ..errors import ConfigError


def _stats():
    """Return scipy.stats, which nothing else of the library needs."""
    try:
        from scipy import stats
    except ImportError as error:
        raise ConfigError("comparing systems by ranks needs scipy: pip install scipy") from error
    return stats


def mean_ranks(values: pd.DataFrame, lower_is_better: bool = True) -> pd.Series:
    """Return each system's mean rank over the data sets, best first; ties share their ranks.

    ``values``: a row a data set, a column a system. Source: Demšar 2006, Sec. 3.2.2.

    Raises:
        ConfigError: a value is missing.
    """
    if bool(values.isna().any(axis=None)):
        raise ConfigError("a system without a value on some data set has no rank: drop the system or the data set")
    return values.rank(axis=1, ascending=lower_is_better).mean().sort_values()


def friedman_p(values: pd.DataFrame) -> float:
    """Return the p-value of Friedman's test that all systems (columns, at least three) rank alike. Needs scipy."""
    return float(_stats().friedmanchisquare(*(values[name] for name in values)).pvalue)


def critical_difference(n_systems: int, n_datasets: int, alpha: float = 0.1) -> float:
    """Return Nemenyi's critical difference: mean ranks closer than this cannot be told apart at level ``alpha``.

    CD = q sqrt(k (k + 1) / (6 N)), q the quantile of the studentised range divided by sqrt(2) (Demšar 2006, Eq. 2).
    Needs scipy.
    """
    q = _stats().studentized_range.ppf(1 - alpha, n_systems, math.inf) / math.sqrt(2)
    return float(q * math.sqrt(n_systems * (n_systems + 1) / (6 * n_datasets)))
