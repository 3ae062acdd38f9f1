"""Where the code runs."""

from __future__ import annotations

import platform
import sys

import torch


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
