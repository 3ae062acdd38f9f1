"""A figure whose texts are hostile, on a page with the book's MathJax, in a real browser."""

import shutil

import pytest
from conftest import ROOT

from vaecf_lib.explore import Chart, Slider, explore


@pytest.mark.parametrize("text", ["<!--<script>", "</script><b>", "$a$ and $b_$", r"\(x\)"])
def test_a_figure_keeps_its_texts_and_leaves_the_page_alone(browser, serve, tmp_path, text):
    def draw(x):
        return Chart("x", "y", (0, 3), (0, 1), caption=f"{text} {x}").points([x], [0.5], label=text)

    figure = explore(lambda x: x, {"x": Slider("x", [1, 2, 3], 1)}, draw, alt=text, note=text)
    shutil.copytree(ROOT / "book" / "_static" / "mathjax", tmp_path / "mathjax")
    (tmp_path / "index.html").write_text(
        "<!doctype html><meta charset=utf-8>"
        r"<script>MathJax = {tex: {inlineMath: [['$', '$'], ['\\(', '\\)']]}}</script>"
        f'<script src="mathjax/tex-chtml-full.js"></script>{figure.html()}<p id="after">$f$</p>',
        encoding="utf-8",
    )
    page = browser.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{serve(tmp_path)}/index.html")
    page.wait_for_selector("#after mjx-container")
    page.locator("input").focus()
    page.keyboard.press("End")
    assert page.locator("figcaption").inner_text() == f"{text} 3"
    assert text in page.locator("svg").text_content() and text in page.locator("figure p").inner_text()
    assert page.locator("mjx-container").count() == 1 and problems == []
    page.close()
