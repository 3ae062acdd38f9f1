"""The built site: no warnings, no dead links, nothing from elsewhere."""

import html
import html.parser
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import build, copy_book

from vaecf_lib.systems import SYSTEMS


class Page(html.parser.HTMLParser):
    """Collects a page's ids, its links, and the files it loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.assets, self.images = set(), [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag in ("script", "img", "iframe", "source") and attributes.get("src"):
            self.assets.append(attributes["src"])
        if tag == "link" and attributes.get("rel") not in ("canonical", "search", "index", "next", "prev", "author"):
            self.assets.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes)


def pages(site):
    return {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}


def dead_links(site):
    parsed = pages(site)
    dead = []
    for path, page in parsed.items():
        for link in [*page.links, *page.assets]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("data:"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                dead.append(f"{path.name}: {link}")
            elif parts.fragment and target in parsed and unquote(parts.fragment) not in parsed[target].ids:
                dead.append(f"{path.name}: {link}")
    return dead


def foreign_assets(site):
    found = [
        f"{path.name}: {asset}" for path, page in pages(site).items() for asset in page.assets if urlsplit(asset).netloc
    ]
    for path in (site / "_static").rglob("*.css"):
        for url in re.findall(
            r"(?:url\(|@import )[\"']?(https?://[^\"')]+)", path.read_text(encoding="utf-8", errors="replace")
        ):
            found.append(f"{path.name}: {url}")
    return found


def test_internal_links_resolve(site):
    assert len(pages(site)) >= 9
    assert dead_links(site) == []


def test_nothing_is_loaded_from_elsewhere(site):
    assert foreign_assets(site) == []


def test_every_image_has_alt_text(site):
    for path, page in pages(site).items():
        for image in page.images:
            assert image.get("alt") is not None, f"{path.name}: {image}"
        if "notebooks" in path.parts:
            pictures = [i for i in page.images if "_images" in i["src"]]
            assert all(len(i["alt"]) > 30 for i in pictures), path.name


def test_no_markup_is_left_unread(site):
    """A directive in the wrong language builds without a warning, and stands on the page as text."""
    for path in pages(site):
        text = re.sub(r"<(pre|script|style)\b.*?</\1>|<[^>]+>", "", path.read_text(encoding="utf-8"), flags=re.S)
        assert not re.search(r"\.\. [\w-]+::|:(class|func|meth|doc|cite):|```", text), path.name


def test_the_api_page_has_every_system_and_its_options(site):
    page = (site / "book" / "api.html").read_text(encoding="utf-8")
    cells = {html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<td>(.*?)</td>", page, re.S)}
    cells = {cell.strip() for cell in cells}
    for slug, system in SYSTEMS.items():
        assert {slug, *system.options} <= cells, slug


def test_the_lineage_page_has_every_system_and_says_it_in_words(site):
    page = (site / "book" / "systems.html").read_text(encoding="utf-8")
    drawings = re.findall(r'<svg [^>]*role="img" aria-label="([^"]+)">(.*?)</svg>', page, re.S)
    drawn = [name for _, drawing in drawings for name in re.findall(r'class="name"[^>]*>([^<]+)<', drawing)]
    assert sorted(drawn) == sorted(SYSTEMS)
    assert all(name in words for words, drawing in drawings for name in re.findall(r'"name"[^>]*>([^<]+)<', drawing))


def test_the_errata_page_has_the_numbers_of_the_verdicts(site):
    page = (site / "book" / "errata.html").read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert "mrr@5, mrr@20 (2 numbers)" in text and "recall@50 (220 numbers)" in text


def test_site_is_small_enough_to_carry(site):
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    assert size < 60e6


def test_the_link_check_can_fail(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#there">x</a><a href="c.html">y</a><a href="#gone">z</a>')
    (tmp_path / "b.html").write_text('<h1 id="here">')
    assert len(dead_links(tmp_path)) == 3


def test_the_asset_check_can_fail(tmp_path):
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "x.css").write_text("@import url('https://fonts.example.org/x.css');")
    (tmp_path / "a.html").write_text('<script src="https://cdn.example.org/x.js"></script>')
    assert len(foreign_assets(tmp_path)) == 2


@pytest.mark.parametrize("breakage", ["{doc}`no_such_page`", "[x](#no-such-label)", "{cite:p}`nobody1999`"])
def test_the_build_can_fail(tmp_path, breakage):
    copy_book(tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/index\nchapters:\n  - file: book/bibliography\n")
    shutil.rmtree(tmp_path / "notebooks")
    index = Path(tmp_path / "book" / "index.md")
    index.write_text(f"# Title\n\n{breakage}\n")
    assert build(tmp_path).returncode != 0
