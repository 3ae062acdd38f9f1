"""Building blocks that several models share."""

from .encoders import DenseEncoder, GaussianEncoder
from .flows import InverseAutoregressiveFlow
from .layers import SparseInput, init_linear, unit_length

__all__ = ["DenseEncoder", "GaussianEncoder", "InverseAutoregressiveFlow", "SparseInput", "init_linear", "unit_length"]
