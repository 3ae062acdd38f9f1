"""Pack what a reader on Colab uploads into one archive: library, notebooks and results (`make colab`)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = ROOT / "_build" / "vaecf-colab.zip"


def build_wheel(folder: Path) -> Path:
    """Build the library's wheel into ``folder``, from a copy, so that no earlier build's files get into it."""
    source = folder / "source"
    shutil.copytree(ROOT / "vaecf_lib", source / "vaecf_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the wheel was not built:\n{done.stdout}{done.stderr}")
    return next(folder.glob("*.whl"))


def pack(target: Path = ARCHIVE) -> Path:
    """Write the archive, laid out as the repository is; return its path."""
    files = sorted([*(ROOT / "notebooks").glob("[0-9]*.ipynb"), *(ROOT / "book" / "results").rglob("*.json")])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        wheel = build_wheel(Path(folder))
        archive.write(wheel, wheel.name)
        for path in [ROOT / "LICENSE", *files]:
            archive.write(path, path.relative_to(ROOT))
    return target


if __name__ == "__main__":
    print(f"{pack()}: upload it to Colab, or into your Drive, beside a notebook")
