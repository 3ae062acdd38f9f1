"""Building blocks that several models share."""

from .decoders import MLPDecoder
from .encoders import DenseEncoder, GaussianEncoder
from .flows import InverseAutoregressiveFlow
from .layers import (
    SparseInput,
    bag_sum,
    dense_layers,
    init_linear,
    reset_parts,
    row_dot,
    row_sum,
    scaled_to_unit_length,
    unit_length,
)

__all__ = [
    "DenseEncoder",
    "GaussianEncoder",
    "InverseAutoregressiveFlow",
    "MLPDecoder",
    "SparseInput",
    "bag_sum",
    "dense_layers",
    "init_linear",
    "reset_parts",
    "row_dot",
    "row_sum",
    "scaled_to_unit_length",
    "unit_length",
]
