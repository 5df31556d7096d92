"""A file inside a zip or tar file (its member): where it lies, under which names it is taken, and the limits.

A member is a source of its own, called ``folder/study.zip!/path/of/member``. Nothing is ever written under a member's
name: names only identify and group. Reasons are fixed words, since names can name a patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from medfuncta_dist.errors import ScanError

SUFFIXES = {
    ".zip": "zip",
    ".tar": "tar",
    ".tar.gz": "gz",
    ".tgz": "gz",
    ".tar.bz2": "bz2",
    ".tbz2": "bz2",
    ".tar.xz": "xz",
    ".txz": "xz",
}
"""Kinds by lowercase suffix. Compressed tars are ``SOLID``: what is in one can only be read from its beginning."""
SOLID = frozenset({"gz", "bz2", "xz"})
FOREIGN_SUFFIXES = (".7z", ".rar", ".zst", ".iso")
SEPARATOR = "!/"

MEMBERS = 2**18
"""Members of one archive file: a thousand CT series. Their list takes about 100 MB of memory."""
LARGEST_MEMBER = 2**34
"""Bytes; MedMNIST's largest file has 2**33. A member is a file on a local disk while it is read."""
LONGEST_NAME = 4096
FREE_BYTES = 2**28
LARGEST_RATIO = 100
"""As for the readers' files: it may become FREE_BYTES at any ratio, and beyond that LARGEST_RATIO times its size."""

NESTED = "an archive file inside an archive file: unpack it"
ENCRYPTED = "encrypted inside a zip file: unpack it"
LINK = "a link inside an archive file: put the file that it leads to in its place"
SPECIAL = "neither a file nor a folder inside an archive file"
SPARSE = "a sparse file inside an archive file: unpack it"
NAME = "a name inside an archive file that leads out of it, or is none: give the file a plain one"
REPEATED = "a name that an archive file holds more than once: give each file its own"
METHOD = "a compression inside a zip file that is not read: unpack it"
TOO_LARGE = "larger than 16 GiB inside an archive file: unpack it"
BOMB = "a decompression bomb"
TOO_MANY = f"an archive file with more than {MEMBERS} members: unpack it"
DAMAGED = "a damaged archive file"
TRUNCATED = "a truncated archive file"
DAMAGED_MEMBER = "damaged inside its archive file"
CHANGED = "its archive file has changed since it was surveyed"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member lies.

    offset: of its header, in the archive file or, in a solid one, in what that becomes.
    stored, size: its bytes there, and decompressed.
    check: CRC-32 of its content (zip), or of its header (tar): it tells that the archive file is still the same.
    lead: bytes of the header that are expected before its data (zip).
    """

    archive: str = field(repr=False)
    """URI"""
    kind: str
    archive_size: int
    offset: int
    stored: int
    size: int
    check: int
    deflated: bool = False
    lead: int = 512

    @property
    def solid(self) -> bool:
        """Whether it can only be reached from the beginning of its archive file."""
        return self.kind in SOLID


@dataclass(frozen=True, slots=True)
class Entry:
    """What an archive file's own list says of a member. ``refused``: why it is not read, "" if it is."""

    name: str = field(repr=False)
    place: Place | None
    refused: str = ""


def kind_of(name: str) -> str | None:
    """The kind of an archive file by its name; None for any other file."""
    return next((kind for suffix, kind in SUFFIXES.items() if name.lower().endswith(suffix)), None)


def plain_name(raw: str) -> tuple[str, str]:
    """A member's name without what says nothing (``./a//b``), and why it is refused ("" if it is not)."""
    parts = raw.split("/")
    name = "/".join(part for part in parts if part not in ("", "."))
    windows = raw.startswith("\\") or raw[1:2] == ":" or ".." in raw.replace("\\", "/").split("/")
    if not name or raw.startswith("/") or windows or len(name) > LONGEST_NAME or "\0" in name:
        return name or "unnamed", NAME
    return name, NESTED if kind_of(name) or name.lower().endswith(FOREIGN_SUFFIXES) else ""


def hidden(name: str) -> bool:
    """Files of the systems that pack archive files: ``.DS_Store``, ``__MACOSX/._scan.dcm``."""
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in name.split("/"))


def without_repeated(entries: Iterable[Entry]) -> list[Entry]:
    """The entries, one for each name: of members with one name, it is unknown which one counts."""
    found = list(entries)
    names = Counter(entry.name for entry in found)
    once = [entry for entry in found if names[entry.name] == 1]
    return once + [Entry(name, None, REPEATED) for name, number in names.items() if number > 1]


def check_ratio(inflated: int, stored: int) -> None:
    """ScanError for a decompression bomb."""
    if inflated > max(FREE_BYTES, LARGEST_RATIO * stored):
        raise ScanError(BOMB)
