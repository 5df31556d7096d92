"""Which scan is which row of a publication: a file per publication in the owner's private folder, and nowhere else.

    publications/<name>.csv    rows format_version,1 · dataset · date · target, then id,key and one row per scan

The name is the beginning of the SHA-256 of the publication's ``SHA256SUMS``, with ``-2``, ``-3`` … where the same was
published elsewhere before. With it, the owner can say which rows to
withdraw when a scan must be forgotten: nothing else leads from a published row back to a scan.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import IO

from medfuncta_dist.errors import FormatVersionError

FOLDER = "publications"
FORMAT_VERSION = "1"
HEADER = ("format_version", "dataset", "date", "target")
COLUMNS = ["id", "key"]


@dataclass(frozen=True)
class Published:
    """A publication that holds some scans, under these ids."""

    dataset: str
    date: str
    """UTC."""
    target: str
    ids: tuple[str, ...]


class IdList:
    """The list of a publication that is being made."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._rows, self._file, self._path = csv.writer(file, lineterminator="\n"), file, path

    def add(self, ids: Iterable[str], keys: Iterable[str]) -> None:
        """The ids of some scans, by their keys."""
        self._rows.writerows(zip(ids, keys, strict=True))

    def keep(self, name: str) -> Path:
        """Give the list its name; its path. Without this, nothing stays of it.

        Where the same was published before, that list stays, and this one's name ends with a number.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        names = (f"{name}.csv" if number == 1 else f"{name}-{number}.csv" for number in count(1))
        places = map(self._path.with_name, names)
        return self._path.rename(next(place for place in places if not place.exists()))


@contextmanager
def new_id_list(private: Path, dataset: str, target: str) -> Iterator[IdList]:
    """A new list, which only its owner can read; it counts once it is kept."""
    folder = private / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f".{os.getpid()}-{os.urandom(4).hex()}.partial"
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            csv.writer(file, lineterminator="\n").writerows(
                [*zip(HEADER, (FORMAT_VERSION, dataset, date, target), strict=True), COLUMNS]
            )
            yield IdList(file, path)
    finally:
        path.unlink(missing_ok=True)


def publications_with(private: Path, dataset: str, keys: Collection[str]) -> list[Published]:
    """The publications of a data set that hold scans with these keys. FormatVersionError."""
    found = []
    for path in sorted((private / FOLDER).glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            head = {name: row[1] for name, row in zip(HEADER, rows, strict=False) if len(row) == 2}
            if head.get("format_version") != FORMAT_VERSION:
                raise FormatVersionError(
                    "a list of published ids has an unknown format_version",
                    where=str(path),
                    do="use the version of medfuncta-dist that wrote it, or a newer one",
                )
            ids = tuple(sorted(row[0] for row in rows if row[1] in keys))
        if ids and head["dataset"] == dataset:
            found.append(Published(dataset, head["date"], head["target"], ids))
    return found
