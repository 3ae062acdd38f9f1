"""Options of systems, splits and training: declared once, by a plain signature and its docstring, and checked here.

An argument's annotation gives its type and, as ``Literal``, its choices; RANGES gives, by its name, the numbers it may
be, and SEARCH those that are worth a try; the docstring's ``Args`` say what it means. Checks, ``config``, ``--set``,
``vaecf models SLUG``, tuning and the API page follow from these.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import ConfigError, shown


def plain(number: Real) -> int | float:
    """Return one of numpy's numbers as Python's own, which JSON knows."""
    return int(number) if isinstance(number, Integral) else float(number)


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``; a round bracket leaves that end out."""

    low: float = -math.inf
    high: float = math.inf
    brackets: str = "[]"

    def holds(self, value: Real) -> bool:
        """Tell whether ``value`` is in the range; nan and infinite numbers are in none."""
        value = plain(value)
        above = value > self.low if self.brackets[0] == "(" else value >= self.low
        below = value < self.high if self.brackets[1] == ")" else value <= self.high
        return above and below and abs(value) <= sys.float_info.max

    def __str__(self) -> str:
        if self.high < math.inf:
            low, high = f"{self.low:,}", f"{self.high:,}"
            return (
                f" from {low} to {high}"
                if self.brackets == "[]"
                else f" in {self.brackets[0]}{low}, {high}{self.brackets[1]}"
            )
        if self.low > -math.inf:
            return f" above {self.low}" if self.brackets[0] == "(" else f" of at least {self.low}"
        return ""


_ANY, _POSITIVE, _WEIGHT, _SHARE = Range(), Range(0, brackets="(]"), Range(0), Range(0, 1)
_COUNT = Range(1, 10**9)
_WIDTH = Range(1, 100_000)  # beyond that a slip of the keyboard, which would end in an allocation error
_LAYERS = Range(0, 100)
_NUMPY_SEED = Range(0, 2**32 - 1)

# By name, which means the same everywhere; where it does not, by system and name.
RANGES: dict[str, Range] = {
    "n_items": _COUNT,
    "n_users": _COUNT,
    # sizes
    **dict.fromkeys(("latent_dim", "hidden", "code", "critic_hidden", "noise_dim", "data_dim", "channels"), _WIDTH),
    **dict.fromkeys(("widths", "pseudo_inputs", "concepts"), _WIDTH),
    **dict.fromkeys(("layers", "data_layers"), _LAYERS),
    "sivae.layers": Range(1, 100),
    **dict.fromkeys(("hvamp.layers", "vasp.layers", "decoder_layers"), Range(2, 100)),
    "depth": Range(3, 99),
    "n_mixing": Range(0, 100_000),
    "n_sampled": _COUNT,
    "points": Range(2, 1000),
    "neighbours": _COUNT,
    "cutoff": _COUNT,
    "tries": Range(1, 10_000),
    # weights of the terms of a loss, and other numbers
    **dict.fromkeys(("alpha", "beta", "beta_u", "beta_v", "gamma", "penalty", "mmd", "l1", "damping"), _WEIGHT),
    "shrink": _WEIGHT,
    **dict.fromkeys(("recvae.alpha", "vasp.alpha"), _SHARE),
    "implicit_slim": _COUNT,
    **dict.fromkeys(("slim_penalty", "slim_alpha"), _POSITIVE),
    "slim_threshold": Range(0, 10**9),
    "critic_penalty": _WEIGHT,
    "ease.penalty": _POSITIVE,
    "wmf.penalty": _POSITIVE,
    **dict.fromkeys(("noise_std", "margin"), _WEIGHT),
    "tau": _POSITIVE,
    "sigma": _POSITIVE,
    "anneal": _SHARE,
    "dropout": Range(0, 1, "[)"),
    "ract.dropout": Range(0, 1, "()"),  # what is hidden is what its lists are judged by
    **dict.fromkeys(("actor_share", "critic_share"), Range(0, 1, "[)")),
    "mixing": Range(0, 1, "[)"),
    **dict.fromkeys(("pm_share", "zr_share"), _SHARE),
    "initial_variance": Range(0, 1, "()"),
    # training
    "lr": _POSITIVE,
    **dict.fromkeys(("critic_lr", "fine_lr"), _POSITIVE),
    "epochs": Range(0, 10**9),
    "trials": _COUNT,
    "budget": _POSITIVE,
    **dict.fromkeys(("batch_size", "per_batch", "items_per_batch", "users_per_block", "items_per_block"), _COUNT),
    **dict.fromkeys(("validate_every", "patience"), _COUNT),
    "sweeps": _COUNT,
    "tol": Range(0, 1, "()"),
    "memory_gb": _POSITIVE,
    **dict.fromkeys(("d_passes", "g_passes"), Range(1, 1000)),
    "pretrain": Range(0, 10_000),
    "stop_after": Range(0, 10**9),
    "seed": Range(0, 2**63 - 1),
    # splits
    "n_heldout": _COUNT,
    "threshold": _ANY,
    "min_items": Range(0, 10**9),
    **dict.fromkeys(("train", "valid", "test"), _SHARE),
    **{f"split_{name}.seed": _NUMPY_SEED for name in ("strong", "weak", "ratings", "leave_one_out")},
}


@dataclass(frozen=True)
class Search:
    """Where tuning looks for a number: from ``low`` to ``high``, evenly in its logarithm if ``log``."""

    low: float
    high: float
    log: bool = True


# What tuning varies if nobody says otherwise, found as in RANGES: weights of losses and steps, not sizes.
SEARCH: dict[str, Search | None] = {
    **dict.fromkeys(("lr", "critic_lr"), Search(3e-5, 1e-2)),
    "fine_lr": Search(1e-6, 1e-3),
    "beta": Search(0.01, 2),
    "recvae.beta": None,  # without effect where gamma is given
    **dict.fromkeys(("beta_u", "beta_v"), Search(1e-3, 1)),
    "gamma": Search(1e-4, 0.1),
    "alpha": Search(0.01, 1),
    "vasp.gamma": Search(0, 4, log=False),
    **dict.fromkeys(("wmf.alpha", "wmf-linear.alpha"), Search(0.1, 100)),
    "penalty": Search(1e-6, 1),
    "ease.penalty": Search(10, 5000),
    "slim.penalty": Search(1, 1000),
    "wmf.penalty": Search(0.1, 1000),
    "mmd": Search(1, 1000),
    "l1": Search(1e-3, 10),
    **dict.fromkeys(("damping", "shrink"), Search(0.1, 100)),
    **dict.fromkeys(("tau", "sigma"), Search(0.01, 1)),
    "dropout": Search(0, 0.9, log=False),
    "ract.dropout": Search(0.1, 0.9, log=False),
    "critic_penalty": Search(1e-6, 1),
    "mixing": Search(0, 0.9, log=False),
    **dict.fromkeys(("pm_share", "zr_share"), Search(0.1, 0.9, log=False)),
}

_NUMBERS = tuple[int, ...]
_NOUNS = {int: "a whole number", float: "a number", _NUMBERS: "a list of whole numbers"}
_KINDS = (*_NOUNS, bool, str)


@dataclass(frozen=True)
class Option:
    """What an argument may be: of ``kind`` int, float, bool, str or tuple[int, ...], among ``choices`` or in ``range``.

    ``default`` is None where there is none; ``meaning`` is what the docstring says of it; ``search`` where tuning looks
    for it, if it is a number that tuning varies.
    """

    kind: Any
    choices: tuple[str, ...]
    range: Range
    optional: bool
    default: Any = None
    meaning: str = ""
    search: Search | None = None

    def accepts(self, value: Any) -> bool:
        """Tell whether the argument may be ``value``; a whole number is a number, true and false are not."""
        if value is None:
            return self.optional
        if self.choices:
            return isinstance(value, str) and value in self.choices
        if self.kind in (bool, str):
            return isinstance(value, self.kind)
        numbers = (value,)
        if self.kind == _NUMBERS:
            if not isinstance(value, list | tuple):
                return False
            numbers = value
        number = Real if self.kind is float else Integral
        return all(isinstance(n, number) and not isinstance(n, bool) and self.range.holds(n) for n in numbers)

    def __str__(self) -> str:
        if self.choices:
            text = f"one of {', '.join(self.choices)}"
        elif self.kind in _NOUNS:
            text = f"{_NOUNS[self.kind]}{self.range}"
        else:
            text = "true or false" if self.kind is bool else "a word"
        return f"{text}, or None" if self.optional else text

    def check(self, subject: str, name: str, value: Any) -> None:
        """Raise a ConfigError of one line if ``subject``'s argument ``name`` may not be ``value``."""
        if not self.accepts(value):
            raise ConfigError(f"{subject}: {name}={shown(value)}: {'choose' if self.choices else 'must be'} {self}")


def meanings(doc: str | None) -> dict[str, str]:
    """Return what a docstring's ``Args`` say of each argument; several share one, as in ``mu, sigma: of the prior``."""
    _, _, arguments = inspect.cleandoc(doc or "").partition("Args:\n")
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in arguments.splitlines():
        if line and not line.startswith(" "):
            break  # the next part of the docstring
        head, colon, text = line.strip().partition(": ")
        entry = len(line) - len(line.lstrip()) == 4
        if entry and colon:
            names = head.split(", ")
            texts |= dict.fromkeys(names, text)
        elif line:
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts


def declared(function: Callable, subject: str, doc: str | None = None) -> dict[str, Option]:
    """Return the options among a function's arguments: those that are annotated with a kind that :class:`Option` has.

    ``subject``, a system's slug or a function's name, is looked up in RANGES and SEARCH before the name alone. ``doc``
    is the docstring that says what they mean; None: the function's own.
    """
    hints, options = get_type_hints(function), {}
    texts = meanings(function.__doc__ if doc is None else doc)
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(name)
        members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        kind, *others = [member for member in members if member is not NoneType] or [None]
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        kind = str if choices else kind
        if kind in _KINDS and not others:
            allowed = RANGES.get(f"{subject}.{name}") or RANGES.get(name, _ANY)
            default = None if parameter.default is parameter.empty else parameter.default
            search = SEARCH.get(f"{subject}.{name}", SEARCH.get(name))
            options[name] = Option(kind, choices, allowed, NoneType in members, default, texts.get(name, ""), search)
    return options


def check_call(subject: str, function: Callable, arguments: tuple, keywords: dict[str, Any]) -> None:
    """Check the options that a call is about to give to ``function``.

    Raises:
        ConfigError: one is of the wrong type, not among its choices or out of range. The line names subject and option.
    """
    options = declared(function, subject)
    names = inspect.signature(function).parameters
    for name, value in (dict(zip(names, arguments, strict=False)) | keywords).items():
        if name in options:
            options[name].check(subject, name, value)


def checked(function: Callable) -> Callable:
    """Decorate a function or an ``__init__`` so that each call checks its options first, as :func:`check_call` does."""
    *_, subject = function.__qualname__.removesuffix(".__init__").split(".")

    @functools.wraps(function)
    def call(*arguments, **keywords):
        check_call(subject, function, arguments, keywords)
        return function(*arguments, **keywords)

    return call
