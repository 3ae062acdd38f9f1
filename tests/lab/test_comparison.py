"""Ranks over data sets: against Demšar's worked example and his table of quantiles."""

import pandas as pd
import pytest

import vaecf_lib as vc
from vaecf_lib.lab import ledger
from vaecf_lib.lab.comparison import critical_difference, friedman_p, mean_ranks


def test_nemenyi_quantiles_are_demsars():
    for k, q in ((2, 1.645), (4, 2.291), (7, 2.693), (10, 2.920)):  # his Table 5(a), alpha = 0.10
        assert critical_difference(k, 1) == pytest.approx(q * (k * (k + 1) / 6) ** 0.5, abs=2e-3)
    assert critical_difference(4, 14, alpha=0.05) == pytest.approx(1.25, abs=0.01)  # Sec. 3.2.4: 1.25


def test_ranks_of_vae_bmf_as_printed():
    """The paper's Fig. 2e: its printed mean ranks 2.58 and 2.79 cannot come from five data sets; 2.6 and 2.8 can."""
    printed = ledger.reported().query("paper == 'vae_bmf' and table == '3' and metric == 'rmse'")
    values = printed.pivot_table(index="dataset", columns="model", values="value")
    ranks = mean_ranks(values[["vae-bmf", "ncf", "autorec-i", "vae-cf"]])
    assert ranks.round(2).to_dict() == {"vae-bmf": 1.0, "ncf": 2.6, "autorec-i": 2.8, "vae-cf": 3.6}
    assert critical_difference(4, 5) == pytest.approx(1.87, abs=0.005)
    assert friedman_p(values) < 0.1


def test_ties_share_ranks_and_gaps_are_refused():
    values = pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 1.0], "c": [3.0, 3.0]})
    assert mean_ranks(values).to_dict() == {"b": 1.25, "a": 1.75, "c": 3.0}
    assert mean_ranks(values, lower_is_better=False).index[0] == "c"
    values.loc[0, "a"] = float("nan")
    with pytest.raises(vc.ConfigError, match="has no rank"):
        mean_ranks(values)
