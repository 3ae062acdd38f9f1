"""The named data sets: where they are found, what they must contain, how they are parsed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import ConfigError, DataError
from . import parsers
from .kept import KeptLog
from .planted import planted_log
from .ratings import RatingLog, log_of_table
from .sources import Source, data_folder, download

_GROUPLENS_TERMS = "research use with citation; no redistribution without permission (grouplens.org)"


def _grouplens(archive: str) -> tuple[str, ...]:
    # The site's certificate has lapsed before: plain http and an archive's copy are safe behind the hash.
    site = f"files.grouplens.org/datasets/movielens/{archive}"
    return f"https://{site}", f"http://{site}", f"https://web.archive.org/web/2id_/https://{site}"


def _monti(path: str) -> tuple[str, ...]:
    return (
        f"https://github.com/fmonti/mgcnn/raw/master/Data/{path}",
        f"https://raw.githubusercontent.com/fmonti/mgcnn/master/Data/{path}",
    )


def _amazon(category: str) -> tuple[str, ...]:
    return (
        f"https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2/categoryFilesSmall/{category}.csv",
        f"http://deepyeti.ucsd.edu/jianmo/amazon/categoryFilesSmall/{category}.csv",
    )


@dataclass(frozen=True)
class Dataset:
    """One entry of the catalogue.

    ``urls``: mirrors of one archive; none where the files are to be put there by hand · ``ratings``: the published
    number of ratings, checked after parsing.
    """

    name: str
    about: str
    parse: Callable
    files: tuple[str, ...]  # a folder with one of these files holds the unpacked data set
    urls: tuple[str, ...]
    sha256: str | None
    ratings: int | None
    terms: str

    @property
    def archive(self) -> str:
        """File name of the downloaded archive."""
        return self.urls[0].rsplit("/", 1)[-1] if self.urls else f"{self.name}.zip"


DATASETS = {
    entry.name: entry
    for entry in (
        Dataset(
            "ml-100k",
            "MovieLens 100K: 943 users, 1,682 films, 1 to 5 stars",
            parsers.movielens_100k,
            ("u.data",),
            _grouplens("ml-100k.zip"),
            "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
            100_000,
            _GROUPLENS_TERMS,
        ),
        Dataset(
            "ml-1m",
            "MovieLens 1M: 6,040 users, 3,706 films, 1 to 5 stars",
            parsers.movielens_dat(parsers.WHOLE_STARS),
            ("ratings.dat",),
            _grouplens("ml-1m.zip"),
            "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
            1_000_209,
            _GROUPLENS_TERMS,
        ),
        Dataset(
            "ml-10m",
            "MovieLens 10M: 69,878 users, 10,677 films, half to 5 stars",
            parsers.movielens_dat(parsers.HALF_STARS),
            ("ratings.dat",),
            _grouplens("ml-10m.zip"),
            None,
            10_000_054,
            _GROUPLENS_TERMS,
        ),
        Dataset(
            "ml-20m",
            "MovieLens 20M: 138,493 users, 26,744 films, half to 5 stars",
            parsers.movielens_csv,
            ("ratings.csv",),
            _grouplens("ml-20m.zip"),
            "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
            20_000_263,
            _GROUPLENS_TERMS,
        ),
        Dataset(
            "netflix",
            "Netflix Prize: 480,189 users, 17,770 films, 1 to 5 stars",
            parsers.netflix,
            ("mv_0000001.txt", "combined_data_1.txt", "training_set.tar"),
            ("https://archive.org/download/nf_prize_dataset.tar/nf_prize_dataset.tar.gz",),
            None,
            100_480_507,
            "non-commercial research; withdrawn by Netflix, kept by archive.org",
        ),
        Dataset(
            "msd",
            "Million Song Dataset, Taste Profile: 1,019,318 users, 384,546 songs, play counts",
            parsers.million_songs,
            ("train_triplets.txt",),
            (
                "http://millionsongdataset.com/sites/default/files/challenge/train_triplets.txt.zip",
                "http://labrosa.ee.columbia.edu/~dpwe/tmp/train_triplets.txt.zip",
            ),
            None,
            48_373_586,
            "non-commercial research (The Echo Nest Taste Profile)",
        ),
        Dataset(
            "douban",
            "Douban, Monti et al.'s 3,000 x 3,000 part, 1 to 5 stars, published split",
            parsers.monti("training_test_dataset.mat", parsers.WHOLE_STARS),
            ("training_test_dataset.mat",),
            _monti("douban/training_test_dataset.mat"),
            None,
            136_891,
            "research use by custom; no licence stated",
        ),
        Dataset(
            "flixster",
            "Flixster, Monti et al.'s 3,000 x 3,000 part, half to 5 stars, published split",
            parsers.monti("training_test_dataset_10_NNs.mat", parsers.HALF_STARS),
            ("training_test_dataset_10_NNs.mat",),
            _monti("flixster/training_test_dataset_10_NNs.mat"),
            None,
            26_173,
            "research use by custom; no licence stated",
        ),
        Dataset(
            "amazon-pet",
            "Amazon reviews (2018), Pet Supplies, 1 to 5 stars",
            parsers.amazon("Pet_Supplies"),
            ("Pet_Supplies.csv", "ratings_Pet_Supplies.csv"),
            _amazon("Pet_Supplies"),
            None,
            None,
            "research use with citation (Ni, Li and McAuley 2019)",
        ),
        Dataset(
            "amazon-kindle",
            "Amazon reviews (2018), Kindle Store, 1 to 5 stars",
            parsers.amazon("Kindle_Store"),
            ("Kindle_Store.csv", "ratings_Kindle_Store.csv"),
            _amazon("Kindle_Store"),
            None,
            None,
            "research use with citation (Ni, Li and McAuley 2019)",
        ),
        Dataset(
            "gowalla",
            "Gowalla check-ins: 29,858 users, 40,981 places, clicks, published split of NGCF and LightGCN",
            parsers.gowalla,
            ("gowalla.npz", "train.txt"),
            (),
            None,
            1_027_370,
            "research use by custom; no licence stated",
        ),
    )
}


def _find(entry: Dataset, folder: Path) -> Path | None:
    """Return the unpacked folder or the archive of ``entry`` below ``folder``, or None."""
    own = folder / entry.name
    if own.is_dir() and any(next(own.rglob(file), None) for file in entry.files):
        return own
    places = [own / entry.archive, folder / entry.archive]
    if len(entry.files) and entry.name.startswith("amazon"):
        places += [folder / file for file in entry.files]
    return next((place for place in places if place.is_file()), None)


def _print_terms_once(entry: Dataset, folder: Path) -> None:
    note = folder / f"{entry.name}.terms.txt"
    if not note.exists():
        print(f"{entry.name}: terms of use: {entry.terms}", file=sys.stderr)
        note.write_text(entry.terms + "\n", encoding="utf-8")


def _read(entry: Dataset, path: Path) -> RatingLog:
    kept = KeptLog.of(path, dataset=entry.name, ratings=entry.ratings)
    if (log := kept.load()) is not None:
        return log
    frame, titles = entry.parse(Source(path))
    if entry.ratings is not None and len(frame) != entry.ratings:
        raise DataError(
            f"{path}: {entry.name} has {entry.ratings:,} ratings, this file {len(frame):,}: "
            "it is incomplete or another release. Fetch it again"
        )
    log = log_of_table(entry.name, frame, titles)
    kept.keep(log)
    return log


def load_dataset(name: str) -> RatingLog:
    """Return a data set of the catalogue as a :class:`~vaecf_lib.data.RatingLog`.

    ``planted`` is embedded. The others are looked up in the folder ``VAECF_DATA`` names (unpacked in
    ``VAECF_DATA/NAME`` or as the original archive), else downloaded into it and verified. What was read of a large one
    is kept (``vaecf_lib.data.kept``).

    Raises:
        ConfigError: ``name`` is not in the catalogue.
        DataError: the files are missing and cannot be fetched, or are damaged, or are another release.
    """
    if name == "planted":
        return planted_log()
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}. Known: {', '.join(['planted', *DATASETS])}")
    entry, folder = DATASETS[name], data_folder()
    path = _find(entry, folder)
    if path is not None:
        return _read(entry, path)
    if not entry.urls:
        raise DataError(
            f"{name} is not fetched by itself: put {' or '.join(entry.files)} into {folder / name} by hand "
            "(VAECF_DATA names the folder above)"
        )
    log = download(entry.urls, entry.sha256, folder, partial(_read, entry))
    _print_terms_once(entry, folder)
    return log
