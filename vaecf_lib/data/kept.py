"""Logs that were read before, kept as numbers, so that large files are not read as text again.

They lie in the folder that ``VAECF_CACHE`` names (default: ``logs`` in the platform's cache folder, ~/.cache/vaecf on
Linux); ``VAECF_CACHE=off`` keeps none. The folder may be emptied or deleted at any time. It holds the last ten logs of
files of 8 MB and more.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pooch

from ..files import write_atomically
from .columns import narrow
from .ratings import RatingLog, Reading

SMALLEST = 8_000_000  # bytes: less is read in a second
LOGS = 10


def kept_folder() -> Path | None:
    """Return where logs are kept, or None where they are not to be."""
    named = os.environ.get("VAECF_CACHE")
    if named == "off":
        return None
    return Path(named) if named else Path(pooch.os_cache("vaecf")) / "logs"


@cache
def _reader_version() -> str:
    """Return a hash of all code that decides what a file is read as, so that nobody has to count versions."""
    digest = hashlib.sha256(f"pandas {pd.__version__}, numpy {np.__version__}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _sizes(files: list[Path]) -> list[tuple[int, int]]:
    return [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]


@dataclass(frozen=True)
class KeptLog:
    """The place of one log: ``path`` (None: it is not kept), for the ``files`` as they were at ``sizes``."""

    path: Path | None
    files: list[Path]
    sizes: list[tuple[int, int]]

    @classmethod
    def of(cls, source: Path, **options: Any) -> KeptLog:
        """Return the place for what a reader with ``options`` makes of ``source``, a file or a folder.

        It depends on every byte of the source, on its path (which messages name) and on the code that reads it.
        """
        nowhere, folder = cls(None, [], []), kept_folder()
        if folder is None:
            return nowhere
        try:
            files = sorted(file for file in source.rglob("*") if file.is_file()) if source.is_dir() else [source]
            sizes = _sizes(files)
            if sum(size for size, _ in sizes) < SMALLEST:
                return nowhere
            content = []
            for file in files:
                with file.open("rb") as handle:
                    content.append((str(file), hashlib.file_digest(handle, "sha256").hexdigest()))
        except OSError:  # whoever reads the file will say what is wrong
            return nowhere
        key = json.dumps([_reader_version(), str(source), content, options], sort_keys=True)
        return cls(folder / f"{hashlib.sha256(key.encode()).hexdigest()}.npz", files, sizes)

    def load(self) -> RatingLog | None:
        """Return the log, or None if it is not there or damaged (the checksums of its parts tell)."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            note = json.loads(arrays.pop("note").tobytes())
            for name in arrays.keys() & {"user", "item", "timestamp"}:
                arrays[name] = arrays[name].astype(np.int64)
            for name in note["text_ids"]:
                arrays[name] = np.array(note["text_ids"][name], dtype=object)
            reading = note["reading"] | {name: tuple(note["reading"][name]) for name in ("unused", "warnings")}
            titles = None if note["titles"] is None else tuple(note["titles"])
            absent = dict.fromkeys(("rating", "timestamp", "is_test"))
            log = RatingLog(name=note["name"], titles=titles, reading=Reading(**reading), **absent | arrays)
            self.path.touch()
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error):
            return None
        return log

    def keep(self, log: RatingLog) -> None:
        """Write the log, unless its files have changed meanwhile; where nothing can be written nothing is kept."""
        if self.path is None:
            return
        arrays = {
            name: array if name in ("rating", "is_test") else narrow(array)
            for name in ("user", "item", "timestamp", "rating", "is_test")
            if (array := getattr(log, name)) is not None
        }
        ids = {name: getattr(log, name) for name in ("user_ids", "item_ids")}
        text_ids = {name: values.tolist() for name, values in ids.items() if values.dtype == object}
        arrays |= {name: values for name, values in ids.items() if name not in text_ids}
        note = {"name": log.name, "titles": log.titles, "reading": asdict(log.reading), "text_ids": text_ids}
        arrays["note"] = np.frombuffer(json.dumps(note).encode(), dtype=np.uint8)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as handle:
                np.savez(handle, **arrays)

        try:
            if _sizes(self.files) == self.sizes:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.path, write)
                others = sorted(self.path.parent.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns)
                for path in others[:-LOGS]:
                    path.unlink(missing_ok=True)
        except OSError:  # a full disk, a folder that may not be written: no reason not to go on
            return
