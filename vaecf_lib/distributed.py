"""Several processes train and evaluate one model: PyTorch's own process groups, as ``torchrun`` starts them.

Inside :func:`shared` every process has a whole copy of the model and of the data, and takes every ``count``-th user of
each batch. Gradients, sums and per-user values are added over the processes, so that all of them make the same update
and know the same metrics. Outside of it, and without ``torchrun``, a process is alone, and nothing here does anything.

What is random and common (first weights, order of users) comes from torch's global generator, which is in the same
state everywhere; for the noise of an update each process seeds it with a number of its own, and then puts it back. The
state of one process is therefore all that a checkpoint has to keep.
"""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .environment import pick_device
from .errors import ConfigError, TrainingError, VaecfError
from .models.base import Phase

TIMEOUT = timedelta(minutes=10)  # of a process that waits for another one; of a group of your own, its own
T = TypeVar("T")


class Place(NamedTuple):
    """Which of how many processes this is; ``rank`` counts from 0."""

    rank: int = 0
    count: int = 1


_place: ContextVar[Place | None] = ContextVar("place", default=None)


def place() -> Place:
    """Return this process's place among those that share the work at this moment; alone, it is the first of one."""
    return _place.get() or Place()


def launched() -> Place:
    """Return this process's place among those that ``torchrun``, or a process group of the caller's own, holds."""
    if dist.is_available() and dist.is_initialized():
        return Place(dist.get_rank(), dist.get_world_size())
    if dist.is_available() and dist.is_torchelastic_launched():
        return Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    return Place()


@contextmanager
def shared(device: str | torch.device = "auto") -> Iterator[torch.device]:
    """Share what is trained and evaluated inside among all processes, if there are several; yield the device.

    :func:`~vaecf_lib.fit` does so by itself. All processes must make the same calls. On GPUs a process has the one of
    its ``LOCAL_RANK``.

    Raises:
        ConfigError: the device is not there, or not for so many processes.
        TrainingError: the other processes cannot be reached.
    """
    here = _place.get() or launched()
    device = pick_device(device) if here.count == 1 else _device_of(here, device)
    if here.count > 1 and not dist.is_initialized():
        _join(here, "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    token = _place.set(here)
    try:
        yield device
    finally:
        _place.reset(token)


@contextmanager
def alone() -> Iterator[None]:
    """Let this process do by itself what is called inside, whatever others do."""
    token = _place.set(Place())
    try:
        yield
    finally:
        _place.reset(token)


def _join(here: Place, backend: str) -> None:
    """Open the process group of torchrun's processes, to be closed when this one ends."""
    with _in_step():
        store, *_ = next(dist.rendezvous("env://", timeout=TIMEOUT))
        if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:
            # What torchrun starts again on one machine would find the addresses of those that died.
            store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
        dist.init_process_group(backend, store=store, rank=here.rank, world_size=here.count, timeout=TIMEOUT)
    atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())


def _device_of(here: Place, device: str | torch.device) -> torch.device:
    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if str(device) == "cuda" and torch.cuda.is_available():
        index, there = int(os.environ.get("LOCAL_RANK", here.rank)), torch.cuda.device_count()
        if index >= there:
            raise ConfigError(f"a GPU for each process: there are {there} here; start as many, or use device='cpu'")
        device = f"cuda:{index}"
    device = pick_device(device)
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device={device}: several processes can only share work on cpu or cuda")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


@contextmanager
def _in_step() -> Iterator[None]:
    """Say in one line that another process is gone or silent; torch has a RuntimeError of many lines for that."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]  # not torch's advice
        raise TrainingError(
            f"another process was killed, failed or is silent ({reason}): with --out the same command goes on from the "
            "last checkpoint"
        ) from error


# --- the same everywhere ---------------------------------------------------------------------------------------------


def by_first(call: Callable[[], T]) -> T:
    """Return in all processes what ``call()`` returns in the first; what it refuses there is refused in all."""
    rank, count = place()
    if count == 1:
        return call()
    answer: list[Any] = [None, None]
    if rank == 0:
        try:
            answer[0] = call()
        except (VaecfError, OSError) as error:
            answer[1] = error
    with _in_step():
        dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


@contextmanager
def entered_by_first(context: AbstractContextManager[None]) -> Iterator[None]:
    """Enter a context in the first process alone, as one that takes a lock; what it refuses is refused in all."""
    with ExitStack() as stack:
        by_first(lambda: stack.enter_context(context))
        yield


def first_then_rest(call: Callable[[], T]) -> T:
    """Return ``call()``, which the first process has finished before the others begin: it may download something."""
    done: list[T] = []
    by_first(lambda: done.append(call()))
    return done[0] if done else call()


def tensors_of_first(
    tensors: dict[str, Tensor], device: torch.device, in_parts: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Return in all processes the ``tensors`` of the first; of the others they are not looked at.

    Of those whose names begin with one of ``in_parts``, and that have rows, each process receives its own rows alone.
    """
    rank, count = place()
    if count == 1:
        return tensors
    kinds = by_first(lambda: [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()])
    received = {}
    for name, shape, dtype in kinds:
        split = bool(shape) and name.startswith(in_parts)
        for owner, rows in enumerate(shares(shape[0]) if split else [...]):
            part = tensors[name].detach()[rows] if rank == 0 else torch.empty(shape, dtype=dtype, device="meta")[rows]
            part = part.to(device).contiguous() if rank == 0 else torch.empty_like(part, device=device)
            with _in_step():
                dist.broadcast(part, 0)
            if not split or owner == rank:
                received[name] = part
    return received


# --- rows that each process has others of ----------------------------------------------------------------------------


class OwnRows(nn.Parameter):
    """The rows of a parameter that this process has alone: their gradients are whole here, and not added up."""


def shares(n: int) -> list[slice]:
    """Return which of ``n`` rows each process has, in order; as many as any other, or one more."""
    count = place().count
    return [slice(n * rank // count, n * (rank + 1) // count) for rank in range(count)]


def lengths(*numbers: int) -> list[list[int]]:
    """Return the whole numbers that each process gives."""
    given: list[Any] = [None] * place().count
    with _in_step():
        dist.all_gather_object(given, list(numbers))
    return given


def joined(own: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return all processes' tensors, one after the other along the first dimension, where they have ``sizes``."""
    longest = own.new_zeros(max(sizes), *own.shape[1:])
    longest[: len(own)] = own
    received = [torch.empty_like(longest) for _ in sizes]
    with _in_step():
        dist.all_gather(received, longest)
    return torch.cat([tensor[:size] for tensor, size in zip(received, sizes, strict=True)])


def exchanged(to_each: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Send each process a tensor; return those that they send, which have the ``shapes``."""
    sent = torch.cat([tensor.reshape(-1) for tensor in to_each])
    sizes = [math.prod(shape) for shape in shapes]
    received = sent.new_empty(sum(sizes))
    with _in_step():
        dist.all_to_all_single(received, sent, sizes, [tensor.numel() for tensor in to_each])
    return [flat.view(shape) for flat, shape in zip(received.split(sizes), shapes, strict=True)]


def whole(own: Tensor, n: int) -> Tensor:
    """Return in the first process all ``n`` rows of a tensor in parts, on the CPU; elsewhere a "meta" tensor.

    A device needs room for one more part.
    """
    rank, _ = place()
    result = torch.empty(n, *own.shape[1:], dtype=own.dtype, device="cpu" if rank == 0 else "meta")
    for owner, rows in enumerate(shares(n)):
        part = own.detach() if owner == rank else own.new_empty(rows.stop - rows.start, *own.shape[1:])
        with _in_step():
            dist.broadcast(part, owner)
        if rank == 0:
            result[rows] = part
    return result


# --- a share of the work ---------------------------------------------------------------------------------------------


def check_phases(slug: str, phases: Sequence[Phase]) -> None:
    """Refuse a system whose batches cannot be shared out, if there are several processes.

    Raises:
        ConfigError: as said.
    """
    if place().count == 1:
        return
    for phase in phases:
        if phase.sweep is None and phase.by_user:
            continue
        why = "runs over something else than users" if phase.sweep else "has a loss that is no mean over users"
        raise ConfigError(
            f"{slug} cannot be shared among processes, for its phase {phase.name} {why}: train it in one, without "
            "torchrun"
        )


def check_same(settings: dict[str, Any]) -> None:
    """Refuse to train together on other data, or with other settings, than the first process.

    Raises:
        ConfigError: as said.
    """
    other = [name for name, value in by_first(lambda: settings).items() if settings[name] != value]
    if other:
        raise ConfigError(
            f"process {place().rank} has other {', '.join(other)} than the first: give all processes the same data and "
            "settings"
        )


@contextmanager
def own_noise(update: int, device: torch.device) -> Iterator[None]:
    """Draw this process's own random numbers inside; torch's generators are then where they were.

    The seed comes from the state of the common generator, the number of the ``update`` and the rank.
    """
    rank, count = place()
    if count == 1:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**62, ())) + update * count + rank)
        yield


def part_of_loss(loss: Tensor, users: int) -> tuple[Tensor, Tensor]:
    """Return this process's part of a batch's loss, and the whole loss, detached.

    ``loss`` is the mean over this process's ``users``. The parts add up to the mean over all users of the batch, and
    so do their gradients.
    """
    if place().count == 1:
        return loss, loss.detach()
    total = torch.stack([users * loss.detach().double(), torch.full_like(loss, users, dtype=torch.float64)])
    add_up(total)
    return loss * (users / total[1]).to(loss.dtype), total[0] / total[1]


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of ``parameters`` over the processes; those without one have none anywhere."""
    if place().count > 1:
        common = (parameter for parameter in parameters if not isinstance(parameter, OwnRows))
        add_up(*(parameter.grad for parameter in common if parameter.grad is not None))


def add_up(*tensors: Tensor) -> None:
    """Add up each tensor over the processes, in place."""
    with _in_step():
        for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()


def largest(tensor: Tensor) -> Tensor:
    """Return the largest of the processes' values, element by element."""
    tensor = tensor.clone()
    with _in_step():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor


def sums(values: dict[str, Tensor | float], device: torch.device) -> dict[str, Any]:
    """Return the sums over the processes of named numbers, or tensors on the CPU; ``device`` is that of the group."""
    if place().count == 1:
        return values
    added = {
        name: value.to(device, copy=True) if isinstance(value, Tensor) else torch.tensor(value, device=device).double()
        for name, value in values.items()
    }
    add_up(*added.values())
    return {name: tensor.cpu() for name, tensor in added.items()}
