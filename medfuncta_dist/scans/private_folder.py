"""The owner's folder: the salt of the keys, and the mapping from keys back to files. Never inside the storage.

salt          64 hex digits; in a cluster, MEDFUNCTA_SALT (hex, from a Secret) replaces it
mapping.csv   row ``format_version,1``, row ``key,uri,item``, then a row per scan, sorted by key
"""

from __future__ import annotations

import csv
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from medfuncta_dist.errors import FormatVersionError, IntegrityError, RunFileError
from medfuncta_dist.scans.scan_key import SALT_BYTES

SALT_VARIABLE = "MEDFUNCTA_SALT"
SALT_FILE = "salt"
MAPPING_FILE = "mapping.csv"
LARGEST_SALT = 2**16
"""Characters; a longer file is not a salt."""
_REPACK = "restore it from a backup, or delete it and pack again"
_BACKUP = "restore it from a backup: with another salt, every scan would get another key"
FORMAT_VERSION = 1


class MappingRow(NamedTuple):
    """The scan of a key."""

    key: str
    uri: str
    item: str


def private_folder(folder: str | None, dataset: str, storage: str) -> Path:
    """The owner's folder (not created here), default ``~/.medfuncta/<dataset>``; RunFileError if inside ``storage``."""
    if folder is not None and "://" in folder:
        raise RunFileError(f"data.private is {folder!r}", do="name a local folder: the salt must not be in a store")
    path = Path(folder).expanduser() if folder is not None else Path.home() / ".medfuncta" / dataset
    path = path.resolve()
    root = storage.removeprefix("file://")
    if "://" not in root and path.is_relative_to(Path(root).expanduser().resolve()):
        raise RunFileError(
            "the private folder is inside the storage", where="data.private", do="choose a folder outside the storage"
        )
    return path


def load_or_create_salt(folder: Path) -> bytes:
    """The salt from the environment, else from the folder, else a new one written there (mode 0600).

    An existing salt is never replaced, even if damaged: it would change all keys. Raises RunFileError.
    """
    if not os.environ.get(SALT_VARIABLE) and not (folder / SALT_FILE).exists():
        _create_salt(folder / SALT_FILE)
    return load_salt(folder)


def load_salt(folder: Path) -> bytes:
    """The salt from the environment, else from the folder. Raises RunFileError."""
    given = os.environ.get(SALT_VARIABLE)
    if given:
        return _parse_salt(given, f"the environment variable {SALT_VARIABLE}")
    path = folder / SALT_FILE
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            text = file.read(LARGEST_SALT)
    except FileNotFoundError:
        text = ""
    except OSError as error:
        raise RunFileError(
            f"the salt cannot be read: {os.strerror(error.errno or 0)}", where=str(path), do=_BACKUP
        ) from None
    return _parse_salt(text, str(path))


def _parse_salt(text: str, where: str) -> bytes:
    try:
        salt = bytes.fromhex(text.strip())
    except ValueError:
        salt = b""
    if len(salt) < SALT_BYTES:
        raise RunFileError(f"the salt is not {2 * SALT_BYTES} or more hex digits", where=where, do=_BACKUP)
    return salt


def _create_salt(path: Path) -> None:
    with _private_file(path.parent) as (temporary, file):
        file.write(secrets.token_hex(SALT_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
        # A link, not a rename: if two processes start together, both use the salt of the first.
        with suppress(FileExistsError):
            os.link(temporary, path)


@contextmanager
def _private_file(folder: Path) -> Iterator[tuple[Path, IO[str]]]:
    """A new text file in the folder (0700 if made here) that only the owner can read (0600); removed at the end."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".new-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield Path(name), file
    finally:
        Path(name).unlink(missing_ok=True)


def write_mapping(folder: Path, rows: Iterable[MappingRow | tuple[str, str, str]]) -> None:
    """Add rows to the folder's mapping, whole or not at all; a key that is already there gets its new row."""
    merged = {row.key: row for row in read_mapping(folder)} | {row[0]: MappingRow(*row) for row in rows}
    with _private_file(folder) as (temporary, file):
        writer = csv.writer(file)
        writer.writerow(("format_version", FORMAT_VERSION))
        writer.writerow(MappingRow._fields)
        writer.writerows(merged[key] for key in sorted(merged))
        file.flush()
        os.fsync(file.fileno())
        temporary.replace(folder / MAPPING_FILE)


def read_mapping(folder: Path) -> list[MappingRow]:
    """All rows, sorted by key; none where no mapping was written yet. Raises IntegrityError, FormatVersionError."""
    path = folder / MAPPING_FILE
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.reader(file))
    except (csv.Error, OSError) as error:
        raise IntegrityError("the mapping cannot be read", where=str(path), do=_REPACK) from error
    if rows[:1] != [["format_version", str(FORMAT_VERSION)]]:
        raise FormatVersionError(
            "the mapping has an unknown format_version",
            where=str(path),
            do="use the version of medfuncta-dist that wrote it, or a newer one",
        )
    if rows[1:2] != [list(MappingRow._fields)] or any(len(row) != 3 for row in rows[2:]):
        raise IntegrityError("the mapping is damaged", where=str(path), do=_REPACK)
    return [MappingRow(*row) for row in rows[2:]]
