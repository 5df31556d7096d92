"""A folder of the public code's latents: ``train/datapoint_0.pt``, ``val/…``, ``test/…``, a folder for each split.

Files are called by a number. A listing of half a million keeps the numbers only, eight bytes each.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from medfuncta_dist.config.section import SPLIT
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.storage.object_store import ObjectInfo, ObjectStore

FILE = re.compile(r"(?P<split>[^/]+)/(?P<stem>[^/]*?)(?P<number>0|[1-9]\d{0,9})\.pt")
STEM = "datapoint_"
"""What the public code calls its files, before the number."""
_SPLIT = re.compile(SPLIT)
LAYOUT = "give a folder that holds one folder of files for each split: train/datapoint_0.pt, test/datapoint_0.pt"


@dataclass(frozen=True, eq=False)
class SplitFiles:
    """The files of one split, in the order of their numbers."""

    split: str
    stem: str
    numbers: Int[np.ndarray, " file"]
    digest: str
    """SHA-256 that changes when a file is added, removed or replaced."""

    def path(self, number: int) -> str:
        """Path of a file below the folder."""
        return f"{self.split}/{self.stem}{number}.pt"

    def holds(self, number: int) -> bool:
        """Whether there is a file of this number."""
        at = int(np.searchsorted(self.numbers, number))
        return at < len(self.numbers) and int(self.numbers[at]) == number


@dataclass
class _Tally:
    """What is known of a split while its files are listed, in no order."""

    stems: set[str] = field(default_factory=set)
    numbers: array[int] = field(default_factory=lambda: array("q"))
    total: int = 0

    def add(self, stem: str, info: ObjectInfo, number: int) -> None:
        self.stems.add(stem)
        self.numbers.append(number)
        said = f"{info.path}\0{info.size}\0{info.version}".encode("utf-8", "surrogateescape")
        # A sum, as files are listed in any order. It tells a change, and proves nothing to an adversary.
        self.total = (self.total + int.from_bytes(hashlib.sha256(said).digest())) % 2**256

    def files(self, split: str) -> SplitFiles:
        if len(self.stems) > 1:
            what = f"the files of split {split} are called in {len(self.stems)} different ways before their number"
            raise RunFileError(what, do=LAYOUT)
        digest = hashlib.sha256(f"{split} {len(self.numbers)} {self.total:064x}".encode()).hexdigest()
        return SplitFiles(split, self.stems.pop(), np.sort(np.frombuffer(self.numbers, np.int64)), digest)


@dataclass(frozen=True)
class LatentFolder:
    """All splits of a folder, and how many other files it has."""

    root: str
    splits: dict[str, SplitFiles]
    others: int


def list_folder(root: str) -> LatentFolder:
    """The latents in a local folder, or one in S3. RunFileError where it has none, or is of another layout."""
    store = ObjectStore(root)
    return sorted_out(store.root, store.walk())


def sorted_out(root: str, listed: Iterable[ObjectInfo]) -> LatentFolder:
    """A listing by split."""
    tallies: dict[str, _Tally] = {}
    others = 0
    for info in listed:
        found = FILE.fullmatch(info.path)
        if found is None or not _SPLIT.fullmatch(found["split"]):
            others += 1
        else:
            tallies.setdefault(found["split"], _Tally()).add(found["stem"], info, int(found["number"]))
    if not tallies:
        raise RunFileError("there are no latents of the public code here", where=root, do=LAYOUT)
    return LatentFolder(root, {split: tallies[split].files(split) for split in sorted(tallies)}, others)
