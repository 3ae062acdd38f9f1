"""Errors that a user can act on: each message names the thing and the remedy."""

import reprlib


class VaecfError(ValueError):
    """Base of all errors the library raises on purpose; the command line prints it without a traceback."""


class DataError(VaecfError):
    """A data file, archive or table is missing, damaged or not what its name says."""


class ConfigError(VaecfError):
    """An option is unknown, out of range, or does not fit the data or the run it is used with."""


class TrainingError(VaecfError):
    """Training cannot go on: the loss is not a finite number, or another process of the training is gone."""


def shown(value: object) -> str:
    """Return a value in one short line, however long or many-lined its own form is."""
    return " ".join(reprlib.repr(value).split())


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return "1 item", "2,000 items"; ``plural`` where it takes more than an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
