"""Checkpoints without pickle: tensors and a JSON note in one safetensors file, written atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .data import Items
from .environment import pick_device
from .errors import ConfigError, DataError
from .files import write_atomically
from .models.base import Model
from .options import plain
from .systems import build

BEST = "best.safetensors"  # of a run's folder: the model of the best epoch


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=plain) + "\n"
    # A file's name that the locale cannot read holds half characters, which JSON knows as escapes.
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8", errors="backslashreplace"))


@contextmanager
def locked(folder: Path | None, names: Iterable[str]) -> Iterator[None]:
    """Keep other processes out of a folder, which is made; the lock dies with this process, however that ends.

    Args:
        folder: None where nothing is kept, so that there is nothing to lock.
        names: the files that are written under this lock alone: what a process killed while it wrote them has left
            beside them is removed.

    Raises:
        ConfigError: another process has it.
    """
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"{folder} is being written by another process: wait for it, or give another folder"
        ) from error
    try:
        for name in names:
            for stale in folder.glob(f".{name}.*.tmp"):
                stale.unlink()
        yield
    finally:
        lock.release()


def _checksum(tensors: dict[str, Tensor], note: str) -> str:
    """Return a hash of names, types, shapes and bytes of the tensors, and of the note."""
    digest = hashlib.sha256(note.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_tensors(path: str | Path, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
    """Write named tensors and a JSON note to one file, atomically, with a checksum of both."""
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    text = json.dumps(note, default=plain)
    metadata = {"vaecf": text, "sha256": _checksum(tensors, text)}

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # of a full disk, too
            raise OSError(f"{path}: cannot be written ({error})") from error

    write_atomically(path, write)


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the note of :func:`save_tensors`.

    Raises:
        DataError: the file is missing, damaged (its checksum tells), or was not written by this library.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable checkpoint ({reason}). Train again, or give another run") from error
    if not {"vaecf", "sha256"} <= set(metadata):
        raise DataError(f"{path}: a safetensors file, but not one of this library's checkpoints")
    if _checksum(tensors, metadata["vaecf"]) != metadata["sha256"]:
        raise DataError(f"{path}: damaged, its checksum does not fit its content. Train again, or give another run")
    return tensors, json.loads(metadata["vaecf"])


def save_model(model: Model, path: str | Path, weights: dict[str, Tensor] | None = None, **note: Any) -> None:
    """Write a model's weights, options, item ids and titles to one file.

    Args:
        model: any ``Model``.
        path: of the file.
        weights: its ``state_dict()``, if that is at hand.
        note: more to keep, as JSON.
    """
    weights = model.state_dict() if weights is None else weights
    items = None if model.item_names is None else {"ids": model.item_names.ids, "titles": model.item_names.titles}
    save_tensors(path, weights, {"model": model.slug, "config": model.config, "items": items, **note})


def load_noted_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[Model, dict[str, Any]]:
    """Rebuild a model as :func:`load_model` does; return it with the note that was saved beside it."""
    path = Path(path)
    tensors, note = load_tensors(path / BEST if path.is_dir() else path)
    if "config" not in note:
        raise DataError(f"{path}: the checkpoint of a training, not a model: give the run's folder or {BEST}")
    model = build(note["model"], **note["config"])
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        alone = sorted(model.state_dict().keys() ^ tensors.keys())
        reason = f"{alone[0]} is only in one of them" if alone else "of other shapes"
        raise DataError(
            f"{path}: holds other weights than {model.slug} has in this version of the library ({reason}): train "
            "again, or use the version that wrote it"
        ) from error
    if note["items"] is not None:
        ids, titles = note["items"]["ids"], note["items"]["titles"]
        model.item_names = Items(tuple(ids), None if titles is None else tuple(titles))
    return model.to(pick_device(device)).eval(), note


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Model:
    """Rebuild a model from a file of :func:`save_model`, or from a run's folder (its best epoch).

    Raises:
        DataError: no such file, it is damaged, or another version's.
        ConfigError: the device is not there.
    """
    return load_noted_model(path, device)[0]
