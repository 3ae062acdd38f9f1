"""Building blocks that several models share."""

from .layers import SparseInput, init_linear

__all__ = ["SparseInput", "init_linear"]
