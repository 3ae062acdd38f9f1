"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: str | Path, write) -> None:
    """Call ``write(temporary path)``, then put the file in the place of ``path`` in one step.

    A process killed at any moment leaves either the old file or the new one, both whole. Its mode is that of any new
    file (0644 under the usual umask).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # some writers put a private file of their own there
        with temporary.open("r+b") as handle:  # Windows flushes only what may be written
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
