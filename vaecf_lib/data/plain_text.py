"""Delimited text without quotes, read by blocks of bytes: no object of Python is made per row, only per distinct value.

What is not plain is left to Python's ``csv``, which reads it all, at a tenth of the speed.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Mapping
from io import BufferedIOBase
from itertools import count

import numpy as np
import pandas as pd

from .columns import Column, narrow

_BLOCK = 1 << 25  # bytes: some million lines, and ten times as much memory
_LONGEST = 256  # bytes of a field that is read
_LONGEST_WHOLE = 18  # digits that int64 holds
_FIRST_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype="<u8")  # of a word of eight: the first n


class NotPlainError(Exception):
    """The text has quotes, lines of different length or other things that take a real reader, or has no rows."""


def _edges(block: bytes, separator: str, n_columns: int) -> np.ndarray:
    """Return (rows, n_columns) where each field of the block, which ends with a line, stops."""
    if b'"' in block or b"\0" in block or block.count(b"\r") != block.count(b"\r\n"):
        raise NotPlainError
    if not block.isascii():
        try:
            block.decode()
        except UnicodeDecodeError as error:
            raise NotPlainError from error
    text = np.frombuffer(block, dtype=np.uint8)
    marks, ends = np.flatnonzero(text == ord(separator)), np.flatnonzero(text == ord("\n"))
    if len(marks) != len(ends) * (n_columns - 1):
        raise NotPlainError
    edges = np.concatenate([marks.reshape(len(ends), n_columns - 1), ends[:, None]], axis=1)
    gaps = np.diff(edges.ravel(), prepend=-1)  # all marks of a line between its end and the last one's
    if gaps.min() < 1 or gaps.max() > csv.field_size_limit():
        raise NotPlainError
    return edges


def _coded(words: np.ndarray, start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return each field's place among the distinct ones, and these in the order of the file.

    ``words`` the eight bytes from every byte on · ``start``, ``length`` (rows,) of the fields.
    """
    codes, of_field = None, []
    for offset in range(0, max(int(length.max()), 1), 8):
        # No field holds a zero byte, so that zeros behind its end tell its length.
        word = words[start + offset] & _FIRST_BYTES[np.clip(length - offset, 0, 8)]
        part, distinct = pd.factorize(word)
        codes = part if codes is None else pd.factorize(codes * len(distinct) + part)[0]
        of_field.append(word)
    first = np.flatnonzero(np.diff(np.maximum.accumulate(codes), prepend=-1))
    fields = np.stack([word[first] for word in of_field], axis=1).view(f"S{8 * len(of_field)}")
    return codes, b"\n".join(fields.ravel().tolist()).decode().split("\n")


def _whole_numbers(text: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray | None:
    """Return the fields as int64; None if one of them is anything but some digits."""
    if length.min() < 1 or length.max() > _LONGEST_WHOLE:
        return None
    numbers = np.zeros(len(start), dtype=np.int64)
    for at in range(int(length.max())):
        digit = text[start + at] - np.uint8(ord("0"))  # what is below "0" wraps around to more than 9
        inside = at < length
        if (inside & (digit > 9)).any():
            return None
        numbers = np.where(inside, numbers * 10 + digit, numbers)
    return numbers


def _read(
    open_file: Callable[[], BufferedIOBase],
    separator: str,
    header: list[str],
    wanted: Mapping[str, int],
    whole: tuple[str, ...],
) -> dict[str, Column]:
    code_of = {column: defaultdict(count().__next__) for column in wanted}
    parts: dict[str, list[np.ndarray]] = {column: [] for column in wanted}
    with open_file() as file:
        _edges(file.readline(), separator, len(header))
        while block := file.read(_BLOCK):
            block += file.readline()
            block += b"" if block.endswith(b"\n") else b"\n"
            edges = _edges(block, separator, len(header))
            padded = block + bytes(_LONGEST + 8)
            text = np.frombuffer(padded, dtype=np.uint8)
            words = np.ndarray(len(padded) - 7, dtype="<u8", buffer=padded, strides=(1,))
            for column, at in wanted.items():
                stop = edges[:, at]
                start = edges[:, at - 1] + 1 if at else np.append(0, edges[:-1, -1] + 1)
                if at == len(header) - 1:
                    stop = stop - (text[stop - 1] == ord("\r"))
                length = stop - start
                if length.max() > _LONGEST:
                    raise NotPlainError
                if column in whole:
                    numbers = _whole_numbers(text, start, length)
                    if numbers is None:
                        raise NotPlainError
                    parts[column].append(numbers)
                    continue
                codes, fields = _coded(words, start, length)
                known = np.fromiter(map(code_of[column].__getitem__, map(str.strip, fields)), np.int64, len(fields))
                parts[column].append(narrow(known)[codes])
    if not parts["user"]:
        raise NotPlainError
    columns = {}
    for column, at in wanted.items():
        entries = np.concatenate(parts.pop(column))
        if column in whole:
            columns[column] = Column(header[at], None, entries)
        else:
            columns[column] = Column(header[at], entries, np.array(list(code_of[column]), dtype=object))
    return columns


def read_plain(
    open_file: Callable[[], BufferedIOBase], separator: str, header: list[str], wanted: Mapping[str, int]
) -> dict[str, Column]:
    """Return the columns of a delimited UTF-8 file as text without spaces around it, or whole timestamps as numbers.

    ``open_file`` opens it in bytes, the line ``header`` first · ``wanted`` place of each column to read.

    Raises:
        NotPlainError: the file is not plain.
    """
    if "timestamp" in wanted:  # nearly all are distinct, so that coding them gains nothing
        try:
            return _read(open_file, separator, header, wanted, whole=("timestamp",))
        except NotPlainError:  # dates, perhaps
            pass
    return _read(open_file, separator, header, wanted, whole=())
