"""Runs: a trained system, who its users are and how its data were cut; saved, loaded, served and evaluated."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .checkpoints import BEST, load_noted_model, load_tensors, save_tensors
from .data import HeldOut, Interactions, People, RatingLog, Split, hold_out, positives
from .errors import ConfigError, DataError, counted, shown
from .evaluation import Estimate, evaluate, parse_metric, top_items
from .manifest import MANIFEST, read_manifest
from .models.base import Model
from .serving import (
    Histories,
    Name,
    as_names,
    best_items,
    candidates,
    check_length,
    columns_of,
    read_histories,
    refuse_strangers,
    text_of,
)

PEOPLE = "people.safetensors"


@dataclass
class Run:
    """A trained system: what :func:`fit` returns and :func:`load_run` reads back.

    ``model`` · ``metric`` that chose the epoch · ``history`` one dict an epoch (loss, its terms, the validation metric,
    seconds) · ``best_epoch`` whose weights were kept · ``device`` of the training · ``stopped`` why it ended
    before all epochs were done, None if it did not · ``people`` the users by their ids
    (:class:`~vaecf_lib.data.People`; None if nobody knows them) · ``source`` which data were cut how · ``settings`` of
    the training · ``manifest`` what the folder says of where and when it was made, None if it says nothing ·
    ``seconds_to_start`` until the first epoch: of a system without epochs all that it took; nan if the run was read.
    """

    model: Model
    metric: str
    history: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    device: str = "cpu"
    stopped: str | None = None
    people: People | None = field(default=None, repr=False)
    source: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] | None = None
    seconds_to_start: float = math.nan

    @property
    def seconds_per_epoch(self) -> float:
        """Median seconds of an epoch's updates, validation not counted; nan without epochs."""
        seconds = sorted(row["seconds"] for row in self.history)
        return seconds[len(seconds) // 2] if seconds else math.nan

    @property
    def best(self) -> dict:
        """The history's row of the epoch whose weights were kept; empty where it has none, as of a killed training."""
        return next((row for row in self.history if row["epoch"] == self.best_epoch), {})

    def curve(self, name: str) -> list[float]:
        """Return one column of the history, epoch by epoch."""
        return [row[name] for row in self.history]

    # --- serving ---------------------------------------------------------------------------------------------------

    def recommend(
        self,
        users: Name | Iterable[Name] | None = None,
        histories: Histories | None = None,
        k: int = 10,
        *,
        exclude: Name | Iterable[Name] = (),
        only: Name | Iterable[Name] | None = None,
    ) -> pd.DataFrame:
        """Return the ``k`` best items for each of some people: columns user, rank, item, title (if known) and score.

        Nobody is shown an item that they have, nor, of the people in the data, one that they rated below the split's
        threshold. Equal scores rank in the order of the ids.

        Args:
            users: one id or several of the people in the data, who are served by all that is known of them (and by
                a system that knows its users as those they are); None: everyone, unless there are ``histories``.
            histories: what other people have: one person's list of items (ids or titles), or of (item, rating) pairs
                for a system that reads ratings; or many people's, as a dict of such lists, a table or a file with
                columns user, item[, rating], or a :class:`~vaecf_lib.data.RatingLog`. Unknown items are left out with
                a warning; for a system of clicks all items count as liked, whatever their ratings.
            k: length of a list; it is shorter where fewer items are left.
            exclude: items that nobody shall be shown.
            only: the items that may be shown; None for all.

        Raises:
            ConfigError: the system scores only users it was trained on, and these are others; or ``k`` is no length.
            DataError: a user is unknown, nothing of the histories is known, or ratings are missing that the system
                reads.
        """
        check_length(k)
        disliked = None
        if histories is None:
            disliked = self._known_people.disliked
            names, matrix, rows, train_rows = self._users(users)
        elif users is not None:
            raise ConfigError("give either users, by their ids, or histories, of other people")
        else:
            refuse_strangers(self.model)
            names, matrix = read_histories(self.model, histories)
            rows, train_rows = np.arange(len(names)), np.full(len(names), -1)
        allowed = candidates(self.model, exclude, only)
        found = best_items(
            self.model, matrix, torch.from_numpy(rows), torch.from_numpy(train_rows), k, allowed, disliked
        )
        without = np.setdiff1d(rows, found.person)
        if len(without):
            warnings.warn(f"no item is left to recommend to {counted(len(without), 'user')}")
        return self._table(found.column, {"user": names[found.person], "rank": found.rank}, {"score": found.score})

    def _users(self, users: Any) -> tuple[np.ndarray, Interactions, np.ndarray, np.ndarray]:
        """Return the ids and histories of all people; the places of ``users`` among them, and their training rows."""
        people = self._known_people
        rows = np.arange(len(people.ids)) if users is None else self._rows_of(as_names(users))
        train_rows = people.train_rows[rows]
        if self.model.needs == "user" and (train_rows < 0).any():
            held_out = rows[train_rows < 0]
            were = "was" if len(held_out) == 1 else "were"
            raise ConfigError(
                f"{self.model.slug} scores only the users it was trained on, and {len(held_out)} of those asked for "
                f"{were} held out, the first is {people.ids[held_out[0]]}: train a system that reads histories"
            )
        return people.ids, people.histories, rows, train_rows

    @property
    def _known_people(self) -> People:
        if self.people is None:
            raise DataError(
                "the run does not know who its users are (it is an old one, or its split did not): give histories, or "
                "train it again"
            )
        return self.people

    @cached_property
    def _people_index(self) -> pd.Index:
        return pd.Index([text_of(name) for name in self._known_people.ids.tolist()])

    def _rows_of(self, users: np.ndarray) -> np.ndarray:
        """Return the users' (n,) places among the people of the data.

        Raises:
            DataError: one is not among them.
        """
        rows = self._people_index.get_indexer(pd.Index([text_of(name) for name in users.tolist()], dtype=object))
        unknown = rows < 0
        if unknown.any():
            raise DataError(
                f"{counted(int(unknown.sum()), 'unknown user')}, the first is {users[unknown.argmax()]!r}: give ids of "
                "the data, or histories"
            )
        return rows

    def similar(self, item: Name, k: int = 10) -> pd.DataFrame:
        """Return the ``k`` items most like ``item`` (an id or title): columns rank, item, title (if known), similarity.

        Alike are those of which the system has learnt the same: the cosine of their
        :meth:`~vaecf_lib.models.Model.item_vectors`.

        Raises:
            ConfigError: the system has learnt nothing of single items, or ``k`` is no length.
            DataError: the item is unknown, or several.
        """
        check_length(k)
        if not isinstance(item, str | Integral):
            raise DataError(f"item={shown(item)}: must be one id or title")
        vectors = self.model.item_vectors()
        if vectors is None:
            raise ConfigError(f"{self.model.slug} learns nothing of single items by which to compare them")
        (column,) = columns_of(self.model, as_names(item))
        if column < 0:
            raise DataError(f"no item is called {item!r}: give its id or title as in the data")
        with torch.inference_mode():
            vectors = torch.nn.functional.normalize(vectors.float(), dim=1)
            similarity = vectors @ vectors[column]
            similarity[column] = -math.inf
            best = top_items(similarity[None], min(k, self.model.n_items - 1))[0]
        cosines = similarity[best].cpu().numpy()
        return self._table(best.cpu().numpy(), {"rank": np.arange(1, len(best) + 1)}, {"similarity": cosines})

    def _table(self, columns: np.ndarray, before: dict[str, Any], after: dict[str, Any]) -> pd.DataFrame:
        """Return a table whose lines are about the items of ``columns`` (n,)."""
        items, codes = self.model.item_names, self.model.item_index.cpu().numpy()[columns]
        shown = {"item": pd.Series(items.ids).to_numpy()[codes]}
        if items.titles is not None:
            shown["title"] = np.array(items.titles, dtype=object)[codes]
        return pd.DataFrame(before | shown | after)

    # --- evaluation ------------------------------------------------------------------------------------------------

    def evaluate(
        self, data: RatingLog | Split | HeldOut, metrics: Sequence[str] | None = None, *, seed: int = 98765
    ) -> dict[str, Estimate]:
        """Return {metric: :class:`Estimate`} on data that the run was not trained on.

        Args:
            data: a :class:`~vaecf_lib.data.Split` of the run's own data, whose test part is used, or a
                :class:`~vaecf_lib.data.HeldOut`. Or another
                log: its items are found by their ids, unknown ones are counted in a warning, ratings below the run's
                threshold are no clicks. To a system that reads histories its users are strangers, and a fifth of
                what each has (or its ``is_test``) must be found. Of a system that knows its users they must be
                those, and what the run does not know of them yet must be found.
            metrics: default recall@20, recall@50 and ndcg@100; rmse and mae of a system that predicts ratings.
            seed: of the random fifth.

        Raises:
            ConfigError: unknown metric, a split of other data or cut otherwise or without a test part, or nothing to be
                found.
            DataError: no item is known, or a system that knows its users does not know one of these.
        """
        if metrics is None:
            metrics = ("rmse", "mae") if self.model.rates else ("recall@20", "recall@50", "ndcg@100")
        for metric in metrics:  # before a look at the data
            parse_metric(metric)
        if isinstance(data, RatingLog):
            data = self.held_out(data, seed)
        elif isinstance(data, Split):
            if data.items != self.model.item_names or data.item_index.tolist() != self.model.item_index.tolist():
                raise ConfigError("the split has other items than the run: give the log itself, to find them by id")
            if self.settings.get("train_sha256") not in (None, data.train.sha256):
                raise ConfigError(
                    "the run was trained on another part of these data, so that it may know what must be found: give "
                    "the split that it was trained on (of a refit, judge load_run(folder, refit=False))"
                )
            data = data.test
        return evaluate(self.model, data, tuple(metrics))

    def held_out(self, log: RatingLog, seed: int) -> HeldOut:
        """Cut a log that the run was not trained on, as :meth:`evaluate` says.

        Raises:
            ConfigError, DataError: as there.
        """
        if self.source is not None and log.sha256 == self.source["data_sha256"]:
            if self.source["protocol"] == "all":
                raise ConfigError(f"the run was trained on all of {log.name}, nothing was held out: give other data")
            raise ConfigError(f"the run was trained on {log.name}: cut it as the run did, and give the split")
        column = columns_of(self.model, log.item_ids)
        items = np.unique(log.item)
        unknown = items[column[items] < 0]
        if len(unknown):
            first = log.item_ids[unknown[0]]
            if len(unknown) == len(items):
                raise DataError(f"{log.name}: none of its items is known to the run, the first is {first}")
            warnings.warn(f"{log.name}: {counted(len(unknown), 'unknown item')} left out, the first is {first}")
        rated = self.model.rated
        if rated and log.rating is None:
            raise DataError(f"{log.name} has no ratings, and this {self.model.slug} was trained on ratings: give some")
        if not rated and self.source is not None:
            log = positives(log, self.source["settings"].get("threshold"))
        if self.model.needs == "user":
            return self._new_of_users(log, column, rated)
        return hold_out(log, column, self.model.n_items, rated=rated, seed=seed)

    def _new_of_users(self, log: RatingLog, column: np.ndarray, rated: bool) -> HeldOut:
        """Return, by row of the training part, what the run knows of its users and what of ``log`` is new to it."""
        people = self._known_people
        train_rows = people.train_rows[self._rows_of(log.user_ids)]
        if (train_rows < 0).any():
            first = log.user_ids[int((train_rows < 0).argmax())]
            raise ConfigError(f"{self.model.slug} scores only the users it was trained on, and user {first} is none")
        known = people.histories.rows(torch.from_numpy(np.argsort(people.train_rows)[(people.train_rows < 0).sum() :]))
        shape = (len(known), self.model.n_items)
        log = log.select(column[log.item] >= 0)
        row, item = train_rows[log.user], column[log.item]
        pairs = known.rows.numpy() * shape[1] + known.items.numpy()
        new = ~np.isin(row * shape[1] + item, pairs)
        values = log.rating[new] if rated else None
        return HeldOut(
            Interactions.from_pairs(known.rows, known.items, known.values, shape=shape),
            Interactions.from_pairs(row[new], item[new], values, shape=shape),
        )


# --- folders ---------------------------------------------------------------------------------------------------------


def save_people(run: Run, folder: Path) -> None:
    """Write who the run's users are, and what is known of each, into its folder: ids and histories are personal data.

    Nothing is written if the run does not know them.
    """
    if run.people is None:
        return
    people, histories = run.people, run.people.histories
    tensors = {
        # JSON keeps text, whole numbers of any size and their order; it stands in a tensor for headers are bounded
        "ids": torch.frombuffer(bytearray(json.dumps(people.ids.tolist()).encode()), dtype=torch.uint8),
        "train_rows": torch.from_numpy(people.train_rows),
        "indptr": histories.indptr,
        "indices": histories.indices.int(),
    }
    if histories.values is not None:
        tensors["values"] = histories.values
    if people.disliked is not None:
        tensors |= {"disliked.indptr": people.disliked.indptr, "disliked.indices": people.disliked.indices.int()}
    save_tensors(folder / PEOPLE, tensors, {"data": _data_of(run.settings)})


def _data_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what tells the training data of one run from those of another."""
    return {key: settings.get(key) for key in ("train_sha256", "items_sha256")}


def _load_people(folder: Path, settings: dict[str, Any], n_items: int) -> People | None:
    """Return what :func:`save_people` has written; None if that is nothing."""
    path = folder / PEOPLE
    if not path.exists():
        return None
    tensors, note = load_tensors(path)
    if "data" not in note or (settings and note["data"] != _data_of(settings)):
        raise DataError(f"{path} is of another run than {BEST} beside it: put it back, or train anew")
    ids = json.loads(tensors["ids"].numpy().tobytes())
    shape = (len(ids), n_items)
    histories = Interactions(tensors["indptr"], tensors["indices"].long(), tensors.get("values"), shape)
    disliked = None  # of all runs that were made before these were kept, too
    if "disliked.indptr" in tensors:
        disliked = Interactions(tensors["disliked.indptr"], tensors["disliked.indices"].long(), None, shape)
    names = pd.Series(ids, dtype=None if ids else object).to_numpy()
    return People(names, histories, tensors["train_rows"].numpy(), disliked)


def _read_json(path: Path) -> Any:
    """Return the content of a JSON file of a run; None if there is none.

    Raises:
        DataError: it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged, no JSON. Train again, or give another run") from error


def load_run(folder: str | Path, device: str | torch.device = "cpu", *, refit: bool = True) -> Run:
    """Read a run from the folder that :func:`fit` was given as ``out``: its best epoch, its history and its users.

    A folder that holds a finished training on everything (``refit``, of ``vaecf fit --refit``) gives that one, unless
    ``refit`` is false: its own test part judges the run before. A run made before users were kept has none, and serves
    histories.

    Raises:
        DataError: there is no run, or one of its files is damaged or of another run.
        ConfigError: the device is not there.
    """
    folder = Path(folder)
    if refit and (folder / "refit" / "history.json").exists():  # written last
        folder = folder / "refit"
    model, note = load_noted_model(folder, device)
    manifest = read_manifest(folder) or None
    if manifest is not None and manifest.get("run", note.get("run")) != note.get("run"):
        raise DataError(f"{folder / BEST} is of another run than {MANIFEST} beside it: put it back, or train anew")
    settings = note.get("trained_with", {})
    return Run(
        model=model,
        metric=settings.get("metric", "rmse" if model.rates else "ndcg@100"),
        history=_read_json(folder / "history.json") or [],
        best_epoch=note.get("epoch", 0),
        device=str(device),
        people=_load_people(folder, settings, model.n_items),
        source=note.get("source"),
        settings=settings,
        manifest=manifest,
    )
