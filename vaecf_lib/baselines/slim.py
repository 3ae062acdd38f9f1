"""SLIM, sparse linear methods: Ning and Karypis (ICDM 2011)."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..data import Interactions
from ..errors import counted
from .item_item import SparseItemItemModel, gram, product_rate, said, seconds_of_gram

TARGETS_AT_ONCE = 2048
COORDINATES_AT_ONCE = 64
USUAL_SWEEPS = 20


def elastic_nets(
    G: Tensor, targets: Tensor, l1: float, penalty: float, sweeps: int, tol: float
) -> tuple[Tensor, Tensor]:
    """Return the non-negative elastic nets that predict some columns of A from the others.

    W_j minimises 1/2 ||a_j - A W_j||^2 + penalty/2 ||W_j||^2 + l1 ||W_j||_1 under W >= 0 and W_jj = 0 (Eq. 3), found by
    descending one coordinate after the other for all targets at once: with R = A^T (A - A W), coordinate i moves to
    W_ij = max(0, R_ij + G_ii W_ij - l1) / (G_ii + penalty), and R follows. A block of coordinates moves on the small
    G of the block before the rest of R hears of it, in one product.

    Args:
        G: (n, n), A^T A.
        targets: (m,) columns.
        l1, penalty: weights of the absolute and of the squared weights.
        sweeps: over all coordinates, at most.
        tol: a target is done when no weight moves by more than this part of its largest one.

    Returns:
        (n, m) weights, and (m,) whether each target was done.
    """
    n = len(G)
    found, done = torch.zeros(n, len(targets), dtype=G.dtype, device=G.device), torch.zeros_like(targets, dtype=bool)
    left = torch.arange(len(targets), device=G.device)  # the targets that are not done
    W, R = torch.zeros_like(found), G[:, targets]
    scale = (G.diagonal() + penalty).clamp_min(1e-9)
    for _ in range(sweeps):
        largest_step = torch.zeros_like(W[0])
        for start in range(0, n, COORDINATES_AT_ONCE):
            block = slice(start, min(start + COORDINATES_AT_ONCE, n))
            own = torch.arange(start, block.stop, device=G.device)[:, None] == targets[left]
            inner, rest, was, step = G[block, block], R[block], W[block], torch.zeros_like(W[block])
            for i in range(len(was)):
                pull = rest[i] - inner[i, :i] @ step[:i] + inner[i, i] * was[i] - l1
                step[i] = (pull.clamp_min_(0) / scale[start + i]).masked_fill_(own[i], 0) - was[i]
            W[block] += step
            R.addmm_(G[:, block], step, alpha=-1)
            largest_step = torch.maximum(largest_step, step.abs().amax(0))
        found[:, left] = W
        moving = largest_step > tol * W.amax(0)
        done[left[~moving]] = True
        left, W, R = left[moving], W[:, moving], R[:, moving]
        if len(left) == 0:
            break
    return found, done


class SLIM(SparseItemItemModel):
    """Sparse, non-negative weights W between items without a diagonal, so that A W is close to the clicks A.

    Ratings are not read.

    Args:
        n_items: number of items.
        l1: lambda, the weight of the absolute weights: the larger, the fewer are left.
        penalty: beta; beta/2 is the weight of the squared weights.
        sweeps: of coordinate descent over all items, at most.
        tol: an item is done when none of its weights moves by more than this part of the largest.
        memory_gb: refuse a catalogue whose solution needs more GB than this.
    """

    slug = "slim"
    about = "sparse non-negative weights between items by elastic nets (Ning and Karypis 2011)"
    descends = "itemknn"
    changes = "the weights: learned, few, not negative"

    def __init__(
        self,
        n_items: int,
        l1: float = 1.0,
        penalty: float = 100.0,
        sweeps: int = 200,
        tol: float = 1e-3,
        memory_gb: float = 8.0,
    ):
        super().__init__(n_items)

    def bytes_needed(self) -> int:
        """The items' matrix, and weights, residuals and copies of those that are solved for together."""
        return 4 * self.n_items * (self.n_items + 6 * min(TARGETS_AT_ONCE, self.n_items))

    def demands(self, train: Interactions, device: torch.device) -> str | None:
        """Return what the solution takes, for a large catalogue."""
        sweep = 2 * self.n_items**3 / product_rate(device, torch.float32)
        seconds = seconds_of_gram(train) + USUAL_SWEEPS * sweep
        return said(self.slug, self.n_items, self.bytes_needed(), seconds, f" if it takes {USUAL_SWEEPS} sweeps")

    def start(self, train: Interactions) -> None:
        """Solve.

        Raises:
            ConfigError: it needs more memory than ``memory_gb``.
        """
        self.check_memory()
        options = [self.config[name] for name in ("l1", "penalty", "sweeps", "tol")]
        G = gram(train, torch.float32)
        had, scored, weights, not_done = [], [], [], 0
        for targets in torch.arange(self.n_items, device=G.device).split(TARGETS_AT_ONCE):
            W, done = elastic_nets(G, targets, *options)
            items, places = W.nonzero(as_tuple=True)
            had.append(items)
            scored.append(targets[places])
            weights.append(W[items, places])
            not_done += int((~done).sum())
        if not_done:
            warnings.warn(
                f"slim: the weights of {counted(not_done, 'item')} still move by more than {self.config['tol']:g} of "
                f"the largest after {counted(self.config['sweeps'], 'sweep')}: allow more sweeps"
            )
        self.keep(had, scored, weights)
