"""Sphinx extension, for `{eval-rst}`: `errata PAPER`, the printed numbers of a paper that are not what they are called,
are doubtful, or differ from ours for a known reason; from the ledger's verdicts."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from systems import list_table

from vaecf_lib.lab import ledger, verdicts

RESULTS = Path(__file__).resolve().parents[2] / "book" / "results"
HEADER = ["where", "verdict", "how it was checked"]


def plain(text: str) -> str:
    """Return RST that shows the text as it stands; an @ would make recall@20 an address."""
    return re.sub(r"([*|`_\\<>@])", r"\\\1", text)


def place(erratum: dict) -> str:
    """Return a section or table of a paper, and what it is about there: systems, data, metrics."""
    named = [", ".join(erratum["where"][key]) for key in ("model", "dataset", "metric") if key in erratum["where"]]
    return "; ".join([erratum["section"], *named])


def rows(paper: str) -> list[list[str]]:
    """Return the cells of each erratum of a paper's numbers."""
    printed = ledger.reported(RESULTS)
    cells = []
    for erratum in verdicts.noted(RESULTS)["errata"]:
        if erratum["where"]["paper"] == [paper]:
            count = verdicts.about(printed, erratum).sum()
            where = f"{place(erratum)} ({count} number{'s' if count > 1 else ''})"
            cells.append([where, f"{erratum['verdict']}: {erratum['reason']}", erratum["checked"]])
    return [[plain(cell) for cell in row] for row in cells]


class Errata(SphinxDirective):
    required_arguments = 1

    def run(self):
        return self.parse_text_to_nodes(list_table(HEADER, "26 32 42", rows(self.arguments[0])))


def setup(app: Sphinx):
    app.add_directive("errata", Errata)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
