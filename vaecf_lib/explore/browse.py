"""``browse``: a table that its reader filters and sorts in the page, without a kernel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from html import escape

import pandas as pd

from ..errors import ConfigError
from .slider import BYTE_BUDGET

ALL = "all"


class browse:  # noqa: N801  (reads as a verb: the last line of a cell)
    """Show a pandas table with a menu for some columns, a search box, and headers that sort; the last line of a cell.

    Args:
        frame: the table; its index is left out. What a cell shows is its ``str``; nan and None show as "–".
        menus: column -> what its menu starts at, one of the column's values or "all".
        alt: what the table holds, for readers of the page's structure.

    Rows are sorted as numbers where both are, otherwise as text, "–" last. Without scripts the whole table is there.

    Raises:
        ConfigError: a menu's column or start is not in the table, or the table exceeds 300 kB.
    """

    def __init__(self, frame: pd.DataFrame, menus: Mapping[str, str], alt: str):
        self.texts = frame.apply(lambda column: column.map(_text)).reset_index(drop=True)
        for column, start in menus.items():
            if column not in self.texts:
                raise ConfigError(f"browse: no column {column!r}. There are {', '.join(self.texts)}")
            if start != ALL and start not in set(self.texts[column]):
                raise ConfigError(f"browse: {start!r} is no value of {column!r}")
        self.menus, self.alt = dict(menus), alt

    def html(self) -> str:
        """Return the self-contained table."""
        heads = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in self.texts)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in self.texts.to_numpy()
        )
        places = {list(self.texts).index(column): column for column in self.menus}
        identity = "vaecf-" + hashlib.sha256((rows + self.alt).encode()).hexdigest()[:12]
        html = _HTML.format(
            id=identity,
            alt=escape(self.alt),
            menus="".join(self._menu(at, column) for at, column in places.items()),
            heads=heads,
            rows=rows,
            script=_SCRIPT % json.dumps(identity),
        )
        if len(html.encode()) > BYTE_BUDGET:
            raise ConfigError(f"the table has {len(html.encode())} bytes, more than {BYTE_BUDGET}: take fewer columns")
        return html

    def _menu(self, at: int, column: str) -> str:
        values = [ALL, *sorted(set(self.texts[column]))]
        options = "".join(
            f"<option{' selected' if value == self.menus[column] else ''}>{escape(value)}</option>" for value in values
        )
        return f'<label>{escape(column)} <select data-column="{at}">{options}</select></label>'

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/plain": f"{self.alt} ({len(self.texts)} rows)", "text/html": self.html()}


def _text(value) -> str:
    return "–" if value is None or value != value else str(value)


_HTML = """<div class="vaecf-browse tex2jax_ignore mathjax_ignore" id="{id}">
<div style="display:flex;flex-wrap:wrap;gap:.4em 1.4em;margin-bottom:.4em">{menus}
<label>search <input type="search" data-lm-suppress-shortcuts="true"></label></div>
<div role="region" aria-label="{alt}" tabindex="0" style="max-height:30rem;overflow:auto">
<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>
<p aria-live="polite" style="margin:.3em 0 0"></p>
<script>{script}</script>
</div>"""

_SCRIPT = """(function () {
  var root = document.getElementById(%s), body = root.querySelector("tbody"), line = root.querySelector("p");
  var rows = Array.prototype.slice.call(body.rows), search = root.querySelector("input");
  var menus = Array.prototype.slice.call(root.querySelectorAll("select"));
  var heads = Array.prototype.slice.call(root.querySelectorAll("th"));
  function filter() {
    var words = search.value.toLowerCase().split(" "), shown = 0;
    rows.forEach(function (row) {
      var text = row.textContent.toLowerCase();
      row.hidden = !menus.every(function (menu) {
        return menu.selectedIndex === 0 || row.cells[menu.dataset.column].textContent === menu.value;
      }) || !words.every(function (word) { return text.indexOf(word) >= 0; });
      shown += !row.hidden;
    });
    line.textContent = shown + " of " + rows.length + " rows";
  }
  function sort(at, up) {
    function key(row) { return row.cells[at].textContent; }
    rows.sort(function (a, b) {
      a = key(a); b = key(b);
      if ((a === "\\u2013") !== (b === "\\u2013")) return a === "\\u2013" ? 1 : -1;
      var order = isNaN(parseFloat(a)) || isNaN(parseFloat(b)) ? a.localeCompare(b) : parseFloat(a) - parseFloat(b);
      return up ? order : -order;
    });
    rows.forEach(function (row) { body.appendChild(row); });
  }
  heads.forEach(function (head, at) {
    head.firstChild.addEventListener("click", function () {
      var up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      sort(at, up);
    });
  });
  menus.concat(search).forEach(function (input) { input.addEventListener("input", filter); });
  filter();
})();"""
