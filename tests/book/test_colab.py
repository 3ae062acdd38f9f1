"""Colab, rehearsed: the chapters' first cell in a process of its own, the archive it takes, the pages' buttons."""

import json
import os
import re
import subprocess
import sys
import zipfile

import colab
import nbformat
import pytest
import yaml
from conftest import ROOT, build, copy_book, tool
from setup_cell import setup_cell

UNPUBLISHED = setup_cell("", "")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return colab.pack(tmp_path_factory.mktemp("packed") / "vaecf-colab.zip")


@pytest.fixture
def machine(tmp_path):
    """A bare environment in which `google.colab` can be imported, and the folder that stands for /content."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    (tmp_path / "fake" / "google" / "colab").mkdir(parents=True)
    (tmp_path / "fake" / "google" / "colab" / "__init__.py").touch()
    content = tmp_path / "content"
    content.mkdir()

    def run(cell=UNPUBLISHED, before="import google.colab", cwd=content, **environment):
        """Run the cell in a new process; the library's dependencies are Colab's, and no index is asked."""
        end = "import importlib.util as u, json, os; print(json.dumps([os.getcwd(), u.find_spec('vaecf_lib') is None]))"
        code = f"{before}\n{cell}\n{end}".replace("/content", str(content))
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "fake"), "PIP_NO_INDEX": "1"}
        env |= {"PIP_NO_DEPS": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | environment
        done = subprocess.run(
            [tmp_path / "env" / "bin" / "python", "-c", code], cwd=cwd, env=env, capture_output=True, text=True
        )
        *lines, last = done.stdout.splitlines() or [""]
        done.lines, (done.cwd, done.missing) = lines, json.loads(last) if done.returncode == 0 else (None, None)
        return done

    run.content = content
    return run


def place(archive, content):
    (content / "vaecf-colab.zip").write_bytes(archive.read_bytes())


def ready(done, machine):
    return done.returncode == 0 and not done.missing and done.cwd == str(machine.content / "vaecf-book" / "notebooks")


def test_the_archive_holds_library_notebooks_and_results(archive):
    with zipfile.ZipFile(archive) as packed:
        names = set(packed.namelist())
        wheels = {name for name in names if name.endswith(".whl")}
        notebooks = {name for name in names if name.startswith("notebooks/")}
        results = {name for name in names if name.startswith("book/results/")}
        assert names == wheels | notebooks | results | {"LICENSE"} and len(wheels) == 1
        assert notebooks == {f"notebooks/{name}.ipynb" for name in tool.chapters()}
        on_disk = {path.relative_to(ROOT).as_posix() for path in (ROOT / "book" / "results").rglob("*.json")}
        assert results == on_disk and "book/results/reported.json" in results
        with packed.open(*wheels) as wheel:
            inside = zipfile.ZipFile(wheel).namelist()
    assert "vaecf_lib/explore/slider.py" in inside and "vaecf_lib/py.typed" in inside


def test_first_run_second_run_and_a_restarted_kernel(machine, archive):
    place(archive, machine.content)
    first = machine()
    assert ready(first, machine), first.stderr
    assert len(first.lines) == 1 and first.lines[0].startswith("Not published yet: the book is taken from ./vaecf")
    assert (machine.content / "vaecf-book" / "book" / "results" / "reported.json").exists()
    for archived in (machine.content / "vaecf-colab.zip", *(machine.content / "vaecf-book").glob("*.whl")):
        archived.unlink()  # neither is asked for again
    for cwd in (machine.content, machine.content / "vaecf-book" / "notebooks"):  # a new process; the same kernel
        again = machine(cwd=cwd)
        assert ready(again, machine) and again.lines == [] and again.stderr == ""


def test_the_archive_may_lie_in_the_drive(machine, archive):
    drive = machine.content / "drive" / "MyDrive"
    drive.mkdir(parents=True)
    place(archive, drive)
    done = machine()
    assert ready(done, machine) and str(drive) in done.lines[0]


def test_a_failed_installation_is_one_sentence_and_is_made_good(machine, archive):
    place(archive, machine.content)
    failed = machine(PIP_NO_DEPS="0")  # no index and no torch: pip fails
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert failed.stderr.splitlines()[-1].endswith("run this cell again.")
    assert ready(machine(), machine)


def test_what_an_interrupted_run_left_is_replaced(machine, archive):
    place(archive, machine.content)
    (machine.content / "vaecf-book.part" / "notebooks").mkdir(parents=True)
    (machine.content / "vaecf-book.part" / "half").touch()
    assert ready(machine(), machine) and not (machine.content / "vaecf-book" / "half").exists()


@pytest.mark.parametrize("uploaded", [0.0, 0.5], ids=["no archive", "still uploading"])
def test_without_an_archive_one_line_says_what_to_do(machine, archive, uploaded):
    whole = archive.read_bytes()
    if uploaded:
        (machine.content / "vaecf-colab.zip").write_bytes(whole[: int(uploaded * len(whole))])
    done = machine()
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "upload vaecf-colab.zip" in line and "run this cell again" in line
    place(archive, machine.content)
    assert ready(machine(), machine)


def test_elsewhere_the_cell_does_nothing(machine):
    done = machine(before="")
    assert (done.cwd, done.missing, done.lines, done.stderr) == (str(machine.content), True, [], "")


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_published_repository_is_cloned_at_its_tag(machine, archive, tmp_path):
    origin = tmp_path / "origin"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(origin)
    git(origin, "init", "-q")
    git(origin, "add", ".")
    git(origin, "commit", "-q", "-m", "released")
    git(origin, "tag", "v1")
    (origin / "notebooks" / "untested").touch()
    git(origin, "add", ".")
    git(origin, "commit", "-q", "-m", "after the release")
    gone = machine(setup_cell(f"file://{tmp_path}/nowhere", "v1"))
    assert gone.returncode == 1 and gone.stderr.splitlines()[-1].startswith("The book was not fetched")
    cell = setup_cell(f"file://{origin}", "v1")
    for _ in range(2):
        done = machine(cell)
        assert ready(done, machine) and done.lines == [], done.stderr
    assert not (machine.content / "vaecf-book" / "notebooks" / "untested").exists()


def test_an_address_comes_with_a_tag(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    for url, branch in (("https://example.org/x", ""), ("", "v1")):
        (tmp_path / "_config.yml").write_text(yaml.safe_dump({"repository": {"url": url, "branch": branch}}))
        with pytest.raises(SystemExit, match="given together"):
            tool.repository()


@pytest.mark.parametrize(("address", "tag"), [("", ""), ("https://github.com/someone/book", "v1")])
def test_buttons_lead_to_a_published_repository_or_are_not_there(tmp_path, address, tag):
    copy_book(tmp_path)
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["repository"] = {"url": address, "branch": tag}
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/index\nchapters:\n  - file: notebooks/one\n")
    (tmp_path / "book" / "index.md").write_text("# Title\n")
    one = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# One")])
    nbformat.write(one, tmp_path / "notebooks" / "one.ipynb")
    done = build(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "_build" / "html" / "notebooks" / "one.html").read_text(encoding="utf-8")
    links = {link for link in re.findall(r'href="([^"]*)"', page) if "github" in link}
    rocket = f"https://colab.research.google.com/github/someone/book/blob/{tag}/notebooks/one.ipynb"
    assert {rocket, address} <= links if address else links == set()
    assert ("/issues/new" in page) == bool(address)
