"""Where the code runs."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import ConfigError

# What was typed, while the command line runs; None when the library is called from Python.
command: str | None = None


def in_kernel() -> bool:
    """Tell whether a Jupyter kernel runs this process."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device: "auto" takes cuda, then mps, then cpu.

    Raises:
        ConfigError: the device asked for is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.zeros(1, device=device).item()  # "meta" gives tensors without content
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"device={device!s} cannot be used here ({reason}). Use 'auto' or 'cpu'") from error
    return device


def waits_for(device: torch.device) -> bool:
    """Tell whether reading a number from ``device`` waits until all work queued there is done, as on a GPU."""
    return device.type != "cpu"


def keep_freed_memory() -> None:
    """Let glibc keep what large arrays leave, up to half a gigabyte, for the next ones; elsewhere do nothing.

    A step of training frees and takes several arrays of 40 MB. Given back to the system each time, their pages are
    cleared and mapped anew: a twentieth of the time, more on a busy machine. Where the environment variable
    ``MALLOC_MMAP_THRESHOLD_`` is set, it has been decided already.
    """
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ and platform.libc_ver()[0] == "glibc":
        libc, trim_threshold, mmap_threshold = ctypes.CDLL(None), -1, -3  # names of malloc.h
        libc.mallopt(mmap_threshold, 2**27)
        libc.mallopt(trim_threshold, 2**29)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on ``device``; a GPU fetches it from pinned memory when it comes to it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def machine(device: str) -> str:
    """Return the hardware and torch version in words, for the record."""
    if device in ("auto", "cuda") and torch.cuda.is_available():
        chip = torch.cuda.get_device_name()
    else:
        chip = f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
    return f"{chip}, torch {torch.__version__.split('+')[0]}"


def describe(device: torch.device) -> dict[str, Any]:
    """Return, for the record, what computes: device and its name, threads, platform, versions; and the command."""
    from . import __version__

    return {
        "command": command,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "versions": {
            "vaecf_lib": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
