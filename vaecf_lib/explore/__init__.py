"""Sliders: one call gives a live widget where a kernel is, and a self-contained figure where none is."""

from .chart import COLOURS, Chart
from .slider import Slider, explore, load_states, save_states

__all__ = ["COLOURS", "Chart", "Slider", "explore", "load_states", "save_states"]
