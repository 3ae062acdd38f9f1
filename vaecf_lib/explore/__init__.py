"""Figures and tables that a reader moves: live where a kernel is, self-contained where none is."""

from .browse import browse
from .chart import COLOURS, Chart
from .slider import Slider, explore, load_states, save_states

__all__ = ["COLOURS", "Chart", "Slider", "browse", "explore", "load_states", "save_states"]
