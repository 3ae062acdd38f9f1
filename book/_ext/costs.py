"""Sphinx extension, for `{eval-rst}`, of kept measurements: `costs SHAPE`, what an epoch of every system costs, and
`paired`, some systems beside an earlier commit and other programs."""

from __future__ import annotations

import json
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from systems import list_table

RESULTS = Path(__file__).resolve().parents[2] / "book" / "results" / "speed"
HEADER = [
    "system",
    "users per CPU-second",
    "seconds per epoch",
    "memory",
    "of its limit",
    "products' share of the time",
]


def kept(name: str):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def figure(value: float) -> str:
    """Return a number to three figures, with commas between thousands."""
    return f"{float(f'{value:.3g}'):,.10g}"


def rows(shape: str) -> list[list[str]]:
    """Return the cells of each system that trains by epochs, fastest first; then of those that are solved once, and of
    those that could not be run."""
    systems = kept("systems_cpu")["shapes"][shape]["systems"]
    trained = {slug: row for slug, row in systems.items() if "share_of_limit" in row}
    cells = [
        [
            f"``{slug}``",
            figure(row["users_per_second"]),
            figure(row["seconds_full"]),
            f"{figure(row['memory_mb'])} MB",
            f"{row['share_of_limit']:.0%}" if row["gflop"] else "no products",
            f"{row['products']:.0%}",
        ]
        for slug, row in sorted(trained.items(), key=lambda item: -item[1]["users_per_second"])
    ]
    once = {slug: row for slug, row in systems.items() if row.get("seconds", 0) > 0.1 and slug not in trained}
    cells += [
        [f"``{slug}``", "", f"{figure(row['seconds'])}, once", f"{figure(row['memory_mb'])} MB", "no epochs", ""]
        for slug, row in sorted(once.items(), key=lambda item: item[1]["seconds"])
    ]
    refused = [
        [f"``{slug}``", f"not run: {row['not_run']}"] + [""] * 4 for slug, row in systems.items() if "not_run" in row
    ]
    return cells + refused


class Costs(SphinxDirective):
    required_arguments = 1

    def run(self):
        return self.parse_text_to_nodes(list_table(HEADER, "20 16 16 16 16 16", rows(self.arguments[0])))


def paired_rows() -> list[list[str]]:
    """Return the cells of each measurement; a ratio is the median over its turns, with the lowest and the highest."""
    cells = []
    for row in kept("paired_cpu"):
        speed = row["users_per_second"]
        name = f"``{row['system']}``" + "".join(f", ``{key}={value}``" for key, value in row["options"].items())
        for other in list(speed)[1:]:
            ratio = row[f"ratio_to_{other}"]
            spread = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
            who = {"before": "before", "authors": "the authors' code"}.get(other, "plain dense PyTorch")
            cells.append([name, row["shape"], figure(speed["ours"]), who, figure(speed[other]), spread])
    return cells


class Paired(SphinxDirective):
    def run(self):
        header = ["system", "shape", "users per CPU-second", "beside", "its users per CPU-second", "ratio"]
        return self.parse_text_to_nodes(list_table(header, "26 10 14 18 14 18", paired_rows()))


def setup(app: Sphinx):
    app.add_directive("costs", Costs)
    app.add_directive("paired", Paired)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
