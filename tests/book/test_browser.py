"""The pages in a real browser: sliders by mouse and keyboard, light and dark, accessibility, no network."""

import json
from pathlib import Path

import pytest
from conftest import CHAPTERS

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
# What the theme itself gives, page for page; nothing of ours may be added without a reason beside it.
THEME = {
    "label-content-name-mismatch": "the theme's icon buttons",
    "region": "the theme's banner outside landmarks",
    "scrollable-region-focusable": "the theme lets wide equations scroll, and MathJax's boxes take no focus",
}
PAGES = [
    *(f"book/{name}" for name in ("index", "glossary", "api", "add_a_system")),
    *(f"notebooks/{n}" for n in CHAPTERS),
]
SLIDER_PAGES = [name for name in CHAPTERS]


@pytest.fixture(scope="module")
def address(site, serve):
    return serve(site)


@pytest.fixture(params=["light", "dark"])
def page(browser, address, request):
    """A page that records errors and refuses everything but the site itself."""
    context = browser.new_context(color_scheme=request.param, viewport={"width": 1280, "height": 900})
    context.add_init_script(
        f"localStorage.setItem('mode', '{request.param}'); localStorage.setItem('theme', '{request.param}')"
    )
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(f"script error: {error}"))

    def guard(route):
        if route.request.url.startswith(address) or route.request.url.startswith("data:"):
            route.continue_()
        else:
            page.problems.append(f"loads {route.request.url}")
            route.abort()

    page.route("**/*", guard)
    page.theme = request.param
    yield page
    context.close()


def state(figure):
    return figure.locator("svg").inner_html(), figure.locator("figcaption").inner_text()


@pytest.mark.parametrize("name", SLIDER_PAGES)
def test_every_slider_moves_figure_and_caption(page, address, name):
    page.goto(f"{address}/notebooks/{name}.html")
    assert page.evaluate("document.documentElement.dataset.theme") == page.theme
    figures = page.locator(".vaecf-explore")
    assert figures.count() >= 1
    for at in range(figures.count()):
        figure = figures.nth(at)
        sliders = figure.locator("input[type=range]")
        for number in range(sliders.count()):
            slider = sliders.nth(number)
            value = figure.locator("label span").nth(number)
            seen = [(*state(figure), value.inner_text())]
            slider.focus()
            page.keyboard.press("Home")
            page.keyboard.press("ArrowRight")
            seen.append((*state(figure), value.inner_text()))
            page.keyboard.press("End")
            seen.append((*state(figure), value.inner_text()))
            assert slider.get_attribute("aria-valuetext") == value.inner_text()
            slider.scroll_into_view_if_needed()
            box = slider.bounding_box()
            page.mouse.click(box["x"] + 0.4 * box["width"], box["y"] + box["height"] / 2)
            seen.append((*state(figure), value.inner_text()))
            for part, what in enumerate(("figure", "caption", "value")):
                assert len({entry[part] for entry in seen}) >= 3, (
                    f"{name}, figure {at}, slider {number}: {what} is stuck"
                )
    assert page.problems == []


def run_axe(page):
    page.evaluate(AXE)
    result = page.evaluate("async () => await axe.run(document, {resultTypes: ['violations']})")
    return {
        violation["id"]: [node["html"][:160] for node in violation["nodes"]]
        for violation in result["violations"]
        if violation["id"] not in THEME
    }


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(page, address, name):
    page.goto(f"{address}/{name}.html")
    page.wait_for_load_state("networkidle")
    page.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => 1) : 1")
    found = run_axe(page)
    assert found == {}, json.dumps(found, indent=1)[:3000]
    assert page.problems == []


def test_no_page_scrolls_sideways_on_a_phone(page, address):
    """Wide tables, code and equations scroll inside themselves, and tables of prose keep readable columns."""
    page.set_viewport_size({"width": 390, "height": 844})
    too_wide = {}
    for name in PAGES:
        page.goto(f"{address}/{name}.html")
        page.wait_for_load_state("networkidle")
        too_wide[name] = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        narrow = "[...document.querySelectorAll('table.wide td')].filter(cell => cell.clientWidth < 90).length"
        assert page.evaluate(narrow) == 0, name
    assert {name: pixels for name, pixels in too_wide.items() if pixels} == {}


def test_mathematics_is_typeset_offline(page, address):
    page.goto(f"{address}/notebooks/02_the_elbo.html")
    page.wait_for_selector("mjx-container")
    assert page.locator("mjx-container").count() > 20
    assert page.locator("mjx-merror").count() == 0
    assert page.problems == []


def test_solutions_are_folded_and_open(page, address):
    page.goto(f"{address}/notebooks/01_clicks_to_rankings.html")
    solution = page.locator(".solution.dropdown, .admonition.solution").first
    cell = page.locator("div.toggle-hidden, .toggle-hidden").first
    assert solution.count() and cell.count()


BROKEN = """<!doctype html><html lang="en"><title>t</title><main><h1>t</h1>
<figure class="vaecf-explore"><label>a<span>1</span><input type="range" min="0" max="3"></label>
<svg><g></g></svg><figcaption>stuck</figcaption></figure><img src="x.png"></main></html>"""


def test_the_checks_can_fail(browser, serve, tmp_path):
    (tmp_path / "x.html").write_text(BROKEN)
    page = browser.new_page()
    page.goto(f"{serve(tmp_path)}/x.html")
    assert "image-alt" in run_axe(page)
    figure = page.locator(".vaecf-explore")
    before = state(figure)
    page.locator("input").focus()
    page.keyboard.press("End")
    assert state(figure) == before, "a dead slider is seen to be dead"
    page.close()
