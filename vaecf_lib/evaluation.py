"""Ranking and rating metrics on the device, in batches, with 95 % intervals over users."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .data import Batch, HeldOut
from .errors import ConfigError
from .models.base import Model
from .options import checked

RATING = ("rmse", "mae")
LIKED = 3.0


class Metric(NamedTuple):
    """A metric's parts: ndcg_liked@20 has kind "ndcg", reading "liked" and k 20; rmse has kind "rmse" alone.

    Under the ratings protocol, relevant is what was rated above LIKED. The reading "liked" ranks the whole catalogue,
    "rated" only the user's own held-out ratings: VAE-BMF's paper does not say which of the two it means.
    """

    kind: str
    reading: str = ""
    k: int = 0

    @property
    def ranks(self) -> bool:
        """Whether the order of items is judged (larger is better), not the error of ratings."""
        return self.kind not in RATING


RANKING = {kind: Metric(kind) for kind in ("recall", "recall_all", "ndcg", "mrr")} | {
    f"{kind}_{reading}": Metric(kind, reading) for reading in ("liked", "rated") for kind in ("recall", "ndcg")
}


@dataclass(frozen=True)
class Estimate:
    """A metric over users: mean, half-width of its 95 % interval (normal approximation), users counted.

    For rmse and mae, pooled over ratings, ``ci`` is the delta-method interval with users as clusters. One user
    gives ``ci`` = nan.
    """

    mean: float
    ci: float
    n_users: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.ci:.3f} ({self.n_users} users)"


def parse_metric(metric: str) -> Metric:
    """Return the parts of a metric's name.

    Raises:
        ConfigError: not a metric this library has.
    """
    if metric in RATING:
        return Metric(metric)
    match = re.fullmatch(r"(\w+)@([1-9]\d{0,17})", metric)
    if not match or match[1] not in RANKING:
        raise ConfigError(
            f"unknown metric {metric!r}. Known: {', '.join(f'{m}@K' for m in RANKING)}, {', '.join(RATING)}"
        )
    return RANKING[match[1]]._replace(k=int(match[2]))


def top_items(scores: Tensor, k: int) -> Tensor:
    """Return the ``k`` best columns of each row of ``scores`` (B, n_items), best first: (B, min(k, n_items)).

    Equal scores rank by column number, so a result never depends on the device. Minus infinity marks columns
    that may not be ranked; they come last.

    Raises:
        ConfigError: a score is not a number.
    """
    n, k = scores.shape[1], min(k, scores.shape[1])
    values, items = scores.topk(min(k + 1, n), dim=1)  # one more, to see whether it is tied with the k-th
    if bool(values.isnan().any()):  # nan counts as the largest
        raise ConfigError("the model's scores hold nan: it was not trained, or training diverged")
    tied = values[:, k - 1] == values[:, k] if 0 < k < n else torch.zeros(len(scores), dtype=torch.bool)
    values, items = values[:, :k].clone(), items[:, :k].clone()
    if bool(tied.any()):  # topk settles ties at will: these rows are sorted in full
        order = scores[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
        items[tied] = order
        values[tied] = scores[tied].gather(1, order)
    by_column = items.sort(dim=1)
    by_value = values.gather(1, by_column.indices).sort(dim=1, descending=True, stable=True)
    return by_column.values.gather(1, by_value.indices)


def _ranking_metric(kind: str, k: int, hits: Tensor, n_targets: Tensor) -> Tensor:
    """Return (B,) values from ``hits`` (B, K >= k, or all items) in rank order and ``n_targets`` (B,), on the CPU."""
    hits = hits[:, :k].double()
    if kind == "recall":  # Liang et al. 2018: a perfect list scores 1 even if there are more targets than places
        return hits.sum(1) / n_targets.clamp_max(k)
    if kind == "recall_all":
        return hits.sum(1) / n_targets
    ranks = torch.arange(1, hits.shape[1] + 1).double()
    if kind == "mrr":
        return (hits / ranks).amax(1)  # the first hit has the largest 1 / rank
    discount = 1 / torch.log2(ranks + 1)
    all_places = 1 / torch.log2(torch.arange(2, k + 2).double())
    return (hits * discount).sum(1) / all_places.cumsum(0)[n_targets.clamp_max(k) - 1]


def _rated_hits(predicted: Tensor, targets: Batch, relevant: Tensor, k: int) -> Tensor:
    """Return (B, k): whether each user's own targets, best first by ``predicted`` (n,), are ``relevant``."""
    order = predicted.sort(descending=True, stable=True).indices
    order = order[targets.rows[order].sort(stable=True).indices]  # user by user, best first
    place = torch.arange(len(order), device=order.device) - targets.offsets[targets.rows[order]]
    kept = place < k
    hits = torch.zeros(len(targets), k, dtype=torch.bool, device=order.device)
    hits[targets.rows[order][kept], place[kept]] = relevant[order][kept]
    return hits


def check_metrics(model: Model, heldout: HeldOut, metrics: tuple[str, ...]) -> dict[str, Metric]:
    """Return {name: its parts}, if ``model`` and ``heldout`` can give them.

    Raises:
        ConfigError: unknown metric, or a metric that needs target ratings without them, or rmse or mae from a model
            that only ranks, or people whom the model was not trained on and cannot know.
    """
    if heldout.strangers and model.needs == "user" and "n_users" in model.config:
        raise ConfigError(
            f"{model.slug} scores only the users it was trained on, and these are others: use the weak or the ratings "
            "protocol, or a system that reads histories"
        )
    parsed = {name: parse_metric(name) for name in metrics}
    for name, metric in parsed.items():
        if (metric.reading or not metric.ranks) and heldout.targets.values is None:
            raise ConfigError(f"{name} needs target ratings: use the ratings protocol")
        if not metric.ranks and not model.rates:
            raise ConfigError(f"{model.slug} ranks items and predicts no ratings: use ranking metrics, as ndcg@100")
    return parsed


@torch.inference_mode()
def per_user_metrics(
    model: Model, heldout: HeldOut, metrics: tuple[str, ...], batch_size: int = 500
) -> dict[str, Tensor]:
    """Return {metric: (n_users,) float64 on the CPU}; nan for users without targets.

    Ranking metrics rank every item not in the user's history, or ("_rated") the user's targets alone. For rmse and
    mae the values are the user's sums of squared and absolute errors; predictions are cut off at the smallest and the
    largest rating of the histories.
    """
    parsed = check_metrics(model, heldout, metrics)
    readings = {metric.reading for metric in parsed.values() if metric.ranks}
    heldout = heldout.to(model.device)
    if heldout.history.n_items != model.n_items:
        raise ConfigError(f"the model has {model.n_items} items, the data {heldout.history.n_items}: wrong split")
    # A list is no longer than the catalogue: a larger K gives the same values, and must not take more memory.
    parsed = {name: metric._replace(k=min(metric.k, model.n_items)) for name, metric in parsed.items()}
    scored = (heldout.targets.counts > 0).nonzero()[:, 0]
    result = {name: torch.full((heldout.history.n_users,), math.nan).double() for name in metrics}
    largest_k = max((metric.k for metric in parsed.values()), default=0)
    rates = not all(metric.ranks for metric in parsed.values())
    rates = rates and heldout.history.values is not None and heldout.history.nnz > 0
    limits = (heldout.history.values.min(), heldout.history.values.max()) if rates else (-math.inf, math.inf)
    was_training = model.training
    model.eval()
    for history in heldout.history.batches(batch_size, order=scored):
        targets, users = heldout.targets.rows(history.users), history.users.cpu()
        if heldout.strangers and model.needs == "either":
            history = replace(history, users=torch.full_like(history.users, -1))
        if readings & {"", "liked"}:
            scores = model.scores(history).float()
            predicted = scores[targets.rows, targets.items]
        else:
            scores, predicted = None, model.pair_scores(history, targets.rows, targets.items).float()
        if bool(predicted.isnan().any()):
            raise ConfigError("the model's scores hold nan: it was not trained, or training diverged")
        if scores is not None:
            scores = scores.clone()
            scores[history.rows, history.items] = -math.inf
            top = top_items(scores, largest_k)
        hits = {}
        for reading in readings:
            relevant = targets.values > LIKED if reading else torch.ones_like(targets.items, dtype=torch.bool)
            n_relevant = torch.bincount(targets.rows[relevant], minlength=len(targets))
            if reading == "rated":
                n_relevant[targets.counts < 2] = 0  # nothing to be ranked
                places = _rated_hits(predicted, targets, relevant, largest_k)
            else:
                wanted = torch.zeros_like(scores, dtype=torch.bool)
                wanted[targets.rows[relevant], targets.items[relevant]] = True
                places = wanted.gather(1, top)
            hits[reading] = places.cpu(), n_relevant.cpu()  # few bytes; float64 is not everywhere
        for name, metric in parsed.items():
            if metric.ranks:
                places, n_relevant = hits[metric.reading]
                values = _ranking_metric(metric.kind, metric.k, places, n_relevant.clamp_min(1))
                result[name][users] = torch.where(n_relevant > 0, values, math.nan)
            else:
                error = (predicted.clamp(*limits) - targets.values).cpu().double()
                error = error**2 if metric.kind == "rmse" else error.abs()
                total = torch.zeros(len(targets), dtype=torch.float64)
                result[name][users] = total.index_add_(0, targets.rows.cpu(), error)
    model.train(was_training)
    return result


@checked
def evaluate(
    model: Model,
    heldout: HeldOut,
    metrics: tuple[str, ...] = ("recall@20", "recall@50", "ndcg@100"),
    batch_size: int = 500,
) -> dict[str, Estimate]:
    """Return {metric: :class:`Estimate`} over the users that have targets.

    Metrics: recall@K (divided by min(K, targets)), recall_all@K (divided by the targets), ndcg@K (ideal list of
    min(K, targets)), mrr@K, and, pooled over the target ratings, rmse and mae. K may exceed the number of items.
    Where targets are ratings, recall_liked@K and ndcg_liked@K take those above 3 as relevant and rank the whole
    catalogue; recall_rated@K and ndcg_rated@K rank each user's own targets, of users with at least two. Users without
    a relevant target do not count.

    Raises:
        ConfigError: unknown metric, ``batch_size`` out of range, no user has targets, scores are nan, or the item
            counts do not fit.
    """
    metrics = tuple(metrics)
    values = per_user_metrics(model, heldout, metrics, batch_size)
    estimates = {}
    for metric, value in values.items():
        counted = ~value.isnan()
        n = int(counted.sum())
        if n == 0:
            raise ConfigError("no user has anything to be found: hold out more users or ratings")
        value = value[counted]
        if parse_metric(metric).ranks:
            mean, half = value.mean().item(), 1.96 * value.std(correction=min(n - 1, 1)).item() / math.sqrt(n)
        else:
            ratings = heldout.targets.counts.cpu()[counted].double()
            mean = (value.sum() / ratings.sum()).item()
            half = 1.96 * ((value - mean * ratings) ** 2).sum().sqrt().item() / ratings.sum().item()
            if metric == "rmse":
                mean = math.sqrt(mean)
                half = half / (2 * mean) if mean > 0 else 0.0
        estimates[metric] = Estimate(mean, half if n > 1 else math.nan, n)
    return estimates
