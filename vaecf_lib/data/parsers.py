"""Strict parsers, one per file layout. Every error names file, line and remedy.

The fast path is pandas' C reader; only when it stumbles is the file read line by line to name the culprit.
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
import pandas as pd

from ..errors import DataError
from .ratings import RatingLog
from .sources import Source

WHOLE_STARS = (1.0, 2.0, 3.0, 4.0, 5.0)
HALF_STARS = tuple(np.arange(0.5, 5.01, 0.5))

_PATTERN = {"id": r"\d+", "text": r"[^\t,]+", "number": r"-?\d+(\.\d*)?([eE][-+]?\d+)?"}
_DTYPE = {"id": "int64", "text": "str", "number": "float64"}


def _read_table(handle: BinaryIO, where: str, separator: str, columns: dict[str, str], header: str | None):
    """Read a delimited table strictly. ``columns`` maps a name to its kind: id, text or number."""
    data = handle.read()
    first = data.split(b"\n", 1)[0].decode("latin-1").strip()
    if header is not None and first != header:
        raise DataError(f"{where}, line 1: expected the header {header!r}, found {first[:60]!r}")
    names, kinds = list(columns), list(columns.values())
    # pandas' C reader takes one-character separators: read "::" as ":" with an empty column in between.
    doubled = separator == "::"
    all_names = [n for name in names for n in (name, f"_{name}")][:-1] if doubled else names
    dtypes = {name: _DTYPE[kind] for name, kind in columns.items()}
    try:
        frame = pd.read_csv(
            io.BytesIO(data),
            sep=separator[0],
            names=all_names,
            header=0 if header is not None else None,
            index_col=False,
            dtype=dtypes,
            encoding="latin-1",
            skip_blank_lines=False,
            keep_default_na=False,
            na_values=[""],
            quoting=3,
        )
        sound = len(frame) > 0 and not frame[names].isna().to_numpy().any()
        if doubled:
            sound = sound and frame.drop(columns=names).isna().to_numpy().all()
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError):
        sound = False
    if not sound:
        if not data.strip():
            raise DataError(f"{where}: the file is empty. Fetch it again")
        _blame_line(data, where, separator, kinds, header is not None)
    frame = frame[names]
    frame.attrs = {"where": where, "first_line": 1 if header is None else 2}
    return frame


def _blame_line(data: bytes, where: str, separator: str, kinds: list[str], has_header: bool):
    """Raise a DataError that names the first line which is not ``kinds`` joined by ``separator``."""
    pattern = re.compile(re.escape(separator).join(_PATTERN[kind] for kind in kinds))
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(data), "latin-1"), start=1):
        if not (has_header and number == 1) and not pattern.fullmatch(line.rstrip("\r\n")):
            expected = separator.join(kinds)
            raise DataError(
                f"{where}, line {number}: expected {expected!r}, found {line.strip()[:60]!r}. "
                "Repair that line, or fetch the file again"
            )
    raise DataError(f"{where}: the file cannot be read as a table of {separator.join(kinds)!r}")


def _check_scale(frame: pd.DataFrame, where: str, scale: tuple[float, ...]) -> None:
    outside = ~frame["rating"].isin(scale)
    if outside.any():
        at = int(np.flatnonzero(outside)[0])
        raise DataError(
            f"{where}, line {at + frame.attrs.get('first_line', 1)}: rating {frame['rating'].iloc[at]:g} is outside "
            f"the scale {scale[0]:g} to {scale[-1]:g}. Repair that line, or fetch the file again"
        )


def _read_titles(handle: BinaryIO, separator: str) -> dict[int, str]:
    titles = {}
    for line in handle.read().decode("latin-1").splitlines():
        fields = line.split(separator)
        if len(fields) > 1:
            titles[int(fields[0])] = fields[1]
    return titles


def movielens_100k(source: Source) -> tuple[pd.DataFrame, dict]:
    """``u.data`` (user, item, rating, time; tabs) and ``u.item`` (titles; ``|``)."""
    columns = {"user": "id", "item": "id", "rating": "number", "timestamp": "id"}
    with source.open("u.data") as handle:
        frame = _read_table(handle, f"{source.path}/u.data", "\t", columns, None)
    _check_scale(frame, f"{source.path}/u.data", WHOLE_STARS)
    with source.open("u.item") as handle:
        return frame, _read_titles(handle, "|")


def movielens_dat(scale: tuple[float, ...]):
    """Return a parser of ``ratings.dat`` and ``movies.dat`` (``::``), as in ML-1M and ML-10M."""

    def parse(source: Source) -> tuple[pd.DataFrame, dict]:
        columns = {"user": "id", "item": "id", "rating": "number", "timestamp": "id"}
        with source.open("ratings.dat") as handle:
            frame = _read_table(handle, f"{source.path}/ratings.dat", "::", columns, None)
        _check_scale(frame, f"{source.path}/ratings.dat", scale)
        with source.open("movies.dat") as handle:
            return frame, _read_titles(handle, "::")

    return parse


def movielens_csv(source: Source) -> tuple[pd.DataFrame, dict]:
    """``ratings.csv`` and ``movies.csv`` with a header line, as in ML-20M."""
    columns = {"user": "id", "item": "id", "rating": "number", "timestamp": "id"}
    where = f"{source.path}/ratings.csv"
    with source.open("ratings.csv") as handle:
        frame = _read_table(handle, where, ",", columns, "userId,movieId,rating,timestamp")
    _check_scale(frame, where, HALF_STARS)
    with source.open("movies.csv") as handle:
        movies = pd.read_csv(handle)
    return frame, dict(zip(movies["movieId"], movies["title"], strict=True))


def netflix(source: Source) -> tuple[pd.DataFrame, None]:
    """``mv_*.txt`` or ``combined_data_*.txt``: a line ``MOVIE:`` and then lines ``user,rating,date``."""
    frames = []
    for name, handle in source.files():
        if not re.fullmatch(r"(mv_\d+|combined_data_\d+)\.txt", PurePosixPath(name).name):
            continue
        where = f"{source.path}/{name}"
        lines = pd.Series(handle.read().decode("ascii", "replace").splitlines(), dtype="str")
        heads = lines.str.fullmatch(r"\d+:")
        good = heads | lines.str.fullmatch(r"\d+,[1-5],\d{4}-\d\d-\d\d")
        if len(lines) == 0 or not heads.iloc[0] or not good.all():
            at = 0 if len(lines) == 0 or not heads.iloc[0] else int(np.flatnonzero(~good)[0])
            text = lines.iloc[at][:60] if len(lines) else ""
            raise DataError(
                f"{where}, line {at + 1}: expected 'movie:' or 'user,rating,date', found {text!r}. "
                "Repair that line, or fetch the file again"
            )
        movie = lines.where(heads).str.rstrip(":").ffill()[~heads].astype("int64")
        fields = lines[~heads].str.split(",", expand=True)
        frames.append(
            pd.DataFrame(
                {
                    "user": fields[0].astype("int64").to_numpy(),
                    "item": movie.to_numpy(),
                    "rating": fields[1].astype("float32").to_numpy(),
                    "timestamp": pd.to_datetime(fields[2]).to_numpy().astype("datetime64[s]").astype("int64"),
                }
            )
        )
    if not frames:
        raise DataError(f"{source.path}: neither mv_*.txt nor combined_data_*.txt inside. It is another archive")
    return pd.concat(frames, ignore_index=True), None


def million_songs(source: Source) -> tuple[pd.DataFrame, None]:
    """``train_triplets.txt`` (user, song, play count; tabs). The play count stands as the rating."""
    columns = {"user": "text", "item": "text", "rating": "number"}
    where = f"{source.path}/train_triplets.txt"
    with source.open("train_triplets.txt") as handle:
        frame = _read_table(handle, where, "\t", columns, None)
    if (frame["rating"] < 1).any():
        at = int(np.flatnonzero(frame["rating"] < 1)[0])
        raise DataError(f"{where}, line {at + 1}: a play count below 1. Repair that line, or fetch the file again")
    return frame, None


def amazon(category: str):
    """Return a parser of an Amazon "ratings only" file, of the 2018 release or of the 2014 one.

    ``CATEGORY.csv`` (2018) begins with the item, ``ratings_CATEGORY.csv`` (2014) with the user. A user's later
    rating of the same item replaces the earlier one, as reviews can be edited.
    """

    def parse(source: Source) -> tuple[pd.DataFrame, None]:
        names = {f"{category}.csv": ("item", "user"), f"ratings_{category}.csv": ("user", "item")}
        for name, order in names.items():
            with source.open(name, optional=True) as handle:
                if handle is None:
                    continue
                columns = dict.fromkeys(order, "text") | {"rating": "number", "timestamp": "id"}
                frame = _read_table(handle, f"{source.path}/{name}", ",", columns, None)
            _check_scale(frame, f"{source.path}/{name}", WHOLE_STARS)
            return frame.drop_duplicates(["user", "item"], keep="last").reset_index(drop=True), None
        raise DataError(f"{source.path}: neither {' nor '.join(names)} inside. It is another archive")

    return parse


def monti(basename: str, scale: tuple[float, ...]):
    """Return a parser of Monti et al.'s HDF5 ``.mat``: ``M`` (ratings, 0 = none), ``Otraining``, ``Otest``.

    The arrays are stored column-major: rows are users after transposing. ``is_test`` is the published split.
    """

    def parse(source: Source) -> tuple[pd.DataFrame, None]:
        try:
            import h5py
        except ImportError as error:
            raise DataError(f"{basename} is an HDF5 file: pip install h5py to read it") from error

        where = f"{source.path}/{basename}"
        with source.open(basename) as handle:
            try:
                with h5py.File(io.BytesIO(handle.read())) as file:
                    ratings, train, test = (np.asarray(file[key]).T for key in ("M", "Otraining", "Otest"))
            except (OSError, KeyError) as error:
                raise DataError(
                    f"{where}: not a complete Monti data set (M, Otraining, Otest): {error}. Fetch it again"
                ) from error
        if not (((train > 0) ^ (test > 0)) == (ratings > 0)).all():
            raise DataError(f"{where}: Otraining and Otest do not divide the ratings. Fetch the file again")
        user, item = np.nonzero(ratings)
        frame = pd.DataFrame(
            {"user": user, "item": item, "rating": ratings[user, item], "is_test": test[user, item] > 0}
        )
        _check_scale(frame, where, scale)
        return frame, None

    return parse


_SYNONYMS = {
    "user": ("user", "user_id", "userid", "uid"),
    "item": ("item", "item_id", "itemid", "iid", "movieid", "movie_id", "song", "song_id", "product_id"),
    "rating": ("rating", "score", "value", "stars"),
    "timestamp": ("timestamp", "time", "ts"),
    "is_test": ("is_test",),
}


def read_own_file(path: str | Path) -> RatingLog:
    """Read a user's own interactions from ``.csv``, ``.tsv``, ``.parquet`` or ``.npz``.

    Needs columns (arrays) ``user`` and ``item``; takes ``rating``, ``timestamp`` and, to fix the split,
    ``is_test`` where present. Repeated pairs are merged, the last kept, with a warning that counts them.

    Raises:
        DataError: the file is missing, empty, of another kind, lacks a column, or holds a missing or
            non-numeric value; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file. Give the path of a .csv, .tsv, .parquet or .npz file")
    kind = path.suffix.lower()
    try:
        if kind in (".csv", ".tsv"):
            table = pd.read_csv(path, sep="," if kind == ".csv" else "\t", skip_blank_lines=False)
        elif kind == ".parquet":
            table = pd.read_parquet(path)
        elif kind == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                table = pd.DataFrame({key: arrays[key] for key in arrays.files})
        else:
            raise DataError(f"{path}: unknown kind {kind!r}. Use .csv, .tsv, .parquet or .npz")
    except DataError:
        raise
    except Exception as error:  # readers raise many kinds; the user needs the file's name and the reason
        raise DataError(f"{path}: cannot be read as {kind}: {error}") from error

    lower = {str(column).strip().lower(): column for column in table.columns}
    found = {}
    for column, synonyms in _SYNONYMS.items():
        match = next((lower[s] for s in synonyms if s in lower), None)
        if match is not None:
            found[column] = table[match]
    for column in ("user", "item"):
        if column not in found:
            raise DataError(
                f"{path}: no column {column!r} among {list(map(str, table.columns))[:8]}. "
                "The first line must name the columns user, item and, if there are ratings, rating"
            )
    frame = pd.DataFrame(found)
    if frame.empty:
        raise DataError(f"{path}: no interactions inside")
    first_line = 2 if kind in (".csv", ".tsv") else 1
    for column in frame:
        if column in ("rating", "timestamp"):
            frame[column] = pd.to_numeric(frame[column], errors="coerce")
        bad = frame[column].isna()
        if column == "rating":
            bad |= ~np.isfinite(frame[column])
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            unit = "line" if first_line == 2 else "row"
            raise DataError(
                f"{path}, {unit} {at + first_line}: {column} is missing or not a number. Repair or remove that {unit}"
            )
    repeated = frame.duplicated(["user", "item"], keep="last")
    if repeated.any():
        warnings.warn(f"{path}: {int(repeated.sum())} repeated (user, item) pairs merged, the last rating kept")
        frame = frame[~repeated]
    for column in ("user", "item"):  # mixed id types cannot be sorted
        if frame[column].dtype == object:
            frame[column] = frame[column].astype(str)
    return RatingLog.from_frame(path.stem, frame)
