"""Strict parsers of the catalogue's files, one per layout. Every error names file, line and remedy.

The fast path is pandas' C reader; only when it stumbles is the file read line by line to name the culprit.
"""

from __future__ import annotations

import io
import re

import numpy as np
import pandas as pd

from ..errors import DataError
from .sources import Source

WHOLE_STARS = (1.0, 2.0, 3.0, 4.0, 5.0)
HALF_STARS = tuple(np.arange(0.5, 5.01, 0.5))

_PATTERN = {"id": r"\d+", "text": r"[^\t,]+", "number": r"-?\d+(\.\d*)?([eE][-+]?\d+)?"}
_DTYPE = {"id": "int64", "text": "str", "number": "float64"}
_ROWS = 1_000_000  # read at a time: pandas holds several times their text


def _read_table(data: bytes, where: str, separator: str, columns: dict[str, str], header: str | None):
    """Read a delimited table strictly. ``columns`` maps a name to its kind: id, text or number."""
    first = io.BytesIO(data).readline().decode("latin-1").strip()
    if header is not None and first != header:
        raise DataError(f"{where}, line 1: expected the header {header!r}, found {first[:60]!r}")
    names, kinds = list(columns), list(columns.values())
    # pandas' C reader takes one-character separators: read "::" as ":" with an empty column in between.
    doubled = separator == "::"
    all_names = [n for name in names for n in (name, f"_{name}")][:-1] if doubled else names
    dtypes = {name: _DTYPE[kind] for name, kind in columns.items()}
    parts: dict[str, list[pd.Series]] = {name: [] for name in names}
    sound = True
    try:
        with pd.read_csv(
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
            chunksize=_ROWS,
            low_memory=False,
        ) as chunks:
            for chunk in chunks:
                sound = sound and not chunk[names].isna().to_numpy().any()
                if doubled:
                    sound = sound and chunk.drop(columns=names).isna().to_numpy().all()
                for name in names:
                    parts[name].append(chunk[name])
        sound = sound and any(map(len, parts[names[0]]))
    except (ValueError, OverflowError, pd.errors.ParserError, pd.errors.EmptyDataError):
        sound = False
    if not sound:
        if not data.strip():
            raise DataError(f"{where}: the file is empty. Fetch it again")
        _blame_line(data, where, separator, kinds, header is not None)
    columns_read = {name: pd.concat(parts.pop(name), ignore_index=True) for name in names}
    frame = pd.DataFrame(columns_read, copy=False)
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


def _read_titles(data: bytes, where: str, separator: str) -> dict[int, str]:
    titles = {}
    for number, line in enumerate(data.decode("latin-1").split("\n"), start=1):
        fields = line.rstrip("\r").split(separator)
        if fields == [""]:
            continue
        if len(fields) < 2 or not re.fullmatch(r"[0-9]{1,18}", fields[0]):
            raise DataError(
                f"{where}, line {number}: expected 'id{separator}title', found {line[:60]!r}. "
                "Repair that line, or fetch the file again"
            )
        titles[int(fields[0])] = fields[1]
    return titles


def movielens_100k(source: Source) -> tuple[pd.DataFrame, dict]:
    """``u.data`` (user, item, rating, time; tabs) and ``u.item`` (titles; ``|``)."""
    columns = {"user": "id", "item": "id", "rating": "number", "timestamp": "id"}
    frame = _read_table(source.read("u.data"), f"{source.path}/u.data", "\t", columns, None)
    _check_scale(frame, f"{source.path}/u.data", WHOLE_STARS)
    return frame, _read_titles(source.read("u.item"), f"{source.path}/u.item", "|")


def movielens_dat(scale: tuple[float, ...]):
    """Return a parser of ``ratings.dat`` and ``movies.dat`` (``::``), as in ML-1M and ML-10M."""

    def parse(source: Source) -> tuple[pd.DataFrame, dict]:
        columns = {"user": "id", "item": "id", "rating": "number", "timestamp": "id"}
        frame = _read_table(source.read("ratings.dat"), f"{source.path}/ratings.dat", "::", columns, None)
        _check_scale(frame, f"{source.path}/ratings.dat", scale)
        return frame, _read_titles(source.read("movies.dat"), f"{source.path}/movies.dat", "::")

    return parse


def movielens_csv(source: Source) -> tuple[pd.DataFrame, dict]:
    """``ratings.csv`` and ``movies.csv`` with a header line, as in ML-20M."""
    columns = {"user": "id", "item": "id", "rating": "number", "timestamp": "id"}
    where = f"{source.path}/ratings.csv"
    frame = _read_table(source.read("ratings.csv"), where, ",", columns, "userId,movieId,rating,timestamp")
    _check_scale(frame, where, HALF_STARS)
    content = source.read("movies.csv")
    try:
        movies = pd.read_csv(io.BytesIO(content), dtype={"movieId": "int64", "title": "str"}, index_col=False)
        return frame, dict(zip(movies["movieId"], movies["title"], strict=True))
    except (ValueError, KeyError, OverflowError) as error:
        raise DataError(
            f"{source.path}/movies.csv: not a table with movieId and title ({' '.join(str(error).split())}). "
            "Fetch it again"
        ) from error


def netflix(source: Source) -> tuple[pd.DataFrame, None]:
    """``mv_*.txt`` or ``combined_data_*.txt``: a line ``MOVIE:`` and then lines ``user,rating,date``."""
    frames = []
    for name, content in source.matching(r"(mv_\d+|combined_data_\d+)\.txt"):
        lines = pd.Series(content.decode("ascii", "replace").splitlines(), dtype="str")
        heads = lines.str.fullmatch(r"\d{1,18}:")
        good = heads | lines.str.fullmatch(r"\d{1,18},[1-5],\d{4}-\d\d-\d\d")
        dates = pd.to_datetime(lines[~heads].str[-10:], format="%Y-%m-%d", errors="coerce")
        good[dates.index[dates.isna()]] = False
        if len(lines) == 0 or not heads.iloc[0] or not good.all():
            at = 0 if len(lines) == 0 or not heads.iloc[0] else int(np.flatnonzero(~good)[0])
            text = lines.iloc[at][:60] if len(lines) else ""
            raise DataError(
                f"{source.path}/{name}, line {at + 1}: expected 'movie:' or 'user,rating,date', found {text!r}. "
                "Repair that line, or fetch the file again"
            )
        movie = lines.where(heads).str.rstrip(":").ffill()[~heads].astype("int64")
        fields = lines[~heads].str.split(",", expand=True)
        if len(fields) == 0:  # a film nobody rated
            continue
        frames.append(
            pd.DataFrame(
                {
                    "user": fields[0].astype("int64").to_numpy(),
                    "item": movie.to_numpy(),
                    "rating": fields[1].astype("float32").to_numpy(),
                    "timestamp": dates.to_numpy().astype("datetime64[s]").astype("int64"),
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
    frame = _read_table(source.read("train_triplets.txt"), where, "\t", columns, None)
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
            content, where = source.read(name, optional=True), f"{source.path}/{name}"
            if content is None:
                continue
            columns = dict.fromkeys(order, "text") | {"rating": "number", "timestamp": "id"}
            frame = _read_table(content, where, ",", columns, None)
            _check_scale(frame, where, WHOLE_STARS)
            if not content.endswith(b"\n"):  # no number of ratings is published to tell a broken transfer by
                raise DataError(f"{where}: the last line has no end, so the file is cut off. Fetch it again")
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
        content = source.read(basename)
        try:
            with h5py.File(io.BytesIO(content)) as file:
                keys = ("M", "Otraining", "Otest")
                ratings, train, test = (np.asarray(file[key], dtype=np.float64).T for key in keys)
            sound = ratings.ndim == 2 and (((train > 0) ^ (test > 0)) == (ratings > 0)).all()
        except Exception as error:  # h5py raises many kinds
            reason = " ".join(str(error).split())
            raise DataError(
                f"{where}: not a complete Monti data set (M, Otraining, Otest): {reason}. Fetch it again"
            ) from error
        if not sound:
            raise DataError(f"{where}: Otraining and Otest do not divide the ratings. Fetch the file again")
        user, item = np.nonzero(ratings)
        frame = pd.DataFrame(
            {"user": user, "item": item, "rating": ratings[user, item], "is_test": test[user, item] > 0}
        )
        _check_scale(frame, where, scale)
        return frame, None

    return parse


def gowalla(source: Source) -> tuple[pd.DataFrame, None]:
    """Gowalla with its published split: ``gowalla.npz`` (user, item, is_test), or LightGCN's train.txt and test.txt.

    A line of these is a user and the items that were clicked, with spaces between.
    """
    content, where = source.read("gowalla.npz", optional=True), f"{source.path}/gowalla.npz"
    if content is None:
        parts = [_lists(source.read(name), f"{source.path}/{name}") for name in ("train.txt", "test.txt")]
        parts = [part.assign(is_test=at == 1) for at, part in enumerate(parts)]
        return pd.concat(parts, ignore_index=True), None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            frame = pd.DataFrame({name: file[name] for name in ("user", "item", "is_test")})
        sound = all(frame[name].dtype.kind in "iu" for name in ("user", "item")) and frame["is_test"].dtype == bool
    except Exception as error:  # a damaged archive raises many kinds
        reason = " ".join(str(error).split())
        raise DataError(f"{where}: no arrays user, item and is_test: {reason}. Fetch the file again") from error
    if not sound:
        raise DataError(f"{where}: user and item must be whole numbers, is_test true or false. Fetch the file again")
    return frame, None


def _lists(content: bytes, where: str) -> pd.DataFrame:
    """Read lines of a user and that user's items; a line without items says nothing."""
    lines = [line.split() for line in content.decode("latin-1").splitlines()]
    bad = next((at for at, words in enumerate(lines, 1) if not words or not all(w.isdecimal() for w in words)), None)
    if bad:
        raise DataError(f"{where}, line {bad}: expected a user and items as whole numbers. Fetch the file again")
    users = np.repeat([int(words[0]) for words in lines], [len(words) - 1 for words in lines])
    return pd.DataFrame({"user": users, "item": [int(word) for words in lines for word in words[1:]]})
