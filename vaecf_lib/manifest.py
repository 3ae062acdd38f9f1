"""A run's manifest: what was trained on which data, and, sitting by sitting, when, where and by which command."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .checkpoints import write_json
from .errors import DataError

MANIFEST = "manifest.json"


def read_manifest(out: str | Path) -> dict[str, Any]:
    """Return the manifest in a run's folder; empty if there is none.

    Raises:
        DataError: it is damaged.
    """
    path = Path(out) / MANIFEST
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        sittings = manifest["sittings"]
        sound = bool(sittings) and all({"started", "finished"} <= sitting.keys() for sitting in sittings)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise DataError(f"{path}: damaged: put it back, or remove it, and the next training begins a new one")
    return manifest


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def open_sitting(out: Path, run: dict[str, Any], epoch: int, sitting: dict[str, Any]) -> None:
    """Note that a training begins, or goes on, after ``epoch`` epochs.

    ``run`` replaces what the manifest says of the run as a whole; ``sitting`` is what holds of this sitting alone. A
    sitting that never closed, for its process was killed, is known by now to have got as far as ``epoch``.
    """
    sittings = read_manifest(out).get("sittings", [])
    if sittings and sittings[-1]["finished"] is None:
        sittings[-1]["to_epoch"] = epoch
    times = {"started": _now(), "finished": None, "from_epoch": epoch, "to_epoch": None, "stopped": None}
    write_json(out / MANIFEST, {**run, "sittings": [*sittings, times | sitting]})


def close_sitting(out: Path, epoch: int, stopped: str | None) -> None:
    """Note that the last sitting ended after ``epoch`` epochs, and why, if not because all were done."""
    manifest = read_manifest(out)
    manifest["sittings"][-1] |= {"finished": _now(), "to_epoch": epoch, "stopped": stopped}
    write_json(out / MANIFEST, manifest)
