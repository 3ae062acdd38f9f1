"""One house style for every printed figure: colour-blind safe, legible on light and dark pages, alt text always.

Names come from data, films' titles among them, and are drawn as they are (``parse_math=False``); axis labels and titles
are the author's, and may hold mathematics.
"""

from __future__ import annotations

import base64
import io

import matplotlib.pyplot as plt
import numpy as np

from .explore.chart import COLOURS

STYLE = {
    "figure.figsize": (7.2, 3.6),
    "figure.dpi": 120,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.alpha": 0.25,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "font.size": 10,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "axes.prop_cycle": plt.cycler(color=list(COLOURS.values())),
}


class Figure:
    """A finished figure with its alt text; the last line of a cell shows it."""

    def __init__(self, figure, alt: str):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)
        self.png, self.alt = buffer.getvalue(), alt

    def _repr_mimebundle_(self, include=None, exclude=None):
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt}}


def subplots(*args, **kwargs):
    """``plt.subplots`` in the house style, which stays on for the session."""
    plt.rcParams.update(STYLE)
    return plt.subplots(*args, **kwargs)


def show(figure, alt: str) -> Figure:
    """Return ``figure`` ready to be shown, described in words by ``alt``."""
    return Figure(figure, alt)


class Table:
    """A table whose every column has a header, for screen readers; the last line of a cell shows it."""

    def __init__(self, frame):
        self.frame = frame.rename_axis(columns=None)

    def _repr_html_(self) -> str:
        return self.frame.to_html(index=False, border=0, justify="left")

    def __repr__(self) -> str:
        return self.frame.to_string(index=False)


def table(frame, *names: str) -> Table:
    """Return a pandas table ready to be shown; ``names`` head the columns that were its index."""
    return Table(frame.rename_axis(index=list(names)).reset_index() if names else frame)


def bars(names: list[str], values, intervals=None, label: str = "", colour: str = "blue", figsize=None):
    """Return a figure of horizontal bars, best on top, each with its value and 95 % interval."""
    values = np.asarray(values, float)
    order = np.argsort(values)
    figure, axes = subplots(figsize=figsize or (7.2, 0.5 * len(names) + 1.1))
    error = None if intervals is None else np.asarray(intervals, float)[order]
    axes.barh(np.arange(len(names)), values[order], xerr=error, color=COLOURS[colour], ecolor="#444", height=0.62)
    for at, i in enumerate(order):
        half = 0 if intervals is None else intervals[i]
        axes.annotate(
            f"{values[i]:.3f}", (values[i] + half, at), xytext=(5, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(np.arange(len(names)), [names[i] for i in order], parse_math=False)
    axes.set_xlabel(label)
    axes.grid(visible=False)
    axes.margins(x=0.12)
    return figure, axes


def learning_curves(runs: dict[str, object], metric: str, ceiling: float | None = None, title: str = ""):
    """Return a figure of the validation ``metric`` by epoch for each named :class:`~vaecf_lib.Run`."""
    figure, axes = subplots()
    colours = list(COLOURS.values())
    for run, colour in zip(runs.values(), colours, strict=False):
        curve = run.curve(metric)
        axes.plot(range(1, len(curve) + 1), curve, color=colour)
        axes.plot(run.best_epoch, curve[run.best_epoch - 1], "o", color=colour)
    if ceiling is not None:
        last = max(len(run.history) for run in runs.values())  # the names stand to the right of it
        axes.plot([1, last], [ceiling] * 2, color=COLOURS["grey"], linestyle="--")
        axes.annotate("best attainable", (1, ceiling), xytext=(0, 4), textcoords="offset points", color="#555")
    axes.set(xlabel="epoch", ylabel=f"validation {metric}", title=title)
    axes.margins(x=0.14)
    # Names stand at the lines' ends, pushed apart where the ends are close.
    low, high = axes.get_ylim()
    ends = sorted(
        (run.curve(metric)[-1], name, colour) for (name, run), colour in zip(runs.items(), colours, strict=False)
    )
    floor = low
    for value, name, colour in ends:
        at = max(value, floor)
        floor = at + 0.06 * (high - low)
        point = (len(runs[name].history), at)
        axes.annotate(
            name, point, color=colour, xytext=(6, 0), textcoords="offset points", va="center", parse_math=False
        )
    return figure, axes


def rank_diagram(ranks, difference: float, title: str = ""):
    """Return a critical-difference diagram: mean ``ranks`` (a Series, best first) on a line, best on the left.

    A bar joins systems whose ranks lie within ``difference``, as far as each bar reaches.
    """
    names, places = list(ranks.index), ranks.to_numpy(float)
    n, half = len(names), (len(names) + 1) // 2
    groups = [(i, max(j for j in range(i, n) if places[j] - places[i] <= difference)) for i in range(n)]
    groups = [(i, j) for i, j in groups if j > i and not any(a < i and j <= b for a, b in groups)]
    below = 0.35 * (len(groups) + 1)
    figure, axes = subplots(figsize=(7.2, 1.4 + 0.3 * half + 0.2 * len(groups)))
    axes.plot([1, n], [0, 0], color="#444", linewidth=1.5)
    for rank in range(1, n + 1):
        axes.plot([rank, rank], [0, 0.18], color="#444", linewidth=1)
        axes.annotate(str(rank), (rank, 0.28), ha="center", va="bottom")
    axes.set_title(title or "mean rank")
    axes.plot([n - difference, n], [1.2, 1.2], color="#444", linewidth=3, solid_capstyle="butt")
    label = f"critical difference {difference:.2f}"
    axes.annotate(label, (n - difference / 2, 1.3), ha="center", va="bottom", fontsize=9)
    for at, (name, place) in enumerate(zip(names, places, strict=True)):
        left = at < half
        level, side = -below - 0.55 * (at if left else n - 1 - at), 0.85 if left else n + 0.15
        axes.plot([place, place, side], [0, level, level], color=COLOURS["blue"], linewidth=1)
        text = f"{name}  {place:.2f}" if left else f"{place:.2f}  {name}"
        axes.annotate(text, (side, level), xytext=(-4 if left else 4, 0), textcoords="offset points", va="center",
                      ha="right" if left else "left", parse_math=False)  # fmt: skip
    for at, (i, j) in enumerate(groups):
        ends = [places[i] - 0.03, places[j] + 0.03]
        axes.plot(ends, [-0.3 - 0.35 * at] * 2, color=COLOURS["orange"], linewidth=4, solid_capstyle="butt")
    axes.set(xlim=(-0.2, n + 1.2), ylim=(-below - 0.55 * half, 2.0))
    axes.axis("off")
    return figure, axes
