"""Schedules of loss weights over training."""

from __future__ import annotations


def linear_annealing(progress: float, cap: float, share: float) -> float:
    """Return the weight that rises linearly from 0 to ``cap`` over the first ``share`` of training.

    Args:
        progress: share of all parameter updates done, 0 to 1.
        cap: final weight, for instance Mult-VAE's beta.
        share: 0 holds the weight at ``cap`` from the start.
    """
    return cap if progress >= share else cap * progress / share
