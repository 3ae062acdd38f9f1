"""Data: sparse interactions, named data sets, the embedded world, the papers' splits."""

from .catalog import DATASETS, load_dataset
from .interactions import Batch, Interactions
from .items import Items
from .own_files import read_history, read_own_file
from .planted import CAST, PlantedWorld, cast_of, planted_world
from .ratings import RatingLog
from .splits import HeldOut, Kept, People, Split, hold_out, positives, split_ratings, split_strong, split_weak
from .sweeps import Block, BlockSweep, Pairs, PairSweep, RowSweep, Sweep

__all__ = [
    "CAST",
    "DATASETS",
    "Batch",
    "Block",
    "BlockSweep",
    "HeldOut",
    "Interactions",
    "Items",
    "Kept",
    "PairSweep",
    "Pairs",
    "People",
    "PlantedWorld",
    "RatingLog",
    "RowSweep",
    "Split",
    "Sweep",
    "cast_of",
    "hold_out",
    "load_dataset",
    "planted_world",
    "positives",
    "read_history",
    "read_own_file",
    "split_ratings",
    "split_strong",
    "split_weak",
]
