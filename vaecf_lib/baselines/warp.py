"""WARP: weighted approximate-rank pairwise loss, Weston, Bengio and Usunier (2011), as in RaCT's comparison."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..data import Batch
from ..models.base import Model, Phase, penalised
from ..nn import ItemLayer, SparseInput, full_precision, init_linear

DRAWN_AT_ONCE = 2**22  # items that are drawn and compared at a time


class WARP(Model):
    """A linear autoencoder, I-200-I, whose updates weigh pairs of items by the place of the user's own in the list.

    The loss of a user is the sum, over his items i and all others j, of L(r_i) (margin + s_j - s_i)_+, where r_i is the
    place of i in his list and L(r) = 1 + 1/2 + ... + 1/r: a mistake near the top costs little more than one below it.

    Without a margin equal scores cost nothing, so that order alone is learnt, and the scores shrink. That is how RaCT's
    public code has it (Lobel et al. 2020).

    Args:
        n_items: number of items.
        latent_dim: width of the code.
        form: "listwise", all pairs, with r_i in the list as it is; or "sampled", as in Weston et al. (2011): for each
            of the user's items others are drawn until one comes within the margin of it, which is then the only pair,
            and the place is estimated from the number of draws.
        margin: by how much the user's items are to be ahead, added to the others' scores where they are compared. None:
            0 in the listwise form, as in the public code, and 1 in the sampled one, as in Weston et al.
        tries: draws for each item in the sampled form; if none comes within the margin, the item costs nothing.
        dropout: share of a user's clicks hidden from the input at each update.
        penalty: lambda of lambda ||W||^2 beside the mean loss of a user; the public code's.
        lr: Adam's step size.
    """

    slug = "warp"
    about = "linear autoencoder with the listwise WARP loss (Weston et al. 2011, Lobel et al. 2020)"
    descends = "wmf-linear"
    changes = "the loss: pairs of items"

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        form: Literal["listwise", "sampled"] = "listwise",
        margin: float | None = None,
        tries: int = 100,
        dropout: float = 0.5,
        penalty: float = 1e-5,
        lr: float = 1e-3,
    ):
        super().__init__(n_items)
        self.margin = margin if margin is not None else float(form == "sampled")
        self.input = SparseInput(n_items, latent_dim, dropout)
        self.output = ItemLayer(latent_dim, n_items)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        super().reset_parameters()
        init_linear(self.output.weight, self.output.bias)

    def scores(self, batch: Batch) -> Tensor:
        """Return the scores, (B, n_items)."""
        return self.output(self.input(batch))

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        """Return the batch mean of a user's weighted mistakes; the penalty acts in the optimiser."""
        loss = listwise_warp if self.config["form"] == "listwise" else self.sampled
        mistakes = loss(full_precision(self.scores(batch)), batch, self.margin).mean()
        return mistakes, {"mistakes": mistakes}

    def sampled(self, scores: Tensor, batch: Batch, margin: float) -> Tensor:
        """Return the sampled form's loss of each user, (B,), from the scores (B, n_items)."""
        tries = self.config["tries"]
        others = scores.detach().clone()
        others[batch.rows, batch.items] = -torch.inf
        own, levels = scores[batch.rows, batch.items], harmonic_numbers(scores)
        costs = []
        for at in torch.arange(len(own), device=own.device).split(max(1, DRAWN_AT_ONCE // tries)):
            rows = batch.rows[at]
            drawn = torch.randint(self.n_items, (len(at), tries), device=own.device)
            ahead = others[rows[:, None], drawn] > own[at, None] - margin
            first = ahead.int().argmax(1)
            level = levels[self.n_items // (first + 1) - 1] * ahead.any(1)
            item = drawn.gather(1, first[:, None])[:, 0]
            costs.append(level * (margin + scores[rows, item] - own[at]))
        return torch.zeros_like(scores[:, 0]).index_add(0, batch.rows, torch.cat([*costs, own[:0]]))

    def phases(self) -> list[Phase]:
        """One phase; weights are penalised, biases are not."""
        return [Phase("all", penalised(self.parameters(), self.config["penalty"]), self.loss, lr=self.config["lr"])]


def harmonic_numbers(scores: Tensor) -> Tensor:
    """Return L(1), ..., L(n_items), (n_items,): the weights of the places in a list, in the dtype of the scores."""
    places = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    return places.to(scores.dtype).reciprocal().cumsum(0)


def listwise_warp(scores: Tensor, batch: Batch, margin: float = 0.0) -> Tensor:
    """Return each user's sum over own items i and others j of L(r_i) (margin + s_j - s_i)_+, (B,).

    As in RaCT's public code r_i counts all items down to i, own ones, too; with a margin, in the list in which the own
    items stand that much lower. Places and weights are constants for the gradient. Every pair counts, and none is
    formed: after one sort the pairs of an item are a running sum, O(n_items log n_items) a user.

    Args:
        scores: (B, n_items).
        batch: whose items are the users' own.
        margin: by how much they are to be ahead.
    """
    rows, items = batch.rows, batch.items
    lowered = scores.index_put((rows, items), scores[rows, items] - margin)
    with torch.no_grad():
        order = lowered.argsort(dim=1, descending=True)
        places = torch.empty_like(order)
        places.scatter_(1, order, torch.arange(scores.shape[1], device=scores.device).expand_as(order))
        own = places[rows, items]
        levels = torch.zeros_like(scores)  # of the own items, at their places
        levels[rows, own] = harmonic_numbers(scores)[own]
        mine = (levels > 0).cumsum(1)  # own items down to each place
        # An item of others is raised by every own one below it, an own item lowered by all others above.
        weights = levels.flip(1).cumsum(1).flip(1).gather(1, places)
        weights[rows, items] = -levels[rows, own] * (own + 1 - mine[rows, own])
    return (weights * lowered).sum(1)
