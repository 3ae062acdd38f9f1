"""Sphinx extension, for `{eval-rst}`: `systems`, the table of all systems, and `options SLUG`, one system's options."""

from __future__ import annotations

import json

from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from vaecf_lib.systems import SYSTEMS


def list_table(header: list[str], widths: str, rows: list[list[str]]) -> str:
    """Return a table in RST."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", "   :class: wide", ""]
    for row in [header, *rows]:
        lines += [f"   {'*' if at == 0 else ' '} - {cell}" for at, cell in enumerate(row)]
    return "\n".join([*lines, ""])


def literal(value) -> str:
    return f"``{json.dumps(value)}``"


class Systems(SphinxDirective):
    def run(self):
        rows = []
        for slug, system in SYSTEMS.items():
            settings = ", ".join(f"``{name}={json.dumps(value)}``" for name, value in system.settings.items())
            path = f"{system.model.__module__.rsplit('.', 1)[0]}.{system.model.__name__}"
            name = f":class:`~{path}`" + (f" with {settings}" if settings else "")
            rows.append([f"``{slug}``", system.about, name])
        return self.parse_text_to_nodes(list_table(["name", "what it is", "class"], "20 45 35", rows))


class Options(SphinxDirective):
    """What each option means stands in the docstring above the table."""

    required_arguments = 1

    def run(self):
        rows = [
            [f"``{name}``", literal(option.default), str(option)]
            for name, option in SYSTEMS[self.arguments[0]].options.items()
        ]
        return self.parse_text_to_nodes(list_table(["option", "default", "may be"], "25 25 50", rows))


def setup(app: Sphinx):
    app.add_directive("systems", Systems)
    app.add_directive("options", Options)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
