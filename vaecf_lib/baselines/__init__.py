"""The systems the papers compare with, floors, and the embedded world's ceiling."""

from .floors import Popularity, Random
from .oracle import PlantedOracle

__all__ = ["PlantedOracle", "Popularity", "Random"]
