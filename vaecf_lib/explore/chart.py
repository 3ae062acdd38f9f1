"""A small chart that is drawn the same way as SVG (for sliders) and by matplotlib (for print)."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from html import escape

import numpy as np

# Colour-blind safe, and at least 3:1 against the light and the dark page.
COLOURS = {
    "blue": "#3f8fd6",
    "orange": "#d9730d",
    "green": "#1a9e6f",
    "pink": "#c95f9f",
    "red": "#dd5247",
    "grey": "#858b94",
}

_WIDTH = 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 30, 48


@dataclass
class Chart:
    """Axes with lines, points, bars, contours and labels; a sentence under it says what is seen.

    All charts of one slider must have the same axes, so that only the marks move.

    ``x_range``, ``y_range`` the axes' ends · ``x_ticks``, ``y_ticks`` lists of positions, or of (position, label) ·
    ``height`` in units of which the width has 640.
    """

    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_ticks: list = field(default_factory=list)
    y_ticks: list = field(default_factory=list)
    caption: str = ""
    height: int = 340
    marks: list[tuple] = field(default_factory=list)

    def line(self, x, y, colour: str = "blue", label: str = "", dashed: bool = False) -> Chart:
        """Add a line; ``label`` stands at its right end."""
        self.marks.append(("line", np.asarray(x, float), np.asarray(y, float), colour, label, dashed))
        return self

    def points(self, x, y, colour: str = "blue", label: str = "", size: float = 4) -> Chart:
        """Add dots; ``label`` stands beside the last."""
        self.marks.append(("points", np.asarray(x, float), np.asarray(y, float), colour, label, size))
        return self

    def bars(self, x, height, width: float, colour: str = "blue") -> Chart:
        """Add bars centred at ``x`` from zero (or the axis' end) to ``height``."""
        self.marks.append(("bars", np.asarray(x, float), np.asarray(height, float), colour, "", width))
        return self

    def contour(self, x, y, density, colour: str = "blue", levels=(0.9, 0.5, 0.1)) -> Chart:
        """Add outlines of the smallest regions that hold the shares ``levels`` of ``density`` (len(y), len(x))."""
        import contourpy

        density = np.asarray(density, float)
        ranked = np.sort(density.ravel())[::-1]
        held = np.cumsum(ranked) / ranked.sum()
        generator = contourpy.contour_generator(x, y, density)
        for level in levels:
            for line in generator.lines(ranked[min(np.searchsorted(held, level), len(ranked) - 1)]):
                self.line(line[:, 0], line[:, 1], colour)
        return self

    def text(self, x: float, y: float, text: str, colour: str = "grey") -> Chart:
        """Add a label centred at a point of the axes."""
        self.marks.append(("text", float(x), float(y), colour, text, None))
        return self

    # --- SVG ---------------------------------------------------------------------------------------------------

    def _x(self, x):
        low, high = self.x_range
        return _LEFT + (np.asarray(x) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def _y(self, y):
        low, high = self.y_range
        return self.height - _BOTTOM - (np.asarray(y) - low) / (high - low) * (self.height - _TOP - _BOTTOM)

    def frame_svg(self) -> str:
        """Return the axes: what does not move."""
        x0, x1, y0, y1 = _LEFT, _WIDTH - _RIGHT, self.height - _BOTTOM, _TOP
        parts = [f'<path d="M{x0} {y1}V{y0}H{x1}" fill="none" stroke="currentColor" stroke-opacity=".6"/>']
        for tick, label in _ticks(self.x_ticks):
            at = _n(self._x(tick))
            parts.append(f'<path d="M{at} {y0}v5" stroke="currentColor" stroke-opacity=".6"/>')
            parts.append(f'<text x="{at}" y="{y0 + 18}" text-anchor="middle">{escape(label)}</text>')
        for tick, label in _ticks(self.y_ticks):
            at = _n(self._y(tick))
            parts.append(f'<path d="M{x0} {at}H{x1}" stroke="currentColor" stroke-opacity=".12"/>')
            parts.append(f'<text x="{x0 - 7}" y="{_n(float(at) + 4)}" text-anchor="end">{escape(label)}</text>')
        middle = (x0 + x1) / 2
        parts.append(f'<text x="{middle}" y="{self.height - 10}" text-anchor="middle">{escape(self.x_label)}</text>')
        parts.append(f'<text x="{x0 - 52}" y="16">{escape(self.y_label)}</text>')
        return "".join(parts)

    def marks_svg(self) -> list[str]:
        """Return the marks, in the order they were added."""
        return [getattr(self, f"_{kind}_svg")(*rest) for kind, *rest in self.marks]

    def _line_svg(self, x, y, colour, label, dashed):
        inside = np.isfinite(y)
        if not inside.any():
            return ""
        x, y = self._x(x[inside]), np.clip(self._y(y[inside]), 0, self.height)
        steps = " ".join(f"{_n(a)},{_n(b)}" for a, b in zip(x, y, strict=True))
        dash = ' stroke-dasharray="6 5"' if dashed else ""
        svg = f'<polyline points="{steps}" fill="none" stroke="{COLOURS[colour]}" stroke-width="2.2"{dash}/>'
        if label:
            svg += _label(x[-1] - 4, max(y[-1] - 7, 12), label, colour, "end")
        return svg

    def _points_svg(self, x, y, colour, label, size):
        if len(x) == 0:
            return ""
        px, py = self._x(x), self._y(y)
        svg = "".join(f'<circle cx="{_n(a)}" cy="{_n(b)}" r="{_n(size)}"/>' for a, b in zip(px, py, strict=True))
        svg = f'<g fill="{COLOURS[colour]}">{svg}</g>'
        return svg + (_label(px[-1] + size + 4, py[-1] + 4, label, colour, "start") if label else "")

    def _bars_svg(self, x, height, colour, _, width):
        base = float(self._y(np.clip(0, *self.y_range)))
        left, right = self._x(x - width / 2), self._x(x + width / 2)
        top = np.clip(self._y(height), _TOP, self.height - _BOTTOM)
        rects = "".join(
            f'<rect x="{_n(a)}" y="{_n(min(t, base))}" width="{_n(b - a)}" height="{_n(abs(base - t))}"/>'
            for a, b, t in zip(left, right, top, strict=True)
        )
        return f'<g fill="{COLOURS[colour]}">{rects}</g>'

    def _text_svg(self, x, y, colour, text, _):
        return _label(float(self._x(x)), float(self._y(y)), text, colour, "middle")

    def svg(self, alt: str, n_still: int = 0) -> str:
        """Return the whole chart as an accessible SVG element; the first ``n_still`` marks do not move."""
        marks = self.marks_svg()
        return (
            f'<svg viewBox="0 0 {_WIDTH} {self.height}" role="img" aria-label="{escape(alt)}" fill="currentColor" '
            'font-size="13" font-family="system-ui, sans-serif" style="width:100%;max-width:720px;height:auto">'
            f"<g>{self.frame_svg()}{''.join(marks[:n_still])}</g>"
            f'<g class="vaecf-marks">{"".join(marks[n_still:])}</g></svg>'
        )

    # --- print -------------------------------------------------------------------------------------------------

    def png(self) -> bytes:
        """Return the chart drawn by matplotlib, for formats that show no HTML."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, self.height / 100), layout="constrained", dpi=110)
        axes = figure.subplots()
        for kind, x, y, colour, label, extra in self.marks:
            c = COLOURS[colour]
            if kind == "line":
                axes.plot(x, y, color=c, linestyle="--" if extra else "-")
            elif kind == "points":
                axes.scatter(x, y, color=c, s=extra**2)
            elif kind == "bars":
                axes.bar(x, y, extra, color=c)
            if label and kind == "text":
                axes.text(x, y, label, color=c, ha="center", parse_math=False)
            elif label and len(x):
                axes.annotate(label, (x[-1], y[-1]), color=c, xytext=(-3, 4), textcoords="offset points", ha="right",
                              parse_math=False)  # fmt: skip
        axes.set(xlim=self.x_range, ylim=self.y_range)
        axes.set_xlabel(self.x_label, parse_math=False)
        axes.set_ylabel(self.y_label, parse_math=False)
        for axis, ticks in ((axes.xaxis, self.x_ticks), (axes.yaxis, self.y_ticks)):
            axis.set_ticks(*zip(*_ticks(ticks), strict=True) if ticks else [[]])
            for text in axis.get_ticklabels():
                text.set_parse_math(False)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        return buffer.getvalue()


def _n(value) -> str:
    """Return a coordinate with one decimal, as short as it can be written."""
    return f"{float(value):.1f}".removesuffix(".0")


def _ticks(ticks) -> list[tuple[float, str]]:
    return [t if isinstance(t, tuple) else (t, f"{t:g}") for t in ticks]


def _label(x: float, y: float, text: str, colour: str, anchor: str) -> str:
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" style="fill:{COLOURS[colour]};font-weight:600">'
        f"{escape(text)}</text>"
    )
