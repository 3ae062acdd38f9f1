"""``browse``: what a table's page holds before a script runs, and what it refuses."""

import re

import pandas as pd
import pytest

from vaecf_lib.errors import ConfigError
from vaecf_lib.explore import browse

FRAME = pd.DataFrame({"system": ["b <i>", "a"], "ndcg": [0.4, float("nan")], "state": ["measured", "not measured"]})


def test_all_rows_are_in_the_page_with_their_text_escaped():
    """Without scripts the whole table is there, and what a cell says is text, never markup."""
    html = browse(FRAME, {"state": "measured"}, "two systems").html()
    cells = re.findall(r"<td>(.*?)</td>", html)
    assert cells == ["b &lt;i&gt;", "0.4", "measured", "a", "–", "not measured"]
    assert 'aria-label="two systems"' in html and "<i>" not in html


def test_a_menu_offers_all_and_each_value_and_starts_where_it_is_told():
    html = browse(FRAME, {"state": "measured"}, "two systems").html()
    assert "<option>all</option><option selected>measured</option><option>not measured</option>" in html
    assert 'data-column="2"' in html


@pytest.mark.parametrize(
    ("menus", "message"),
    [({"stat": "all"}, "no column 'stat'"), ({"state": "other"}, "'other' is no value of 'state'")],
)
def test_menus_that_the_table_has_not_are_named(menus, message):
    with pytest.raises(ConfigError, match=message):
        browse(FRAME, menus, "two systems")


def test_a_table_too_large_for_a_page_is_refused():
    with pytest.raises(ConfigError, match="more than 300000: take fewer columns"):
        browse(pd.concat([FRAME] * 5000), {}, "many").html()
