"""Building blocks that several models share."""

from .decoders import MLPDecoder
from .encoders import DenseEncoder, GaussianEncoder, PosteriorTable, weights_key
from .flows import InverseAutoregressiveFlow
from .layers import (
    SparseInput,
    bag_sum,
    dense_layers,
    full_precision,
    init_linear,
    reset_parts,
    row_dot,
    row_sum,
    scaled_to_unit_length,
    times_gram,
    unit_length,
)
from .output import ItemLayer

__all__ = [
    "DenseEncoder",
    "GaussianEncoder",
    "InverseAutoregressiveFlow",
    "ItemLayer",
    "MLPDecoder",
    "PosteriorTable",
    "SparseInput",
    "bag_sum",
    "dense_layers",
    "full_precision",
    "init_linear",
    "reset_parts",
    "row_dot",
    "row_sum",
    "scaled_to_unit_length",
    "times_gram",
    "unit_length",
    "weights_key",
]
