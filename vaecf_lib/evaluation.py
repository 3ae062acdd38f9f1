"""Ranking and rating metrics on the device, in batches, with 95 % intervals over users."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from . import distributed
from .data import Batch, HeldOut
from .errors import ConfigError, shown
from .models.base import Model
from .options import checked

RATING = ("rmse", "mae")
OVER_LISTS = ("coverage", "gini")  # one number for all lists together, not a mean over users
LIKED = 3.0
HOLD_NAN = "the model's scores hold nan: it was not trained, or training diverged"
SCORES_BYTES = 2**28  # of a batch: 3,300 users of 20,108 items; of a million items, 67


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
        """Whether lists of items are judged, not the error of ratings."""
        return self.kind not in RATING

    @property
    def over_lists(self) -> bool:
        """Whether all users' lists are judged together, so that no single user has a value."""
        return self.kind in OVER_LISTS

    @property
    def lower_is_better(self) -> bool:
        """Whether validation looks for the smallest value: the least error, or the most even exposure (gini)."""
        return self.kind in (*RATING, "gini")


KINDS = ("recall", "recall_all", "ndcg", "mrr", "map", "map_all", "hit", "precision", "novelty", *OVER_LISTS)
RANKING = {kind: Metric(kind) for kind in KINDS} | {
    f"{kind}_{reading}": Metric(kind, reading) for reading in ("liked", "rated") for kind in ("recall", "ndcg")
}


@dataclass(frozen=True)
class Estimate:
    """A metric over users: mean, half-width of its 95 % interval (normal approximation), users counted.

    For rmse and mae, pooled over ratings, ``ci`` is the delta-method interval with users as clusters. One user
    gives ``ci`` = nan, and so do coverage and gini, which are no means over users.
    """

    mean: float
    ci: float
    n_users: int

    def __str__(self) -> str:
        interval = "" if math.isnan(self.ci) else f" ± {self.ci:.3f}"
        return f"{self.mean:.3f}{interval} ({self.n_users} {'user' if self.n_users == 1 else 'users'})"


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
    tied = values[:, k - 1] == values[:, k] if 0 < k < n else torch.zeros_like(values[:, 0], dtype=torch.bool)
    # nan counts as the largest. Both questions at once: each answer waits for the device.
    astray, any_tied = torch.stack([values.isnan().any(), tied.any()]).tolist()
    if astray:
        raise ConfigError(HOLD_NAN)
    values, items = values[:, :k].clone(), items[:, :k].clone()
    if any_tied:  # topk settles ties at will: these rows are sorted in full
        order = scores[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
        items[tied] = order
        values[tied] = scores[tied].gather(1, order)
    by_column = items.sort(dim=1)
    by_value = values.gather(1, by_column.indices).sort(dim=1, descending=True, stable=True)
    return by_column.values.gather(1, by_value.indices)


def _ranking_metric(kind: str, k: int, hits: Tensor, n_targets: Tensor) -> Tensor:
    """Return (B,) float64 values from ``hits`` (B, K >= k, or all items) in rank order and ``n_targets`` (B,)."""
    hits, device = hits[:, :k].double(), hits.device
    if kind == "recall":  # Liang et al. 2018: a perfect list scores 1 even if there are more targets than places
        return hits.sum(1) / n_targets.clamp_max(k)
    if kind == "recall_all":
        return hits.sum(1) / n_targets
    if kind == "precision":
        return hits.sum(1) / k
    if kind == "hit":
        return hits.amax(1)
    ranks = torch.arange(1, hits.shape[1] + 1, device=device).double()
    if kind == "mrr":
        return (hits / ranks).amax(1)  # the first hit has the largest 1 / rank
    if kind in ("map", "map_all"):
        at_hits = (hits * hits.cumsum(1) / ranks).sum(1)  # precision at each hit's rank
        return at_hits / (n_targets.clamp_max(k) if kind == "map" else n_targets)
    discount = 1 / torch.log2(ranks + 1)
    all_places = 1 / torch.log2(torch.arange(2, k + 2, device=device).double())
    return (hits * discount).sum(1) / all_places.cumsum(0)[n_targets.clamp_max(k) - 1]


def _rated_hits(predicted: Tensor, targets: Batch, relevant: Tensor, k: int) -> Tensor:
    """Return (B, k): whether each user's own targets, best first by ``predicted`` (n,), are ``relevant``."""
    order = predicted.sort(descending=True, stable=True).indices
    order = order[targets.rows[order].sort(stable=True).indices]  # user by user, best first
    place = torch.arange(len(order), device=order.device) - targets.offsets[targets.rows[order]]
    hits = torch.zeros(len(targets), k + 1, dtype=torch.bool, device=order.device)
    hits[targets.rows[order], place.clamp_max(k)] = relevant[order]  # the last column is for what is not in the list
    return hits[:, :k]


def check_metrics(model: Model, heldout: HeldOut, metrics: tuple[str, ...]) -> dict[str, Metric]:
    """Return {name: its parts}, if ``model`` and ``heldout`` can give them.

    Raises:
        ConfigError: unknown metric, or a metric that needs target ratings without them, or rmse or mae from a model
            that only ranks, or people whom the model was not trained on and cannot know.
    """
    if heldout is None:
        raise ConfigError(
            "the split holds nothing out to evaluate on: use one that does, as split_strong, or other data"
        )
    if not isinstance(heldout, HeldOut):
        raise ConfigError(f"{shown(heldout)} is no held-out part: give one of a split, as split.test")
    if heldout.strangers and model.needs == "user" and "n_users" in model.config:
        raise ConfigError(
            f"{model.slug} scores only the users it was trained on, and these are others: use "
            f"{'the ratings' if model.rates else 'the weak'} protocol, or a system that reads histories"
        )
    parsed = {name: parse_metric(name) for name in metrics}
    for name, metric in parsed.items():
        if (metric.reading or not metric.ranks) and heldout.targets.values is None:
            raise ConfigError(
                f"{name} needs target ratings: use the ratings protocol, or time or leave-one-out with ratings=true"
            )
        if not metric.ranks and not model.rates:
            raise ConfigError(f"{model.slug} ranks items and predicts no ratings: use ranking metrics, as ndcg@100")
    return parsed


def _information(model: Model) -> Tensor:
    """Return (n_items,) bits, on the CPU: -log2 of the share of the model's training users that have each item.

    An item that no training user has counts as if one had it.
    """
    if int(model.n_train_users) == 0:
        raise ConfigError(f"novelty needs to know how many training users have an item: train {model.slug} with fit()")
    return torch.log2(model.n_train_users.cpu().double() / model.item_counts.cpu().clamp_min(1))


def _gini(shown: Tensor) -> float:
    """Return the Gini coefficient of ``shown`` (n_items,), how often each item was listed: 0 if equally often."""
    n, shown = len(shown), shown.double().sort().values
    weights = 2 * torch.arange(1, n + 1).double() - n - 1
    return ((weights * shown).sum() / (n * shown.sum())).item()


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Put the model in evaluation mode and, whatever happens, back into its own."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.inference_mode()
def _measure(
    model: Model, heldout: HeldOut, metrics: tuple[str, ...], batch_size: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return, on the CPU, {metric: (n_users,) values} and, of metrics over lists, {metric: (n_items,) times listed}."""
    parsed = check_metrics(model, heldout, metrics)
    readings = {metric.reading for metric in parsed.values() if metric.ranks}
    heldout = heldout.to(model.device)
    if heldout.history.n_items != model.n_items:
        raise ConfigError(f"the model has {model.n_items} items, the data {heldout.history.n_items}: wrong split")
    # A list is no longer than the catalogue: a larger K gives the same values, and must not take more memory.
    parsed = {name: metric._replace(k=min(metric.k, model.n_items)) for name, metric in parsed.items()}
    scored = (heldout.targets.counts > 0).nonzero()[:, 0]
    # The metrics' sums are float64, which Apple's GPUs have not. On others nothing is moved before the end.
    home = torch.device("cpu") if model.device.type == "mps" else model.device
    nobody = torch.full((heldout.history.n_users,), math.nan, dtype=torch.float64, device=home)
    nobody[scored.to(home)] = 0.0  # until the user's turn, in this process or in another one
    result = {name: nobody.clone() for name, metric in parsed.items() if not metric.over_lists}
    shown = {
        name: torch.zeros(model.n_items, dtype=torch.int64, device=model.device)
        for name, metric in parsed.items()
        if metric.over_lists
    }
    bits = _information(model).to(home) if any(metric.kind == "novelty" for metric in parsed.values()) else None
    largest_k = max((metric.k for metric in parsed.values()), default=0)
    rates = not all(metric.ranks for metric in parsed.values())
    rates = rates and heldout.history.values is not None and heldout.history.nnz > 0
    limits = (heldout.history.values.min(), heldout.history.values.max()) if rates else (-math.inf, math.inf)
    batch_size = min(batch_size, max(1, SCORES_BYTES // (4 * model.n_items)))
    rank, count = distributed.place()
    own, most = scored[rank::count], scored[::count]
    parts = [part.batches(batch_size, order=own) for part in (heldout.history, heldout.targets)]
    astray = torch.zeros((), dtype=torch.bool, device=model.device)
    for history, targets in zip(*parts, strict=True):  # the one wait for the device is in top_items
        users = targets.users.to(home)
        if heldout.strangers and model.needs == "either":
            history = replace(history, users=torch.full_like(history.users, -1))
        if readings & {"", "liked"}:
            scores = model.scores(history).float()
            predicted = scores[targets.rows, targets.items]
        else:
            scores, predicted = None, model.pair_scores(history, targets.rows, targets.items).float()
        astray |= predicted.isnan().any()
        if scores is not None:
            scores = scores.clone()
            scores[history.rows, history.items] = -math.inf
            top = top_items(scores, largest_k)
            listed = scores.gather(1, top) > -math.inf  # a history so long that it fills the last places is not shown
        hits = {}
        for reading in readings:
            relevant = targets.values > LIKED if reading else torch.ones_like(targets.items, dtype=torch.bool)
            n_relevant = torch.zeros_like(targets.counts).index_add_(0, targets.rows, relevant.long())
            if reading == "rated":
                n_relevant *= targets.counts > 1  # else nothing is to be ranked
                places = _rated_hits(predicted, targets, relevant, largest_k)
            else:
                wanted = torch.zeros_like(scores, dtype=torch.bool)
                wanted[targets.rows, targets.items] = relevant
                places = wanted.gather(1, top)
            hits[reading] = places.to(home), n_relevant.to(home)
        for name, metric in parsed.items():
            if metric.over_lists:
                items, there = top[:, : metric.k], listed[:, : metric.k]
                shown[name].index_add_(0, items.flatten(), there.flatten().long())
            elif metric.kind == "novelty":
                items, there = top[:, : metric.k].to(home), listed[:, : metric.k].to(home)
                result[name][users] = (bits[items] * there).sum(1) / there.sum(1)
            elif metric.ranks:
                places, n_relevant = hits[metric.reading]
                values = _ranking_metric(metric.kind, metric.k, places, n_relevant.clamp_min(1))
                result[name][users] = torch.where(n_relevant > 0, values, math.nan)
            else:
                error = (predicted.clamp(*limits) - targets.values).to(home).double()
                error = error**2 if metric.kind == "rmse" else error.abs()
                total = torch.zeros(len(targets), dtype=torch.float64, device=home)
                result[name][users] = total.index_add_(0, targets.rows.to(home), error)
    if math.ceil(len(own) / batch_size) < math.ceil(len(most) / batch_size):
        model.scores(heldout.history.rows(scored[:1]))  # others have one batch more, for which it may have some items
    if bool(astray):
        raise ConfigError(HOLD_NAN)
    result = {name: values.cpu() for name, values in result.items()}
    shown = {name: counts.cpu() for name, counts in shown.items()}
    return distributed.sums(result, model.device), distributed.sums(shown, model.device)


def per_user_metrics(
    model: Model, heldout: HeldOut, metrics: tuple[str, ...], batch_size: int = 500
) -> dict[str, Tensor]:
    """Return {metric: (n_users,) float64 on the CPU}; nan for users without targets.

    Ranking metrics rank every item not in the user's history, or ("_rated") the user's targets alone. For rmse and
    mae the values are the user's sums of squared and absolute errors; predictions are cut off at the smallest and the
    largest rating of the histories.

    Raises:
        ConfigError: as :func:`evaluate`; or coverage or gini, which no single user has.
    """
    for name in metrics:
        if parse_metric(name).over_lists:
            raise ConfigError(f"{name} is one number for all lists together: use evaluate()")
    with evaluating(model):
        return _measure(model, heldout, metrics, batch_size)[0]


def _over_users(kind: str, values: Tensor, n_targets: Tensor) -> Estimate:
    """Return the mean of ``values`` (n_users,), nan left out; of rmse and mae it is pooled over ``n_targets`` each."""
    counted = ~values.isnan()
    n, values = int(counted.sum()), values[counted]
    if kind not in RATING:
        mean, half = values.mean().item(), 1.96 * values.std(correction=min(n - 1, 1)).item() / math.sqrt(n)
    else:
        ratings = n_targets[counted].double()
        mean = (values.sum() / ratings.sum()).item()
        half = 1.96 * ((values - mean * ratings) ** 2).sum().sqrt().item() / ratings.sum().item()
        if kind == "rmse":
            mean = math.sqrt(mean)
            half = half / (2 * mean) if mean > 0 else 0.0
    return Estimate(mean, half if n > 1 else math.nan, n)


@checked
def evaluate(
    model: Model,
    heldout: HeldOut,
    metrics: tuple[str, ...] = ("recall@20", "recall@50", "ndcg@100"),
    batch_size: int = 500,
) -> dict[str, Estimate]:
    """Return {metric: :class:`Estimate`} over the users that have targets.

    A list is the user's K best items that are not in the history; K may exceed the number of items, and then counts
    as that number.

    - recall@K: hits / min(K, targets), as in Liang et al. 2018; recall_all@K: hits / targets; precision@K: hits / K;
      hit@K: 1 if there is a hit.
    - ndcg@K: the ideal list has min(K, targets) hits. mrr@K: 1 / rank of the first hit. map@K: the sum, over the hits,
      of the precision at their rank / min(K, targets); map_all@K: the same sum / targets, as trec_eval's map_cut.
    - novelty@K: mean over the list of -log2 of the share of the model's training users that have the item, in bits
      (the self-information of Zhou et al. 2010, PNAS 107); an item nobody has counts as if one had it.
    - coverage@K: the share of the model's items that are in somebody's list. gini@K: the Gini coefficient of how
      often each of them is, from 0 (all equally often) to 1 - 1 / n_items (always the same one); lower is better.
      Both are one number for all lists together, and have no interval.
    - rmse and mae: pooled over the target ratings.
    - Where targets are ratings, recall_liked@K and ndcg_liked@K take those above 3 as relevant and rank the whole
      catalogue; recall_rated@K and ndcg_rated@K rank each user's own targets, of users with at least two. Users
      without a relevant target do not count.

    Raises:
        ConfigError: unknown metric, ``batch_size`` out of range, no user has targets, scores are nan, the item counts
            do not fit, or novelty of a model that :func:`~vaecf_lib.fit` did not train.
    """
    metrics = tuple(metrics)
    with evaluating(model):
        values, shown = _measure(model, heldout, metrics, batch_size)
    n_scored, estimates = int((heldout.targets.counts > 0).sum()), {}
    for name in metrics:
        metric = parse_metric(name)
        n = n_scored if metric.over_lists else int((~values[name].isnan()).sum())
        if n == 0:
            raise ConfigError("no user has anything to be found: hold out more users or ratings")
        if metric.over_lists:
            mean = _gini(shown[name]) if metric.kind == "gini" else (shown[name] > 0).double().mean().item()
            estimates[name] = Estimate(mean, math.nan, n)
        else:
            estimates[name] = _over_users(metric.kind, values[name], heldout.targets.counts.cpu())
    return estimates
