"""The chapters' form: parts, short cells, alt text, named tests that exist, solutions that check themselves."""

import re

import nbformat
import pytest
import yaml
from conftest import CHAPTERS, ROOT, tool
from setup_cell import setup_cell

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


def test_citations_exist():
    keys = set(re.findall(r"@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8")))
    for text in TEXTS.values():
        for cited in re.findall(r"\{cite:p\}`([^`]+)`", text):
            assert set(cited.split(",")) <= keys
