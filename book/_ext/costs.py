"""Sphinx extension, for `{eval-rst}`: `costs SHAPE`, what an epoch of every system costs, from its kept measurement."""

from __future__ import annotations

import json
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from systems import list_table

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "systems_cpu.json"
HEADER = [
    "system",
    "users per CPU-second",
    "seconds per epoch",
    "memory",
    "of its limit",
    "products' share of the time",
]


def figure(value: float) -> str:
    """Return a number to three figures, with commas between thousands."""
    return f"{float(f'{value:.3g}'):,.10g}"


def rows(shape: str) -> list[list[str]]:
    """Return the cells of each system that trains by epochs, fastest first; then those that could not be run."""
    systems = json.loads(FILE.read_text(encoding="utf-8"))["shapes"][shape]["systems"]
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
    refused = [
        [f"``{slug}``", f"not run: {row['not_run']}"] + [""] * 4 for slug, row in systems.items() if "not_run" in row
    ]
    return cells + refused


class Costs(SphinxDirective):
    required_arguments = 1

    def run(self):
        return self.parse_text_to_nodes(list_table(HEADER, "20 16 16 16 16 16", rows(self.arguments[0])))


def setup(app: Sphinx):
    app.add_directive("costs", Costs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
