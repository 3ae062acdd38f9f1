"""Building blocks that several models share."""

from .encoders import DenseEncoder, GaussianEncoder
from .layers import SparseInput, init_linear

__all__ = ["DenseEncoder", "GaussianEncoder", "SparseInput", "init_linear"]
