"""The chapters' form: parts, short cells, alt text, named tests that exist, solutions that check themselves."""

import json
import re

import errata
import lineage
import nbformat
import pytest
import yaml
from conftest import CHAPTERS, ROOT, tool
from setup_cell import setup_cell

from vaecf_lib.systems import SYSTEMS

APPENDICES = ("derivations", "errata", "notation", "systems")
TEXTS = {name: (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8") for name in CHAPTERS}


def test_contents_name_every_chapter_in_order():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert [f.split("/")[1] for f in files if f.startswith("notebooks/")] == CHAPTERS
    for file in [toc["root"], *files]:
        assert (ROOT / f"{file}.md").exists() or (ROOT / f"{file}.ipynb").exists()


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_has_its_parts(name):
    text = TEXTS[name]
    for part in ("**After this chapter you can**", "**Predict", "**Explain", "## Exercises", "## Summary"):
        assert part in text, part
    for grade in ("*Easy.*", "*Medium.*"):
        assert grade in text
    assert 4 <= text.count("```{exercise}") <= 6


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_exercise_has_a_solution_that_checks_itself(name):
    labels = re.findall(r"```\{exercise\}\n:label: (\S+)", TEXTS[name])
    for label in labels:
        match = re.search(rf"```\{{solution-start\}} {label}\n(.*?)```\{{solution-end\}}", TEXTS[name], re.S)
        assert match and ":class: dropdown" in match[1], label
        assert "\nassert " in match[1] or "    assert " in match[1], label


@pytest.mark.parametrize("name", CHAPTERS)
def test_cells_are_short(name):
    for cell in tool.read_chapter(name).cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 25, cell.source[:200]


@pytest.mark.parametrize("name", CHAPTERS)
def test_visible_code_fits_the_page(name):
    for cell in tool.read_chapter(name).cells:
        if cell.cell_type == "code" and not any("hide" in tag for tag in cell.metadata.get("tags", [])):
            assert max(map(len, cell.source.splitlines())) <= 90, cell.source[:200]


@pytest.mark.parametrize("name", CHAPTERS)
def test_theorems_and_identities_name_tests_that_exist(name):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXTS[name])
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{test}"
    boxes = re.findall(r"```\{prf:(theorem|proposition)\}(.*?)\n```\n", TEXTS[name], re.S)
    for _, box in boxes:
        assert "*Checked by*" in box, box[:80]


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_picture_has_alt_text(name):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data and "text/html" not in data:
                assert len(cell.metadata["mystnb"]["image"]["alt"]) > 30, cell.source
    assert not re.findall(r"!\[\]\(", TEXTS[name])


@pytest.mark.parametrize("name", CHAPTERS)
def test_setup_cell_and_parameters(name):
    cells = [c for c in tool.read_chapter(name).cells if c.cell_type == "code"]
    assert cells[0].metadata["tags"] == ["hide-cell", "setup"]
    assert cells[0].source == setup_cell(*tool.repository()) and "\n# @SETUP@\n" in TEXTS[name]
    assert "parameters" in cells[1].metadata["tags"]
    for parameter in ("DATASET", "EPOCHS", "DEVICE", "SEED"):
        assert f"{parameter} = " in cells[1].source


@pytest.mark.parametrize("name", CHAPTERS)
def test_no_line_of_prose_is_taken_for_a_comment(name):
    """MyST drops a line that begins with a percent sign: a wrapped "5 %" would lose the rest of its sentence."""
    prose = [cell.source for cell in tool.read_chapter(name).cells if cell.cell_type == "markdown"]
    assert not [line for source in prose for line in source.splitlines() if line.startswith("%")]


def test_the_address_of_the_repository_stands_once():
    """A published address stands in _config.yml alone; the one that nobody owns stands nowhere."""
    texts = [*(ROOT / "book").rglob("*.md"), *(ROOT / "book" / "_ext").rglob("*.py"), ROOT / "README.md"]
    texts += [*(ROOT / "vaecf_lib").rglob("*.py"), ROOT / "pyproject.toml", ROOT / "CITATION.cff"]
    address, _ = tool.repository()
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert "github.com/vaecf/" not in text or address.startswith("https://github.com/vaecf/"), path
        assert not address or address not in text or path.name == "pyproject.toml", path
    assert address or "github.com/vaecf/" not in (ROOT / "_config.yml").read_text(encoding="utf-8")


def appendix(name):
    return (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", APPENDICES)
def test_appendices_name_tests_that_exist(name):
    for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", appendix(name)):
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{test}"
    assert not [line for line in appendix(name).splitlines() if line.startswith("%")]


def test_every_derivation_names_its_chapter_and_a_test():
    for section in appendix("derivations").split("\n## ")[1:]:
        title = section.splitlines()[0]
        assert re.search(r"\*Used in chapters? \d", section), title
        assert "hecked" in section and "`tests/" in section, title


def test_every_erratum_of_an_equation_has_its_section():
    """Each entry says where it stands, and all but those that are plain to read how they were checked."""
    for entry in re.findall(r"^- (.*?)(?=^- |^## |\Z)", appendix("errata"), re.S | re.M):
        assert re.search(r"Sec\.|Eq\.|Algorithm|Letters", entry), entry


def test_the_errata_page_has_every_paper_of_the_verdicts():
    """A paper without its directive would be left out without a word."""
    noted = json.loads((ROOT / "book" / "results" / "verdicts.json").read_text(encoding="utf-8"))["errata"]
    shown = re.findall(r"^\.\. errata:: (\w+)$", appendix("errata"), re.M)
    assert sorted(shown) == sorted({paper for erratum in noted for paper in erratum["where"]["paper"]})
    assert sum(len(errata.rows(paper)) for paper in shown) == len(noted)


def test_an_erratum_is_shown_as_it_stands_in_the_verdicts():
    """Stars, bars, underscores and at signs of the file mean themselves, and nothing to RST."""
    assert errata.plain("|a_b| * `c` <d> e@5") == r"\|a\_b\| \* \`c\` \<d\> e\@5"


def test_notation_agrees_with_chapters_and_code():
    """Each symbol stands in the formulas of the chapters that its row names, and its name in the library."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "vaecf_lib").rglob("*.py"))
    formulas = {}
    for name, text in TEXTS.items():
        prose = re.sub(r"```\{code-cell\}.*?\n```\n", "", text, flags=re.S)
        formulas[int(name[:2])] = re.findall(r"\$\$.*?\$\$|\$[^$]+\$", prose, re.S)
    rows = [line.strip("|").split("|") for line in appendix("notation").splitlines() if line.startswith("| $")]
    assert len(rows) > 40
    seen = []
    for symbols, _, _, names, chapters in rows:
        for symbol in re.findall(r"\$([^$]+)\$", symbols):
            seen.append(symbol)
            # A letter alone, or followed by an index or a power: not the end of a longer name.
            whole = re.compile(rf"(?<![\\a-zA-Z]){re.escape(symbol)}(?![a-zA-Z])")
            for chapter in re.findall(r"\d+", chapters):
                assert any(map(whole.search, formulas[int(chapter)])), f"{symbol} is not in chapter {chapter}"
        for name in re.findall(r"`([^`]+)`", names):
            assert re.search(rf"\b{name}\b", code), f"{name} is not in vaecf_lib"
    assert len(seen) == len(set(seen))


def test_the_lineage_has_every_system_once():
    """Each system stands under the one that it descends from, with what it changes, and in words for the blind."""
    families = lineage.families()
    assert sorted(slug for family in families for _, slug in family) == sorted(SYSTEMS)
    for family in families:
        drawing, said = lineage.drawing(family), lineage.described(family)
        for _, slug in family:
            assert drawing.count(f">{slug}</text>") == 1 and slug in said and lineage.words(slug)
        for (generation, slug), (above, _) in zip(family[1:], family, strict=False):
            assert 1 <= generation <= above + 1
            assert (generation - 1, SYSTEMS[slug].descent[0]) in family


def test_the_api_page_has_a_table_of_options_for_every_class():
    """A system of other settings has the options of its class, whose table shows them."""
    tables = re.findall(r"^\.\. options:: (\S+)$", appendix("api"), re.M)
    wanted = {system.model.slug for system in SYSTEMS.values() if system.options}
    assert set(tables) == wanted and len(tables) == len(wanted)


def test_citations_exist():
    keys = set(re.findall(r"@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8")))
    for text in [*TEXTS.values(), *map(appendix, APPENDICES)]:
        for cited in re.findall(r"\{cite:p\}`([^`]+)`", text):
            assert set(cited.split(",")) <= keys
