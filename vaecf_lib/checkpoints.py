"""Checkpoints without pickle: tensors and a JSON note in one safetensors file, written atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import DataError
from .models.base import Model
from .systems import build


def write_atomically(path: str | Path, write) -> None:
    """Call ``write(temporary path)``, then put the file in the place of ``path`` in one step.

    A process killed at any moment leaves either the old file or the new one, both whole.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically."""
    write_atomically(path, lambda p: p.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n"))


def save_tensors(path: str | Path, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
    """Write named tensors and a JSON note to one file, atomically."""
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    write_atomically(path, lambda p: save_file(tensors, p, metadata={"vaecf": json.dumps(note)}))


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the note of :func:`save_tensors`.

    Raises:
        DataError: the file is missing, damaged, or was not written by this library.
    """
    try:
        with safe_open(path, framework="pt") as file:
            note = (file.metadata() or {}).get("vaecf")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a readable checkpoint ({error}). Train again, or give another run") from error
    if note is None:
        raise DataError(f"{path}: a safetensors file, but not one of this library's checkpoints")
    return tensors, json.loads(note)


def save_model(model: Model, path: str | Path) -> None:
    """Write a model's weights and options to one file."""
    save_tensors(path, model.state_dict(), {"model": model.slug, "config": model.config})


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Model:
    """Rebuild a model from a file of :func:`save_model`, or from a run's folder (its best epoch).

    Raises:
        DataError: no such file, or it is damaged.
    """
    path = Path(path)
    tensors, note = load_tensors(path / "best.safetensors" if path.is_dir() else path)
    model = build(note["model"], **note["config"])
    model.load_state_dict(tensors)
    return model.to(device).eval()
