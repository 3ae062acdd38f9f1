"""Data: sparse interactions, named data sets, the embedded world, the papers' splits."""

from .catalog import DATASETS, load_dataset
from .check import PartSize, Report, SplitReport, check
from .interactions import Batch, Interactions
from .items import Items
from .own_files import read_history, read_own_file
from .planted import CAST, PlantedWorld, cast_of, planted_world
from .ratings import RatingLog, Reading
from .splits import (
    HeldOut,
    Kept,
    People,
    Split,
    hold_out,
    positives,
    refit_split,
    split_all,
    split_ratings,
    split_strong,
    split_weak,
)
from .sweeps import Block, BlockSweep, Pairs, PairSweep, RowSweep, Sweep
from .time_splits import split_leave_one_out, split_time

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
    "PartSize",
    "People",
    "PlantedWorld",
    "RatingLog",
    "Reading",
    "Report",
    "RowSweep",
    "Split",
    "SplitReport",
    "Sweep",
    "cast_of",
    "check",
    "hold_out",
    "load_dataset",
    "planted_world",
    "positives",
    "read_history",
    "read_own_file",
    "refit_split",
    "split_all",
    "split_leave_one_out",
    "split_ratings",
    "split_strong",
    "split_time",
    "split_weak",
]
