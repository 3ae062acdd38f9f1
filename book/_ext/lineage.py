"""Sphinx extension, for `{eval-rst}`: `lineage`, a map of all systems, each under the one that it descends from."""

from __future__ import annotations

from html import escape
from textwrap import wrap

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from vaecf_lib.systems import SYSTEMS

WIDTH, INDENT, LINE, GAP = 340, 20, 17, 9  # of a drawing, a generation, a line of text, the space between two systems
LETTER = 7.0  # the mean width of one


def families() -> list[list[tuple[int, str]]]:
    """Return, for each system that descends from none, itself and what descends from it, as (generation, slug)."""

    def below(slug: str, generation: int) -> list[tuple[int, str]]:
        children = [other for other, system in SYSTEMS.items() if system.descent[0] == slug]
        return [(generation, slug), *(row for child in children for row in below(child, generation + 1))]

    return [below(slug, 0) for slug, system in SYSTEMS.items() if not system.descent[0]]


def words(slug: str) -> str:
    """Return what a system changes in the one it descends from, or what it is."""
    return SYSTEMS[slug].descent[1] or SYSTEMS[slug].about


def described(family: list[tuple[int, str]]) -> str:
    """Return a family in words, for those who do not see the drawing."""
    parts = [f"{slug}, from {SYSTEMS[slug].descent[0]}: {words(slug)}" for _, slug in family[1:]]
    return "; ".join([f"Lineage of {family[0][1]} ({words(family[0][1])})", *parts])


def drawing(family: list[tuple[int, str]]) -> str:
    """Return a family as SVG, in the colours of the page, no wider than a phone."""
    y, marks, at = 0, [], {}
    for generation, slug in family:
        x, middle = 8 + generation * INDENT, y + LINE / 2
        at[slug] = x, middle + 6  # where the next line down from it begins
        if generation:
            left, top = at[SYSTEMS[slug].descent[0]]
            marks.append(f'<path d="M{left} {top}V{middle}H{x - 6}"/>')
            at[SYSTEMS[slug].descent[0]] = left, middle
        marks.append(f'<circle cx="{x}" cy="{middle}" r="4"/>')
        marks.append(f'<text class="name" x="{x + 12}" y="{y + 13}">{escape(slug)}</text>')
        y += LINE
        for line in wrap(words(slug), int((WIDTH - x - 12) / LETTER)):
            marks.append(f'<text x="{x + 12}" y="{y + 12}">{escape(line)}</text>')
            y += LINE
        y += GAP
    box = f'viewBox="0 0 {WIDTH} {y}" role="img" aria-label="{escape(described(family))}"'
    return f"<svg {box}>{''.join(marks)}</svg>"


class Lineage(SphinxDirective):
    def run(self):
        drawings = "\n".join(map(drawing, families()))
        return [nodes.raw("", f'<div class="vaecf-lineage">\n{drawings}\n</div>', format="html")]


def setup(app: Sphinx):
    app.add_directive("lineage", Lineage)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
