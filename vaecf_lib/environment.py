"""Where the code runs."""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np
import torch

# What was typed, while the command line runs; None when the library is called from Python.
command: str | None = None


def in_kernel() -> bool:
    """Tell whether a Jupyter kernel runs this process."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


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
