"""Variational autoencoders for collaborative filtering: the library behind the book."""

import os

# Linux only, and only if the user has not decided: torch then asks for large pages for large arrays. A training
# step allocates several 40 MB arrays, and touching them in 4 kB pages costs a tenth of its time on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from . import baselines, data, distributed, maths, models
from .checkpoints import load_model, save_model
from .data import (
    RatingLog,
    load_dataset,
    planted_world,
    read_own_file,
    refit_split,
    split_all,
    split_leave_one_out,
    split_ratings,
    split_strong,
    split_time,
    split_weak,
)
from .errors import ConfigError, DataError, TrainingError, VaecfError
from .evaluation import Estimate, evaluate
from .runs import Run, load_run
from .serving import Recommendation, recommend
from .systems import SYSTEMS, System, build, register
from .training import Trainer, fit
from .tuning import Trial, Tuning, tune

__version__ = "0.1.0"

__all__ = [
    "SYSTEMS",
    "ConfigError",
    "DataError",
    "Estimate",
    "RatingLog",
    "Recommendation",
    "Run",
    "System",
    "Trainer",
    "TrainingError",
    "Trial",
    "Tuning",
    "VaecfError",
    "baselines",
    "build",
    "data",
    "distributed",
    "evaluate",
    "fit",
    "load_dataset",
    "load_model",
    "load_run",
    "maths",
    "models",
    "planted_world",
    "read_own_file",
    "recommend",
    "refit_split",
    "register",
    "save_model",
    "split_all",
    "split_leave_one_out",
    "split_ratings",
    "split_strong",
    "split_time",
    "split_weak",
    "tune",
]
