"""Where bytes come from: folders, zip and tar archives, and downloads that resume and verify."""

from __future__ import annotations

import os
import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pooch
import requests

from ..errors import DataError


def data_folder() -> Path:
    """Return the data folder: ``$VAECF_DATA``, or the platform's cache folder."""
    return Path(os.environ.get("VAECF_DATA") or pooch.os_cache("vaecf"))


def _check_member(archive: Path, member: str) -> None:
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise DataError(
            f"{archive}: member {member!r} points outside the archive's folder. "
            "Do not use this file; delete it and fetch the archive again"
        )


class Source:
    """Read-only view of the files in a folder, a .zip or a .tar(.gz); nothing is ever unpacked to disk."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def files(self) -> Iterator[tuple[str, BinaryIO]]:
        """Yield (name, open binary file) of each file, a nested ``.tar`` being walked as well."""
        try:
            if self.path.is_dir():
                for file in sorted(p for p in self.path.rglob("*") if p.is_file()):
                    if file.suffix == ".tar":
                        yield from Source(file).files()
                    else:
                        with file.open("rb") as handle:
                            yield file.relative_to(self.path).as_posix(), handle
            elif zipfile.is_zipfile(self.path) or self.path.suffix == ".zip":
                with zipfile.ZipFile(self.path) as archive:
                    for info in archive.infolist():
                        _check_member(self.path, info.filename)
                        if not info.is_dir():
                            with archive.open(info) as handle:
                                yield info.filename, handle
            elif self.path.name.endswith((".tar", ".tar.gz", ".tgz")):
                with tarfile.open(self.path) as archive:
                    yield from self._tar_files(archive)
            else:
                with self.path.open("rb") as handle:
                    yield self.path.name, handle
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
            raise DataError(
                f"{self.path}: the archive is truncated or damaged ({error}). Delete it and fetch it again"
            ) from error

    def _tar_files(self, archive: tarfile.TarFile) -> Iterator[tuple[str, BinaryIO]]:
        for info in archive:
            _check_member(self.path, info.name)
            if info.isfile():
                handle = archive.extractfile(info)
                if info.name.endswith(".tar"):
                    with tarfile.open(fileobj=handle) as nested:
                        yield from self._tar_files(nested)
                else:
                    yield info.name, handle

    @contextmanager
    def open(self, basename: str, *, optional: bool = False) -> Iterator[BinaryIO | None]:
        """Open the one file called ``basename``, wherever in the folder or archive it lies."""
        try:
            files = self.files()
            for name, handle in files:
                if PurePosixPath(name).name == basename:
                    yield handle
                    return
            if not optional:
                raise DataError(f"{self.path}: no file {basename} inside. It is another archive, or an incomplete one")
            yield None
        except zipfile.BadZipFile as error:
            raise DataError(
                f"{self.path}: {basename} is damaged ({error}). Delete the archive and fetch it again"
            ) from error


def _resuming_download(url: str, output_file: str, part: Path) -> None:
    """Download ``url`` with a progress bar into ``part``, going on where an earlier try stopped; then move it."""
    from tqdm import tqdm

    done = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if response.status_code == 416:  # nothing is left to send: the part is complete, or stale
            shutil.move(part, output_file)
            return
        response.raise_for_status()
        resumed = response.status_code == 206
        total = int(response.headers.get("content-length", 0)) + (done if resumed else 0)
        with (
            part.open("ab" if resumed else "wb") as out,
            tqdm(total=total or None, initial=done if resumed else 0, unit="B", unit_scale=True) as bar,
        ):
            for chunk in response.iter_content(1 << 16):
                out.write(chunk)
                bar.update(len(chunk))
    if total and part.stat().st_size < total:
        raise requests.ConnectionError(f"the connection closed after {part.stat().st_size} of {total} bytes")
    shutil.move(part, output_file)


def download(urls: tuple[str, ...], sha256: str | None, folder: Path) -> Path:
    """Fetch the first of ``urls`` that answers into ``folder`` and verify it; return its path.

    An interrupted transfer leaves ``NAME.part`` and goes on from there. The file appears under its name only
    when complete and verified (pooch checks the hash before the move). Where no hash is published, the hash of
    the first download is kept in ``NAME.sha256`` and later files must match it.

    Raises:
        DataError: no mirror answers, or every answer has the wrong hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = urls[0].rsplit("/", 1)[-1]
    part, kept = folder / f"{name}.part", folder / f"{name}.sha256"
    known = sha256 or (kept.read_text().strip() if kept.exists() else None)
    failures = []
    for url in urls:

        def fetch(url, output_file, _pooch):
            _resuming_download(url, output_file, part)

        try:
            path = Path(pooch.retrieve(url, known_hash=known, fname=name, path=folder, downloader=fetch))
        except (requests.RequestException, ValueError, OSError) as error:
            failures.append(f"  {url}: {error}")
            continue
        if known is None:
            digest = pooch.file_hash(str(path))
            kept.write_text(digest + "\n")
            warnings.warn(f"{name}: no published hash is known; kept SHA-256 {digest} for later checks")
        return path
    raise DataError(
        f"could not fetch {name}:\n" + "\n".join(failures) + f"\nPut the file into {folder} by hand "
        "(VAECF_DATA names that folder), or try again: a started download goes on where it stopped"
    )
