"""The chapters' first code cell, which `# @SETUP@` stands for in their text: it does nothing, except on Colab.

There it fetches the book into /content, installs the library and enters the chapters' folder. Each step is skipped
once it is done, so the cell may be run again after a failure or a kernel's restart. While no repository is published it
takes the archive that `make colab` packs. Colab keeps its own torch, as the library asks for lower bounds only.
"""

from __future__ import annotations

_CELL = """\
# On Colab: fetch the library and the results that the chapters read. May be run again.
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

if "google.colab" in sys.modules:
    book, part = Path("/content/vaecf-book"), Path("/content/vaecf-book.part")
    if not book.exists():
        shutil.rmtree(part, ignore_errors=True)  # what an interrupted run left
        @FETCH@
        part.rename(book)
    if importlib.util.find_spec("vaecf_lib") is None:
        library = next(book.glob("*.whl"), book)
        if subprocess.run([sys.executable, "-m", "pip", "install", "-q", library]).returncode:
            sys.exit("The library was not installed, for the reason above: run this cell again.")
    os.chdir(book / "notebooks")"""

_CLONE = """\
git = ["git", "clone", "-q", "--depth", "1", "--branch", "@VERSION@", "@ADDRESS@"]
        if subprocess.run([*git, part]).returncode:
            sys.exit("The book was not fetched, for the reason above: run this cell again.")"""

_UNPACK = """\
names = [f"{f}/vaecf-colab.zip" for f in (".", "/content", "/content/drive/MyDrive")]
        archive = next(filter(zipfile.is_zipfile, names), None)  # whole, not half uploaded
        if archive is None:
            sys.exit("Not published yet: upload vaecf-colab.zip (see README), run this cell again.")
        print(f"Not published yet: the book is taken from {archive}.")
        shutil.unpack_archive(archive, part)"""


def setup_cell(address: str, version: str) -> str:
    """Return the cell's code for a published repository at one of its tags; without an address, for the archive."""
    if not address:
        return _CELL.replace("@FETCH@", _UNPACK)
    cell = _CELL.replace("@FETCH@", _CLONE).replace("import zipfile\n", "")
    return cell.replace("@VERSION@", version).replace("@ADDRESS@", address)
