"""An output layer whose items are split over the processes, where one device cannot hold it.

Users are split as ever (:mod:`~vaecf_lib.distributed`). For a batch every process gets the hidden vectors and clicks of
all its users, computes with the items it has, and keeps what is of its own users: a column-parallel layer with the loss
computed in parts (Shoeybi et al. 2019, section 3). The sums over items in a likelihood are added up over the processes,
(B,) numbers each; gradients by the layer's weights are whole where the weights are.

The parts are plain tensors. Torch's DTensor does not serve: the fused Adam refuses a list of both kinds, and
``full_tensor()`` puts the whole on every device, where there is no room for it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import distributed
from .distributed import OwnRows
from .errors import ConfigError
from .maths.counting import Columns
from .maths.likelihoods import LIKELIHOODS, Clicks, check_binary
from .models.base import Model
from .models.likelihood import Clicks as ClickForm
from .nn import ItemLayer
from .nn.output import fitting_clicks, item_log_prob, item_logits


class _OwnColumns(Columns):
    """This process's items among ``n``: sums over all of them are added up over the processes."""

    def __init__(self, n: int):
        self.n, self.place, self.shares = n, distributed.place(), distributed.shares(n)
        self.own = self.shares[self.place.rank]

    def width(self, n: int) -> int:
        return max(items.stop - items.start for items in self.shares)

    def n_items(self, logits: Tensor) -> int:
        return self.n

    def sums(self, *parts: Tensor) -> tuple[Tensor, ...]:
        total = torch.stack(parts)
        distributed.add_up(total)
        return total.unbind()

    def largest(self, part: Tensor) -> Tensor:
        return distributed.largest(part)

    def logsumexp(self, logits: Tensor) -> Tensor:
        part = logits.logsumexp(-1)
        top = self.largest(part)
        (total,) = self.sums((part - top).exp())
        return total.log() + top

    def row_slices(self, array: Tensor) -> list[slice]:
        return [slice(0, len(array))]  # the same everywhere, and each would wait for the other processes

    def clicks(self, own: Clicks, users: list[int], clicks: list[int], weighted: bool) -> Clicks:
        """Return all users' clicks on this process's items, from those of its own users on all items."""
        first = sum(users[: self.place.rank])
        rows, items = distributed.joined(torch.stack([own.rows + first, own.items], 1), clicks).unbind(1)
        counts = distributed.joined(own.counts, users)
        here = (items >= self.own.start) & (items < self.own.stop)
        weights = None
        if weighted:
            weights = torch.ones_like(own.rows, dtype=counts.dtype) if own.weights is None else own.weights
            weights = distributed.joined(weights, clicks)[here]
        return Clicks(rows[here], items[here] - self.own.start, counts, weights)


class _OfAll(torch.autograd.Function):
    """From the own users' rows to those of all users; each process computes a part of the gradient of all."""

    @staticmethod
    def forward(ctx, own, users, columns):
        ctx.own = slice(start := sum(users[: columns.place.rank]), start + len(own))
        return distributed.joined(own, users)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grad = grad.clone()
        distributed.add_up(grad)
        return grad[ctx.own], None, None


class _OfOwn(torch.autograd.Function):
    """From all users' values, which each process knows, to the own; each knows the gradient of its own alone."""

    @staticmethod
    def forward(ctx, values, users, columns):
        ctx.users = users
        return values.split(users)[columns.place.rank].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return distributed.joined(grad, ctx.users), None, None


class _Transposed(torch.autograd.Function):
    """From the logits of all users for the own items to those of the own users for all items."""

    @staticmethod
    def forward(ctx, logits, users, columns):
        ctx.users, ctx.columns = users, columns
        own = users[columns.place.rank]
        shapes = [(own, items.stop - items.start) for items in columns.shares]
        return torch.cat(distributed.exchanged(logits.split(users), shapes), 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        n_own = ctx.columns.own.stop - ctx.columns.own.start
        shapes = [(n_users, n_own) for n_users in ctx.users]
        return torch.cat(distributed.exchanged([grad[:, items] for items in ctx.columns.shares], shapes)), None, None


class SplitItemLayer(ItemLayer):
    """An :class:`~vaecf_lib.nn.ItemLayer` of which this process has some items' weights; all must call it alike.

    Its ``state_dict`` has the whole weights in the first process, on the CPU, and none in the others. It is loaded with
    this process's rows.

    Raises:
        ConfigError: called by a process alone.
    """

    def __init__(self, layer: ItemLayer, device: torch.device):
        columns = _OwnColumns(layer.out_features)
        own = columns.own.stop - columns.own.start
        super().__init__(layer.in_features, own, device="meta")
        self.columns = columns
        parts = distributed.tensors_of_first(dict(layer.named_parameters()), device, ("weight", "bias"))
        self.weight, self.bias = OwnRows(parts["weight"]), OwnRows(parts["bias"])

    def forward(self, h: Tensor, frozen: bool = False) -> Tensor:
        """Return the logits of this process's users for all items, (..., n_items), for their h (..., d)."""
        self._check_place()
        flat = h.reshape(-1, h.shape[-1])
        users = [n for (n,) in distributed.lengths(len(flat))]
        everybodys = _OfAll.apply(flat, users, self.columns)
        if torch.is_autocast_enabled(h.device.type):
            logits = torch.nn.functional.linear(everybodys, *self._weights(frozen))
        else:
            logits = item_logits(everybodys, *self._weights(frozen))
        return _Transposed.apply(logits, users, self.columns).reshape(*h.shape[:-1], self.columns.n)

    def log_prob(self, h: Tensor, x, likelihood: str, frozen: bool = False) -> Tensor:
        """Return log p(x | logits of h), (B,), for this process's users, as the whole layer would."""
        self._check_place()
        if torch.is_autocast_enabled(h.device.type):
            return LIKELIHOODS[likelihood](self(h, frozen), x)
        clicks = fitting_clicks(h, x, self.columns.n)
        if likelihood == "n_choose_k":
            check_binary(clicks)
        lengths = distributed.lengths(len(h), len(clicks.rows), int(clicks.weights is not None))
        users, n_clicks, weighted = zip(*lengths, strict=True)
        everybodys = _OfAll.apply(h, users, self.columns)
        clicks = self.columns.clicks(clicks, users, n_clicks, any(weighted))
        values = item_log_prob(everybodys, *self._weights(frozen), clicks, likelihood, self.columns)
        return _OfOwn.apply(values, users, self.columns)

    def _check_place(self) -> None:
        if distributed.place() != self.columns.place:
            raise ConfigError(
                f"the output layer is split among {self.columns.place.count} processes: call this in all of them, "
                "inside of distributed.shared(), or load the run's folder, which holds it whole"
            )

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        self._check_place()
        for name, part in self.named_parameters(recurse=False):
            destination[prefix + name] = distributed.whole(part, self.columns.n)


def check_unsplit(model: Model) -> None:
    """Refuse a model whose output layer is split already.

    Raises:
        ConfigError: as said.
    """
    if any(isinstance(part, SplitItemLayer) for part in model.modules()):
        raise ConfigError(f"the output layer of this {model.slug} is split among processes: build a new one")


def split_items(model: Model, device: torch.device) -> None:
    """Leave this process its part of the model's output layer, if there are several; the first one's weights count.

    Raises:
        ConfigError: it has no output layer with a likelihood of clicks behind it, or it draws some items alone, or
            renews all together, or there are fewer items than processes.
    """
    count = distributed.place().count
    if count == 1:
        return
    holder = getattr(model, "decoder", model)
    layer, form = getattr(holder, "output", None), getattr(model, "likelihood", None)
    if not isinstance(layer, ItemLayer) or not isinstance(form, ClickForm):
        raise ConfigError(
            f"shard_items: {model.slug} has no output layer with a likelihood of clicks behind it: leave it out"
        )
    if form.n_sampled is not None:
        raise ConfigError(f"shard_items: {model.slug} with n_sampled draws from all items: give one of the two")
    if model.config.get("implicit_slim") is not None:
        raise ConfigError(
            f"shard_items: {model.slug} with implicit_slim renews all items together: give one of the two"
        )
    if layer.out_features < count:
        raise ConfigError(f"shard_items: {layer.out_features} items for {count} processes: start fewer")
    holder.output = SplitItemLayer(layer, device)


def split_names(model: Model) -> tuple[str, ...]:
    """Return the names of the parameters of which each process has rows of its own."""
    return tuple(name for name, parameter in model.named_parameters() if isinstance(parameter, OwnRows))
