"""Sliders: one MIME bundle; states that are drawn are states that were computed."""

import json
import re
import sys

import numpy as np
import pytest

import vaecf_lib as vc
from vaecf_lib import explore as package
from vaecf_lib.explore import Chart, Slider, explore, load_states, save_states


def curve(power, height):
    x = np.linspace(0, 1, 30)
    return power, height, x, height * x**power


def draw(state):
    power, height, x, y = state
    chart = Chart(
        "input", "output", (0, 1), (0, 2), [0, 0.5, 1], [(0, "none"), (2, "two")], caption=f"p={power} h={height}"
    )
    return (
        chart.line([0, 1], [1, 1], "grey", dashed=True)
        .line(x, y, label="<y>")
        .bars([0.5], [height], 0.1)
        .text(0.5, 1, "t")
    )


SLIDERS = {"power": Slider("power", [1, 2, 3], 2), "height": Slider("height", [0.5, 1.0], 1.0, "{:.1f}")}

HOSTILE = ["<!--<script>", "</script><b>", "$a$ and $b_$"]


@pytest.fixture
def figure():
    return explore(curve, SLIDERS, draw, alt="a power curve & more", note="closed form")


def frames(html):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])


def test_every_state_is_in_the_page_in_slider_order(figure):
    data = frames(figure.html())
    assert data["texts"] == [["1", "2", "3"], ["0.5", "1.0"]]
    assert [caption for _, caption in data["frames"]] == [f"p={p} h={h}" for p in (1, 2, 3) for h in (0.5, 1.0)]
    assert len({marks for marks, _ in data["frames"]}) == 6


def test_the_start_state_is_drawn_without_scripts(figure):
    html = figure.html()
    start = frames(html)["frames"][3]
    assert start[0] in html.split("<script")[0] and "p=2 h=1.0" in html.split("<script")[0]
    assert 'aria-label="a power curve &amp; more"' in html and "&lt;y&gt;" in html and "closed form" in html


def test_marks_that_never_move_are_written_once(figure):
    still = Chart.marks_svg(draw(curve(1, 1.0)))[0]
    assert figure.html().count(still) == 1


def test_keyboard_and_screen_readers_have_what_they_need(figure):
    html = figure.html()
    assert html.count('type="range"') == 2 and html.count("<label for=") == 2
    assert html.count('data-lm-suppress-shortcuts="true"') == 2
    assert 'aria-live="polite"' in html and 'aria-valuetext="1.0"' in html and 'role="img"' in html
    assert "http" not in html.replace("http://www.w3.org", "")


def test_the_same_figure_is_the_same_text(figure):
    assert figure.html() == explore(curve, SLIDERS, draw, alt="a power curve & more", note="closed form").html()
    assert figure.html() != explore(curve, SLIDERS, draw, alt="another").html()


def test_bundle_without_a_kernel_has_no_widget(figure):
    bundle = figure._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "image/png"}


def test_live_widget_computes_what_its_sliders_say(figure, monkeypatch):
    monkeypatch.setattr(package.slider, "_is_live", lambda: True)
    bundle = figure._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and "text/html" in bundle
    box = figure.widget()
    power, height, picture, caption, _ = box.children
    assert caption.value == "p=2 h=1.0"
    before = picture.value
    power.value = 3
    assert caption.value == "p=3 h=1.0" and picture.value != before
    height.value = 0.5
    assert caption.value == "p=3 h=0.5"


@pytest.mark.parametrize("missing", [True, False], ids=["no ipywidgets", "ipywidgets 7"])
def test_without_ipywidgets_8_a_kernel_shows_the_self_contained_figure(figure, monkeypatch, missing):
    """Colab ships 7.7, whose widgets give no MIME bundle."""
    import ipywidgets

    monkeypatch.setattr(package.slider, "_is_live", lambda: True)
    if missing:
        monkeypatch.setitem(sys.modules, "ipywidgets", None)
    else:
        monkeypatch.delattr(ipywidgets.Widget, "_repr_mimebundle_")
    bundle = figure._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"} and bundle["text/html"] == figure.html()


@pytest.mark.parametrize("text", HOSTILE)
def test_titles_are_text(text):
    """A film's title may hold anything: it ends no script element and is no formula, on a page or in print."""

    def titled(state):
        chart = Chart(text, text, (0, 1), (0, 2), [(0, text)], [(0, text)], caption=text)
        return chart.line(state[2], state[3], label=text).points([0.5], [1], label=text).text(0.5, 1, text)

    figure = explore(curve, SLIDERS, titled, alt=text, note=text)
    html = figure.html()
    assert "<" not in text or text not in html
    assert "<" not in re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1]
    assert {caption for _, caption in frames(html)["frames"]} == {text}
    assert {"tex2jax_ignore", "mathjax_ignore"} <= set(re.search(r'<figure class="([^"]*)"', html)[1].split())
    assert titled(curve(1, 1.0)).png()[:4] == b"\x89PNG"


def test_executing_the_book_is_not_live(monkeypatch):
    monkeypatch.setattr(package.slider, "in_kernel", lambda: True)
    monkeypatch.setenv("VAECF_STATIC", "1")
    assert not package.slider._is_live()
    monkeypatch.delenv("VAECF_STATIC")
    assert package.slider._is_live()


def test_stored_states(tmp_path):
    states = {(p, h): [p, h, *map(list, curve(p, h)[2:])] for p in (1, 2, 3) for h in (0.5, 1.0)}
    save_states(tmp_path / "s.json", states, {"seed": 0})
    loaded, provenance = load_states(tmp_path / "s.json")
    assert provenance == {"seed": 0}
    assert frames(explore(loaded, SLIDERS, draw, alt="x").html())["frames"][0][1] == "p=1 h=0.5"
    del loaded[(3, 1.0)]
    with pytest.raises(vc.ConfigError, match=r"no state at .*'power': 3.*make states"):
        explore(loaded, SLIDERS, draw, alt="x").html()
    for damaged in ("{}", "[" * 100_000):
        (tmp_path / "s.json").write_text(damaged)
        with pytest.raises(vc.DataError, match="no grid of states"):
            load_states(tmp_path / "s.json")


def test_mistakes_are_named():
    def moving_axes(state):
        return Chart("x", "y", (0, state[0]), (0, 2)).line(state[2], state[3])

    with pytest.raises(vc.ConfigError, match="axes must be the same"):
        explore(curve, SLIDERS, moving_axes, alt="x").html()
    with pytest.raises(vc.ConfigError, match="not among its values"):
        Slider("x", [1, 2], 3)

    def heavy(state):
        x = np.linspace(0, 1, 20_000)
        return Chart("x", "y", (0, 1), (0, 2)).line(x, state[1] * x)

    with pytest.raises(vc.ConfigError, match="more than 300000: take fewer states"):
        explore(curve, SLIDERS, heavy, alt="x").html()
