"""``explore``: sliders over a grid of states, live with a kernel and self-contained without."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..checkpoints import write_json
from ..environment import in_kernel
from ..errors import ConfigError, DataError
from .chart import Chart

BYTE_BUDGET = 300_000


@dataclass(frozen=True)
class Slider:
    """One slider: its ``label`` in words, the ``values`` it stops at, the ``start`` value and a ``format`` for them."""

    label: str
    values: Sequence[float]
    start: float
    format: str = "{:g}"

    def __post_init__(self):
        if self.start not in self.values:
            raise ConfigError(f"slider {self.label!r}: the start {self.start} is not among its values {self.values}")

    @property
    def texts(self) -> list[str]:
        """The values as they are shown."""
        return [self.format.format(value) for value in self.values]


def _is_live() -> bool:
    """Tell whether a person sits at a kernel: not when the book is executed (papermill, nbval, pytest)."""
    return in_kernel() and not os.environ.get("VAECF_STATIC")


def _widgets_show_themselves() -> bool:
    """Tell whether ipywidgets is there, in a version whose widgets give a MIME bundle: 8, while Colab has 7.7."""
    try:
        import ipywidgets
    except ImportError:
        return False
    return hasattr(ipywidgets.Widget, "_repr_mimebundle_")


class explore:  # noqa: N801  (reads as a verb: the last line of a cell)
    """Show ``draw(state)`` under sliders; write it as the last line of a cell.

    Args:
        states: a function of the sliders' names that computes a state, or a mapping from a tuple of slider values
            (in the sliders' order) to a state, for instance from ``load_states``.
        sliders: name -> ``Slider``.
        draw: state -> ``Chart``. Its caption is the sentence under the figure.
        alt: what the figure shows, for readers who do not see it.
        note: a line that is always shown, for instance where the states were trained.

    In Jupyter it is a live widget that computes the state it shows; in the built book, and where ipywidgets is
    missing or older than 8, it is HTML with all states drawn beforehand, moved by mouse or arrow keys without kernel or
    network; in print it is the start state.

    Raises:
        ConfigError: the axes differ between states, or the figure exceeds 300 kB.
    """

    def __init__(
        self,
        states: Callable[..., Any] | Mapping[tuple, Any],
        sliders: dict[str, Slider],
        draw: Callable[[Any], Chart],
        alt: str,
        note: str = "",
    ):
        self.states, self.sliders, self.draw, self.alt, self.note = states, sliders, draw, alt, note

    def chart(self, *values: float) -> Chart:
        """Return the chart at one value of each slider, in the sliders' order."""
        if callable(self.states):
            return self.draw(self.states(**dict(zip(self.sliders, values, strict=True))))
        if values not in self.states:
            raise ConfigError(f"no state at {dict(zip(self.sliders, values, strict=True))}: add it with `make states`")
        return self.draw(self.states[values])

    @property
    def start(self) -> tuple[float, ...]:
        """The sliders' first position."""
        return tuple(slider.start for slider in self.sliders.values())

    def html(self) -> str:
        """Return the self-contained figure."""
        grid = list(itertools.product(*(slider.values for slider in self.sliders.values())))
        charts = [self.chart(*values) for values in grid]
        if len({(chart.frame_svg(), chart.x_range, chart.y_range) for chart in charts}) > 1:
            raise ConfigError("the axes must be the same in every state: give fixed ranges and ticks")
        marks = [chart.marks_svg() for chart in charts]
        n_still = sum(1 for _ in itertools.takewhile(lambda same: len(set(same)) == 1, zip(*marks, strict=False)))
        frames = [["".join(m[n_still:]), chart.caption] for m, chart in zip(marks, charts, strict=True)]
        data = json.dumps(
            {"frames": frames, "texts": [s.texts for s in self.sliders.values()]},
            ensure_ascii=False,
            separators=(",", ":"),
        ).replace("<", "\\u003c")  # neither "</script>" nor "<!--<script>" may end or swallow the script element
        first = charts[grid.index(self.start)]
        identity = "vaecf-" + hashlib.sha256((data + self.alt).encode()).hexdigest()[:12]
        html = _HTML.format(
            id=identity,
            svg=first.svg(self.alt, n_still),
            caption=escape(first.caption),
            inputs="".join(self._input(f"{identity}-{i}", s) for i, s in enumerate(self.sliders.values())),
            note=f'<p style="opacity:.8;margin:.3em 0 0;font-size:.85em">{escape(self.note)}</p>' if self.note else "",
            data=data,
            script=_SCRIPT % json.dumps(identity),
        )
        if len(html.encode()) > BYTE_BUDGET:
            raise ConfigError(f"the figure has {len(html.encode())} bytes, more than {BYTE_BUDGET}: take fewer states")
        return html

    @staticmethod
    def _input(identity: str, slider: Slider) -> str:
        at = list(slider.values).index(slider.start)
        text = slider.texts[at]
        return (
            f'<label for="{identity}" style="flex:1 1 14em">{escape(slider.label)} = '
            f'<span style="font-weight:700">{escape(text)}</span>'
            f'<input id="{identity}" type="range" min="0" max="{len(slider.values) - 1}" step="1" value="{at}" '
            f'aria-valuetext="{escape(text)}" data-lm-suppress-shortcuts="true" style="display:block;width:100%">'
            "</label>"
        )

    def widget(self):
        """Return a live ipywidgets box; each move computes and draws the state it shows."""
        import ipywidgets

        picture, caption = ipywidgets.HTML(), ipywidgets.HTML()
        controls = {
            name: ipywidgets.SelectionSlider(
                options=list(zip(slider.texts, slider.values, strict=True)),
                value=slider.start,
                description=slider.label,
                continuous_update=callable(self.states) is False,
                style={"description_width": "initial"},
                layout={"width": "100%"},
            )
            for name, slider in self.sliders.items()
        }

        def redraw(_=None):
            chart = self.chart(*(control.value for control in controls.values()))
            picture.value, caption.value = chart.svg(self.alt), escape(chart.caption)

        for control in controls.values():
            control.observe(redraw, names="value")
        redraw()
        return ipywidgets.VBox([*controls.values(), picture, caption, ipywidgets.HTML(escape(self.note))])

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        bundle = {"text/plain": f"{self.alt} (interactive figure)"}
        if _is_live():
            widget = self.widget()._repr_mimebundle_() if _widgets_show_themselves() else {}
            return bundle | widget | {"text/html": self.html()}
        png = base64.b64encode(self.chart(*self.start).png()).decode()
        return bundle | {"text/html": self.html(), "image/png": png}


def save_states(path: str | Path, states: Mapping[tuple, Any], provenance: dict[str, Any]) -> None:
    """Write a grid of states as small JSON with its provenance (data hash, seeds, device, settings)."""
    write_json(path, {"provenance": provenance, "states": [[list(values), state] for values, state in states.items()]})


def load_states(path: str | Path) -> tuple[dict[tuple, Any], dict[str, Any]]:
    """Return the states and the provenance of :func:`save_states`.

    Raises:
        DataError: the file is missing or is no grid of states.
    """
    try:
        grid = json.loads(Path(path).read_text(encoding="utf-8"))
        return {tuple(values): state for values, state in grid["states"]}, grid["provenance"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: no grid of states ({error}). Make it with `make states`") from error


# Captions are text: MathJax (of the page, or of a notebook) must not take "$" in a title for a formula.
_HTML = """<figure class="vaecf-explore tex2jax_ignore mathjax_ignore" id="{id}" style="margin:1em 0;max-width:720px">
<div style="display:flex;flex-wrap:wrap;gap:.4em 1.4em;margin-bottom:.4em">{inputs}</div>
{svg}
<figcaption aria-live="polite">{caption}</figcaption>{note}
<script type="application/json">{data}</script>
<script>{script}</script>
</figure>"""

_SCRIPT = """(function () {
  var root = document.getElementById(%s);
  var data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  var inputs = Array.prototype.slice.call(root.querySelectorAll("input"));
  var marks = root.querySelector(".vaecf-marks"), caption = root.querySelector("figcaption");
  function redraw() {
    var at = 0;
    inputs.forEach(function (input, i) {
      var text = data.texts[i][+input.value];
      at = at * data.texts[i].length + +input.value;
      input.previousElementSibling.textContent = text;
      input.setAttribute("aria-valuetext", text);
    });
    marks.innerHTML = data.frames[at][0];
    caption.textContent = data.frames[at][1];
  }
  inputs.forEach(function (input) { input.addEventListener("input", redraw); });
})();"""
