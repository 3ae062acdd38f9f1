"""A table that a reader filters and sorts, in a real browser."""

import pandas as pd
import pytest

from vaecf_lib.explore import browse

FRAME = pd.DataFrame(
    {
        "system": ["ease", "recvae", "sivae", "mult-vae"],
        "ndcg": ["0.40", "0.5", None, "0.45"],
        "state": ["measured", "measured", "not measured", "measured"],
    }
)


@pytest.fixture
def page(browser, tmp_path):
    (tmp_path / "index.html").write_text(
        "<!doctype html><meta charset=utf-8>" + browse(FRAME, {"state": "measured"}, "systems").html(), "utf-8"
    )
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    yield page
    page.close()


def shown(page) -> list[str]:
    return page.eval_on_selector_all("tbody tr:not([hidden])", "rows => rows.map(row => row.cells[0].textContent)")


def test_menus_and_words_filter_and_the_line_counts(page):
    assert shown(page) == ["ease", "recvae", "mult-vae"]
    page.locator("input").fill("vae 0.4")
    assert shown(page) == ["mult-vae"] and page.locator("p").inner_text() == "1 of 4 rows"
    page.locator("input").fill("")
    page.locator("select").select_option("all")
    assert len(shown(page)) == 4


def test_headers_sort_numbers_both_ways_with_gaps_last(page):
    page.locator("select").select_option("all")
    head = page.locator("th", has_text="ndcg")
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert shown(page) == ["ease", "mult-vae", "recvae", "sivae"] and head.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert shown(page) == ["recvae", "mult-vae", "ease", "sivae"] and head.get_attribute("aria-sort") == "descending"
