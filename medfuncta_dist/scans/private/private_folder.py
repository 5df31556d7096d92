"""The owner's folder, and the salt of the keys in it. Never inside the storage.

salt             64 hex digits; in a cluster, MEDFUNCTA_SALT (hex, from a Secret) replaces it
mapping.sqlite   from keys back to files (``private_mapping.py``)
forgotten.json   what must never be packed again (``forgotten_list.py``)
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.scans.scan_key import SALT_BYTES

SALT_VARIABLE = "MEDFUNCTA_SALT"
SALT_FILE = "salt"
LARGEST_SALT = 2**16
"""Characters; a longer file is not a salt."""
_BACKUP = "restore it from a backup: with another salt, every scan would get another key"


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
    """The salt from the environment, else from the folder, else a new one written there (mode 0600), which is announced
    on stderr.

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


ANNOUNCEMENT = """
==============================================================================
A NEW SALT WAS MADE. Keep it: back it up now. This is said only once.

  where        {path}
  what it is   the secret from which the key of every scan and patient is made
  without it   no scan can be added to this data set, no key leads back to a
               file once the mapping is lost too, and nobody can be forgotten
               by the patient's ID. It cannot be made again.
  in wrong     whoever has it and the stored data can test whether a patient
  hands        or file that they know is in the data set. Only its owner may
               read it (mode 0600); never put it into the storage.
  back it up   copy the file to a vault for secrets, apart from the stored
               data; on a cluster make it a Secret, given as {variable}.
==============================================================================
"""


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
            print(ANNOUNCEMENT.format(path=path, variable=SALT_VARIABLE), file=sys.stderr, flush=True)


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
