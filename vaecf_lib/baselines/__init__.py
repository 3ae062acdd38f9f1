"""The systems the papers compare with, and floors."""

from .floors import Popularity, Random

__all__ = ["Popularity", "Random"]
