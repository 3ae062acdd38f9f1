"""Building blocks that several models share."""

from .encoders import DenseEncoder, GaussianEncoder
from .flows import InverseAutoregressiveFlow
from .layers import SparseInput, init_linear, row_dot, row_sum, unit_length

__all__ = [
    "DenseEncoder",
    "GaussianEncoder",
    "InverseAutoregressiveFlow",
    "SparseInput",
    "init_linear",
    "row_dot",
    "row_sum",
    "unit_length",
]
