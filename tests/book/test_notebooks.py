"""Notebooks are in step with the text, executed, and every number in them is reproduced."""

import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import CHAPTERS, ROOT, tool

NOTEBOOKS = ROOT / "notebooks"


@pytest.mark.parametrize("name", CHAPTERS)
def test_notebook_is_in_step_with_text_library_and_data(name):
    assert tool.problems(name, NOTEBOOKS / f"{name}.ipynb") == []


def test_no_stray_notebooks():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(CHAPTERS)


def spoil(tmp_path, change):
    name = CHAPTERS[0]
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    change(notebook)
    nbformat.write(notebook, tmp_path / "x.ipynb")
    return tool.problems(name, tmp_path / "x.ipynb")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def edit_source(nb):
    nb.cells[-1]["source"] += "\nby hand"


def edit_tags(nb):
    code_cells(nb)[0].metadata["tags"] = ["other"]


def old_stamp(nb):
    nb.metadata["vaecf"]["stamp"] = "0" * 64


def out_of_order(nb):
    code_cells(nb)[2]["execution_count"] = 99


def error_output(nb):
    code_cells(nb)[3].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="x", traceback=[])]


def dead_widget(nb):
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    code_cells(nb)[3].outputs = [nbformat.v4.new_output("display_data", data=data)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit_source, "cells differ"),
        (edit_tags, "tags differ"),
        (old_stamp, "changed since it was executed"),
        (out_of_order, "not executed once each"),
        (error_output, "ends in ValueError"),
        (dead_widget, "live widget"),
    ],
)
def test_the_check_finds_what_is_out_of_step(tmp_path, change, message):
    assert any(message in problem for problem in spoil(tmp_path, change))


def test_the_stamp_covers_library_lock_and_results(tmp_path):
    for name in ("vaecf_lib", "book/results"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    notebook = tool.read_chapter(CHAPTERS[0])
    stamps = {tool.stamp(notebook, tmp_path)}
    assert stamps == {tool.stamp(notebook, ROOT)}
    for name in ("vaecf_lib/maths/counting.py", "requirements.lock", "book/results/reported.json"):
        with (tmp_path / name).open("a") as file:
            file.write("\n")
        stamps.add(tool.stamp(notebook, tmp_path))
    assert len(stamps) == 4


def run_nbval(*paths):
    command = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", "-c", os.devnull, *map(str, paths)]
    env = os.environ | {"VAECF_STATIC": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_number_is_reproduced(name):
    done = run_nbval(NOTEBOOKS / f"{name}.ipynb")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(
    ("source", "output", "good"), [("print(0.431)", "0.431\n", True), ("print(0.431)", "0.432\n", False)]
)
def test_nbval_can_fail(tmp_path, source, output, good):
    cell = nbformat.v4.new_code_cell(source, execution_count=1)
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=output)]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, tmp_path / "x.ipynb")
    assert (run_nbval(tmp_path / "x.ipynb").returncode == 0) == good


def test_nbval_compares_the_sliders(tmp_path):
    """A tampered slider frame is found."""
    name = next(n for n in CHAPTERS if "n_choose_k" in n)
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    html = [o.data["text/html"] for c in code_cells(notebook) for o in c.outputs if "text/html" in o.get("data", {})]
    assert any("vaecf-explore" in text for text in html)
    source = "from IPython.display import HTML\nHTML('<p>frame 1</p>')"
    cell = nbformat.v4.new_code_cell(source, execution_count=1)
    data = {"text/html": "<p>frame 2</p>", "text/plain": "<IPython.core.display.HTML object>"}
    cell.outputs = [nbformat.v4.new_output("execute_result", data=data, execution_count=1)]
    tampered = nbformat.v4.new_notebook(cells=[cell], metadata=notebook.metadata)
    nbformat.write(tampered, tmp_path / "x.ipynb")
    assert run_nbval(tmp_path / "x.ipynb").returncode != 0


def test_execution_refuses_warnings_and_strips_run_data():
    cell = nbformat.v4.new_code_cell("x")
    cell.metadata.update({"papermill": {"duration": 1}, "tags": ["a", "papermill-b"]})
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="1\n"),
        nbformat.v4.new_output("stream", name="stdout", text="2\n"),
    ]
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {}, "widgets": {}})
    tool.clean(notebook)
    assert notebook.metadata == {} and cell.metadata == {"tags": ["a"]}
    assert [o.text for o in cell.outputs] == ["1\n2\n"]
    cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text="UserWarning: odd\n")]
    with pytest.raises(RuntimeError, match="UserWarning: odd"):
        tool.clean(notebook)


def test_papermill_runs_a_chapter_with_other_parameters(tmp_path):
    name = CHAPTERS[1]
    tool.execute(name, tmp_path / f"{name}.ipynb", {"SEED": 1, "EPOCHS": 2})
    notebook = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    injected = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert len(injected) == 1 and "EPOCHS = 2" in injected[0].source
    assert tool.problems(name, tmp_path / f"{name}.ipynb", {"SEED": 1, "EPOCHS": 2}) == []
