"""Where bytes come from: folders, zip and tar archives, and downloads that resume and verify."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pooch
import requests

from ..errors import DataError

Parsed = TypeVar("Parsed")


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

    def matching(self, pattern: str) -> Iterator[tuple[str, bytes]]:
        """Yield (name, content) of each file whose name, without folders, is ``pattern`` (a regular expression)."""
        wanted = re.compile(pattern)
        try:
            for name, read in self._files():
                if wanted.fullmatch(PurePosixPath(name).name):
                    yield name, read()
        except DataError:
            raise
        except PermissionError as error:
            raise DataError(f"{error.filename or self.path}: may not be read. Change its permissions") from error
        except Exception as error:  # damaged and encrypted archives raise many kinds
            raise DataError(
                f"{self.path}: the archive is truncated or damaged ({' '.join(str(error).split())}). "
                "Delete it and fetch it again"
            ) from error

    def read(self, basename: str, *, optional: bool = False) -> bytes | None:
        """Return the content of the one file called ``basename``, wherever in the folder or archive it lies."""
        for _, content in self.matching(re.escape(basename)):
            return content
        if optional:
            return None
        raise DataError(f"{self.path}: no file {basename} inside. It is another archive, or an incomplete one")

    def _files(self) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """Yield (name, function that reads the content) of each file, a nested ``.tar`` being walked as well."""
        if self.path.is_dir():
            for file in sorted(p for p in self.path.rglob("*") if p.is_file()):
                if file.suffix == ".tar":
                    yield from Source(file)._files()
                else:
                    yield file.relative_to(self.path).as_posix(), file.read_bytes
        elif zipfile.is_zipfile(self.path) or self.path.suffix == ".zip":
            with zipfile.ZipFile(self.path) as archive:
                for info in archive.infolist():
                    _check_member(self.path, info.filename)
                    if not info.is_dir():
                        yield info.filename, partial(archive.read, info)
        elif self.path.name.endswith((".tar", ".tar.gz", ".tgz")):
            with tarfile.open(self.path) as archive:
                yield from self._tar_files(archive)
        else:
            yield self.path.name, self.path.read_bytes

    def _tar_files(self, archive: tarfile.TarFile) -> Iterator[tuple[str, Callable[[], bytes]]]:
        for info in archive:
            _check_member(self.path, info.name)
            if info.isfile():
                handle = archive.extractfile(info)
                if info.name.endswith(".tar"):
                    with tarfile.open(fileobj=handle) as nested:
                        yield from self._tar_files(nested)
                else:
                    yield info.name, handle.read


def _resuming_download(url: str, output_file: str, part: Path, verifiable: bool) -> None:
    """Download ``url`` with a progress bar into ``part``, going on where an earlier try stopped; then move it.

    A reply that does not say where it ends is taken only if it is ``verifiable``: broken off, it would look whole.
    """
    from tqdm import tqdm

    done = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if response.status_code == 416:  # nothing is left to send: the part is complete, or stale
            shutil.move(part, output_file)
            return
        response.raise_for_status()
        chunked = response.headers.get("transfer-encoding", "").lower() == "chunked"
        if not (verifiable or chunked or "content-length" in response.headers):
            raise requests.ConnectionError("the reply does not say how long it is, and no hash is known to check it by")
        resumed = response.status_code == 206
        total = int(response.headers.get("content-length", 0)) + (done if resumed else 0)
        with (
            part.open("ab" if resumed else "wb") as out,
            tqdm(total=total or None, initial=done if resumed else 0, unit="B", unit_scale=True) as bar,
        ):
            for chunk in response.iter_content(1 << 16):
                out.write(chunk)
                bar.update(len(chunk))
    if part.stat().st_size < total:
        raise requests.ConnectionError(f"the connection closed after {part.stat().st_size} of {total} bytes")
    shutil.move(part, output_file)


def download(urls: tuple[str, ...], sha256: str | None, folder: Path, read: Callable[[Path], Parsed]) -> Parsed:
    """Fetch the first of ``urls`` that answers into ``folder``, verify it, and return what ``read(path)`` makes of it.

    An interrupted transfer leaves ``NAME.part`` and goes on from there. The file appears under its name only
    when complete and verified (pooch checks the hash before the move). Where no hash is published, a file that
    cannot be read is deleted again and the next mirror asked; the hash of the first one that can is kept in
    ``NAME.sha256``, and later files must match it.

    Raises:
        DataError: no mirror answers, or every answer has the wrong hash or is not the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = urls[0].rsplit("/", 1)[-1]
    part, kept = folder / f"{name}.part", folder / f"{name}.sha256"
    known = sha256 or (kept.read_text(encoding="utf-8").strip() if kept.exists() else None)
    failures = []
    for url in urls:

        def fetch(url, output_file, _pooch):
            _resuming_download(url, output_file, part, verifiable=known is not None)

        try:
            path = Path(pooch.retrieve(url, known_hash=known, fname=name, path=folder, downloader=fetch))
        except requests.RequestException as error:
            failures.append(f"{url}: {error}")
            continue
        except (ValueError, OSError) as error:
            pinned = f" (the expected hash is that of an earlier download, kept in {kept}: delete that file to accept "
            failures.append(f"{url}: {error}" + (pinned + "another release)" if known and not sha256 else ""))
            continue
        if known is not None:
            return read(path)
        try:
            content = read(path)
        except DataError as error:
            path.unlink()
            failures.append(f"{url}: not the file it should be, and deleted again: {error}")
            continue
        digest = pooch.file_hash(str(path))
        kept.write_text(digest + "\n", encoding="utf-8")
        warnings.warn(f"{name}: no published hash is known; kept SHA-256 {digest} for later checks")
        return content
    raise DataError(
        f"could not fetch {name}: {'; '.join(' '.join(failure.split()) for failure in failures)}. Put the file into "
        f"{folder} by hand (VAECF_DATA names that folder), or try again: a started download goes on where it stopped"
    )
