"""Text to executed notebooks to site: `sync`, `check` and `build` (see the Makefile).

The chapters' source is book/NN_name.md. `sync` executes each with papermill and writes notebooks/NN_name.ipynb,
stamped with a hash of everything its outputs depend on; `check` tells what is out of step; `build` executes the
chapters with other parameters, if wanted, in a folder of their own and builds the site there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
import papermill
import yaml
from setup_cell import setup_cell

ROOT = Path(__file__).resolve().parents[2]
BOOK, NOTEBOOKS = ROOT / "book", ROOT / "notebooks"
TOLERATED_STDERR = ("Matplotlib is building the font cache",)


def chapters() -> list[str]:
    """Return the chapters' names, in order."""
    return sorted(path.stem for path in BOOK.glob("[0-9][0-9]_*.md"))


def repository() -> tuple[str, str]:
    """Return the published repository's address and tag, both empty while there is none; _config.yml alone has them."""
    published = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    if bool(published["url"]) != bool(published["branch"]):
        sys.exit("_config.yml, repository: url and branch (a tag) are given together or not at all")
    return published["url"], published["branch"]


def read_chapter(name: str, folder: Path = BOOK) -> nbformat.NotebookNode:
    """Return a chapter's text as a notebook without outputs, its cells' ids deterministic."""
    notebook, setup = jupytext.read(folder / f"{name}.md"), setup_cell(*repository())
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{name[:2]}-{number:03d}"
        cell["source"] = cell["source"].replace("# @SETUP@", setup)
    return notebook


def stamp(notebook: nbformat.NotebookNode, root: Path = ROOT) -> str:
    """Return a hash of what the outputs depend on: code cells, library, lock file, results, parameters."""
    digest = hashlib.sha256()
    for cell in notebook.cells:
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", []):
            digest.update(cell.source.encode() + b"\0")
    files = [*sorted((root / "vaecf_lib").rglob("*.py")), root / "requirements.lock"]
    files += sorted((root / "book" / "results").rglob("*.json"))
    for path in files:
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def clean(notebook: nbformat.NotebookNode) -> None:
    """Remove what differs from run to run, keep images' alt text, refuse warnings on stderr."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        cell.metadata["tags"] = [t for t in cell.metadata.get("tags", []) if not t.startswith("papermill-")]
        if not cell.metadata["tags"]:
            del cell.metadata["tags"]
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                lines = [line for line in output.text.splitlines() if line.strip()]
                if any(not line.startswith(TOLERATED_STDERR) for line in lines):
                    raise RuntimeError(f"a cell wrote to stderr:\n{output.text}\nin:\n{cell.source}")
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            if alt:
                cell.metadata["mystnb"] = {"image": {"alt": alt}}
        cell.outputs = merged([o for o in cell.outputs if o.get("name") != "stderr"])


def merged(outputs: list) -> list:
    """Join neighbouring stream outputs: how a kernel cuts them depends on timing."""
    result = []
    for output in outputs:
        if result and output.output_type == result[-1].output_type == "stream":
            result[-1]["text"] += output.text
        else:
            result.append(output)
    return result


def execute(name: str, target: Path, parameters: dict | None = None) -> float:
    """Execute a chapter into ``target``; return its seconds."""
    notebook = read_chapter(name)
    mark = stamp(notebook) + (json.dumps(parameters, sort_keys=True) if parameters else "")
    target.parent.mkdir(parents=True, exist_ok=True)
    bare, executed = target.with_suffix(".in.ipynb"), target.with_suffix(".out.ipynb")
    started = time.perf_counter()
    os.environ["VAECF_STATIC"] = "1"  # no live widgets in what is kept
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        nbformat.write(notebook, bare)
        papermill.execute_notebook(
            bare, executed, parameters=parameters or {}, cwd=NOTEBOOKS, kernel_name="python3", progress_bar=False
        )
        notebook = nbformat.read(executed, as_version=4)
        clean(notebook)
        notebook.metadata["vaecf"] = {"stamp": mark}
        nbformat.write(notebook, executed)
        os.replace(executed, target)
    finally:
        bare.unlink(missing_ok=True)
        executed.unlink(missing_ok=True)
    return time.perf_counter() - started


def is_current(name: str, path: Path, parameters: dict | None = None) -> bool:
    """Tell whether the notebook at ``path`` was executed from the chapter as it stands."""
    return path.exists() and not problems(name, path, parameters)


def problems(name: str, path: Path, parameters: dict | None = None, book: Path = BOOK, root: Path = ROOT) -> list[str]:
    """Return what is out of step between a chapter's text and its notebook, in words."""
    if not path.exists():
        return [f"{name}: notebooks/{name}.ipynb is missing: make sync"]
    text, notebook = read_chapter(name, book), nbformat.read(path, as_version=4)
    found = []
    cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    if [(c.cell_type, c.source) for c in cells] != [(c.cell_type, c.source) for c in text.cells]:
        found.append(f"{name}: the notebook's cells differ from book/{name}.md: edit the text, then make sync")
    elif [c.metadata.get("tags", []) for c in cells] != [c.metadata.get("tags", []) for c in text.cells]:
        found.append(f"{name}: the notebook's tags differ from book/{name}.md: make sync")
    expected = stamp(text, root) + (json.dumps(parameters, sort_keys=True) if parameters else "")
    if notebook.metadata.get("vaecf", {}).get("stamp") != expected:
        found.append(f"{name}: code, library, lock file or results changed since it was executed: make sync")
    counts = [c.execution_count for c in notebook.cells if c.cell_type == "code"]
    if counts != list(range(1, len(counts) + 1)):
        found.append(f"{name}: its cells were not executed once each from top to bottom: make sync")
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                found.append(f"{name}: a cell ends in {output.ename}: {output.evalue}")
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                found.append(f"{name}: holds a live widget, dead without a kernel: make sync")
    return found


def execute_all(names: list[str], folder: Path, parameters: dict | None = None) -> dict[str, float]:
    """Execute chapters, two side by side; print and return their seconds."""
    seconds = {}
    with ThreadPoolExecutor(max_workers=2) as pool:
        jobs = {name: pool.submit(execute, name, folder / f"{name}.ipynb", parameters) for name in names}
        for name, job in jobs.items():
            seconds[name] = job.result()
            print(f"{name}: executed in {seconds[name]:.0f} s", flush=True)
    return seconds


def build_site(folder: Path) -> None:
    """Build the site from ``folder``, which holds notebooks/; warnings are errors."""
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(BOOK, folder / "book", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    program = str(Path(sys.executable).with_name("jupyter-book"))
    command = [program, "build", str(folder), "-W", "-n", "--keep-going", "-qq"]
    if subprocess.run(command, cwd=folder).returncode:
        sys.exit(f"the site was not built: {' '.join(command)} failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["sync", "check", "build"])
    parser.add_argument("names", nargs="*", help="chapters; default all")
    parser.add_argument("--all", action="store_true", help="execute also what is in step")
    parser.add_argument("--dataset", default="planted")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--device")
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    names = options.names or chapters()
    if options.command == "check":
        found = [problem for name in names for problem in problems(name, NOTEBOOKS / f"{name}.ipynb")]
        stray = {path.stem for path in NOTEBOOKS.glob("*.ipynb")} - set(chapters())
        found += [f"notebooks/{name}.ipynb has no book/{name}.md" for name in sorted(stray)]
        sys.exit("\n".join(found) if found else 0)
    if options.command == "sync":
        stale = [n for n in names if options.all or not is_current(n, NOTEBOOKS / f"{n}.ipynb")]
        execute_all(stale, NOTEBOOKS)
        return
    folder = ROOT / "_build" / options.dataset
    parameters = {
        key.upper(): value
        for key in ("dataset", "epochs", "device", "seed")
        if (value := getattr(options, key)) is not None and (key, value) != ("dataset", "planted")
    }
    stale = [n for n in names if options.all or not is_current(n, folder / "notebooks" / f"{n}.ipynb", parameters)]
    execute_all(stale, folder / "notebooks", parameters)
    build_site(folder)


if __name__ == "__main__":
    main()
