"""What every system offers: its phases of training, and scores for all items."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..data import Batch, Interactions, Items, Split, Sweep
from ..nn import reset_parts
from ..options import check_call, declared

LossFn = Callable[[Any, float], tuple[Tensor, dict[str, Tensor | float]]]


@dataclass
class Phase:
    """One optimiser and what it minimises.

    ``loss(batch, progress)`` gets a batch and the share of all updates done (0 to 1) and returns the scalar to
    minimise and the terms to log. A phase makes ``passes`` passes over the training users in each epoch
    (``per="epoch"``), or ``passes`` updates on each batch before the next phase has its turn (``per="batch"``);
    ``after`` runs when its share of an epoch is done. ``parameters``: what torch.optim takes, groups included.
    ``optimiser`` is "adam" or "rmsprop". ``sweep``: what it runs over, if not the training users. ``by_user``: the loss
    is a mean over the users of its batch, so that several processes may compute it in parts.

    ``span``: the shares of all epochs at which the phase begins and ends. Epochs with the same phases are a stage of
    the training, and the epoch that is kept in the end is one of the last stage. ``hands_on_best``: the stage after
    this phase starts from the weights of the epoch that was best on the validation part, if there is one, not of the
    last.
    """

    name: str
    parameters: Sequence[Any]
    loss: LossFn
    lr: float = 1e-3
    passes: int = 1
    per: str = "epoch"
    after: Callable[[], None] | None = None
    optimiser: str = "adam"
    sweep: Sweep | None = None
    by_user: bool = True
    span: tuple[float, float] = (0.0, 1.0)
    hands_on_best: bool = False


def penalised(parameters: Iterable[nn.Parameter], penalty: float) -> list[dict[str, Any]]:
    """Return parameter groups for a loss with penalty ||W||^2 over the weight matrices; biases stay free.

    The penalty acts as coupled weight decay of 2 ``penalty``, which has the same gradient.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.ndim == 2 else others).append(parameter)
    return [{"params": matrices, "weight_decay": 2 * penalty}, {"params": others}]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Treat the module's weights as constants inside: gradients flow through it, none are computed for it."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in module.parameters():
            parameter.requires_grad_(True)


def _keeps_options(constructor: Callable) -> Callable:
    """Decorate a constructor: its options are checked before its body reads them, and kept in ``config``."""
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def construct(self, *arguments, **options):
        subject = getattr(type(self), "slug", type(self).__name__)
        check_call(subject, constructor, (self, *arguments), options)
        call = signature.bind(self, *arguments, **options)
        call.apply_defaults()
        given = {name: list(value) if isinstance(value, tuple) else value for name, value in call.arguments.items()}
        # A subclass's constructor comes first; it may hand on what it does not name itself.
        own = {name: given[name] for name in declared(constructor, subject)}
        self.config = own | vars(self).get("config", {})
        constructor(self, *arguments, **options)

    return construct


class Model(nn.Module):
    """A system that scores all items for a user.

    Subclasses set ``slug`` and ``about`` and implement :meth:`scores`, and :meth:`phases`, :meth:`prepare` or
    :meth:`start`. The options that a constructor is given are kept in ``config``, from which a checkpoint rebuilds the
    model.

    Raises:
        ConfigError: an option is not what the constructor's annotation and the table of ranges say; in one line.
    """

    slug: ClassVar[str]
    about: ClassVar[str]
    descends: ClassVar[str] = ""  # the slug of the system that it sets out from; "": from none of these
    changes: ClassVar[str] = ""  # what it changes in that one, in a few words: the lineage map's
    rates: ClassVar[bool] = False  # are the scores ratings, on the scale of the data?
    # What it needs to score someone: their "history"; a "user" it was trained on, by their row; or "either" of the two,
    # where the users of a batch who are no users of the training data have the number -1.
    needs: ClassVar[str] = "history"
    reads_values: ClassVar[bool] = True  # do the scores depend on the ratings of a history that has some?
    config: dict[str, Any]
    item_names: Items | None = None  # ids and titles by item code of the rating log; fit() sets them from the split
    item_index: Tensor
    rating_range: Tensor
    item_counts: Tensor
    n_train_users: Tensor

    def __init_subclass__(cls, **keywords: Any):
        """Have the constructor of every system check and keep its options."""
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            cls.__init__ = _keeps_options(cls.__init__)

    @_keeps_options
    def __init__(self, n_items: int):
        super().__init__()
        self.n_items = n_items
        # Column of the model -> item code of the rating log; fit() sets it from the split.
        self.register_buffer("item_index", torch.arange(n_items))
        # Smallest and largest rating of the training data; (inf, -inf) for clicks.
        self.register_buffer("rating_range", torch.tensor([torch.inf, -torch.inf]))
        # How many training users have each item, and how many users there were; 0 before fit().
        self.register_buffer("item_counts", torch.zeros(n_items, dtype=torch.int64))
        self.register_buffer("n_train_users", torch.zeros((), dtype=torch.int64))

    @property
    def device(self) -> torch.device:
        """The device that holds the model."""
        return self.item_index.device

    @property
    def rated(self) -> bool:
        """Whether it was trained on ratings."""
        return bool(self.rating_range[0] <= self.rating_range[1])

    @property
    def anneals(self) -> bool:
        """Whether a loss depends on ``progress``, and so an epoch on how many there will be; override if one does."""
        return bool(self.config.get("anneal") and self.config.get("beta"))

    def describe(self, split: Split) -> None:
        """Note what the columns of ``split`` are, how popular, and on which scale: for who serves or measures."""
        self.item_names = split.items
        self.item_index.copy_(torch.as_tensor(split.item_index))
        self.item_counts.copy_(split.train.item_counts)
        self.n_train_users.fill_(split.train.n_users)
        values, clicks = split.train.values, self.rating_range.new_tensor([torch.inf, -torch.inf])
        self.rating_range.copy_(clicks if values is None else torch.stack([values.min(), values.max()]))

    def phases(self) -> list[Phase]:
        """Return how the model is trained; none for one that only needs :meth:`prepare` and :meth:`start`."""
        return []

    def prepare(self, train: Interactions) -> None:
        """Look at the training interactions once, before the first epoch."""

    def start(self, train: Interactions) -> None:
        """Give freshly drawn weights the initial values that depend on the data, if there are any.

        A system that is solved, and not trained by epochs, is solved here.
        """

    def before_epoch(self, epoch: int, train: Interactions) -> None:
        """Do what is due before the updates of an epoch, counted from 1, also where a run is resumed."""

    def demands(self, train: Interactions, device: torch.device) -> str | None:
        """Return in a line what memory and time :meth:`start` will take on ``device``; None if that is not much."""
        return None

    def reset_parameters(self) -> None:
        """Draw all weights anew (from torch's global generator)."""
        reset_parts(self)

    def scores(self, batch: Batch) -> Tensor:
        """Return (B, n_items) scores, or ratings; larger ranks higher.

        Systems read the users' histories, or ``batch.users``, rows of the training data; -1 is a person who is none of
        them, and whom those that need "either" know by their history.
        """
        raise TypeError(f"{type(self).__name__} does not implement scores()")

    def pair_scores(self, batch: Batch, rows: Tensor, items: Tensor) -> Tensor:
        """Return the scores of single items, (n,): of ``items[j]`` for the user at place ``rows[j]`` of the batch."""
        return self.scores(batch)[rows, items]

    def item_vectors(self) -> Tensor | None:
        """Return what it has learnt of each item, (n_items, d), in which alike items point the same way.

        None if it has learnt nothing of the kind. Here: the weights of the decoder's last layer, which is
        ``self.decoder.output`` or ``self.output``.
        """
        output = getattr(getattr(self, "decoder", self), "output", None)
        return output.weight if isinstance(output, nn.Linear) and output.out_features == self.n_items else None
