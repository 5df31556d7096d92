"""Which volumes of a DICOM series are forgotten ones, when the series is read again. Pure.

A volume is named by the smallest key of its images' identifiers, or, in data sets of earlier versions, by its place in
the series. A place means something only while the series has not changed. Where nobody can tell what a volume is, it is
not packed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from medfuncta_dist.errors import ScanError

ITEM = re.compile(r"volume/([^/]+)(/(?:slice|slab)/\d+)?")
NUMBER = re.compile(r"\d{1,9}")
"""A name has 32 digits."""
SERIES_CHANGED = (
    "a volume of this DICOM series was forgotten; the series has changed, and nothing tells which one it is"
)
VOLUME_CHANGED = "a slice of this volume was forgotten; the series has changed, and nothing tells which one it is"
UNKNOWN = "a volume of this DICOM series was forgotten, and this may be what is left of it"


@dataclass(frozen=True)
class Piece:
    """A forgotten scan of a series, or a slice of it, of which other scans stay."""

    source: str
    """Key of the series."""
    item: str
    contents: tuple[str, ...] = ()
    """What the series was (``SourceState.content``) when the item was this scan."""
    others: tuple[str, ...] = ()
    """Names of the other volumes of the series."""

    @property
    def numbered(self) -> bool:
        """Whether its volume has no name, but a place in the series."""
        return not volume_names([self.item])


@dataclass(frozen=True)
class ForgottenVolumes:
    """Of one series, as it is now. The default: nothing of it was forgotten."""

    numbers: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()
    sliced: frozenset[str] = frozenset()
    """Volumes of which slices were forgotten, before the series changed."""
    lost: bool = False
    """A forgotten volume has lost the image that it was named by, and perhaps no other."""
    others: frozenset[str] = frozenset()
    """Where one has: names of volumes that are others."""

    def holds(self, number: int, names: Collection[str]) -> bool:
        """Whether the volume at this place in the series, of images with these names, was forgotten."""
        return number in self.numbers or not self.names.isdisjoint(names)

    def doubt(self, names: Collection[str]) -> str | None:
        """Why nobody can tell whether a volume was forgotten; None where it was not."""
        if not self.sliced.isdisjoint(names):
            return VOLUME_CHANGED
        return UNKNOWN if self.lost and self.others.isdisjoint(names) else None


NONE_FORGOTTEN = ForgottenVolumes()


def is_piece(item: str) -> bool:
    """Whether an item is a volume of a series, or a slice of one."""
    return ITEM.fullmatch(item) is not None


def volume_names(items: Iterable[str]) -> frozenset[str]:
    """The names of the volumes among these items; numbers are none."""
    found = (match[1] for item in items if (match := ITEM.fullmatch(item)))
    return frozenset(name for name in found if not NUMBER.fullmatch(name))


def forgotten_volumes(pieces: Iterable[Piece], names: Collection[str], content: str) -> ForgottenVolumes:
    """``names``: of all images that the series has now, of this content (unknown: ""). ScanError where the series has
    changed since a volume was forgotten that only had a number."""
    numbers, whole, sliced, others = set[int](), set[str](), set[str](), list[frozenset[str]]()
    for piece in pieces:
        match = ITEM.fullmatch(piece.item)
        if match is None:
            continue
        name, of_slice = match[1], match[2] is not None
        same = content != "" and content in piece.contents
        if NUMBER.fullmatch(name):
            if not same:
                raise ScanError(SERIES_CHANGED)
            numbers |= set() if of_slice else {int(name)}
            continue
        if not (of_slice and same):
            (sliced if of_slice else whole).add(name)
        if name not in names:
            others.append(frozenset(piece.others))
    known = frozenset.intersection(*others) if others else frozenset()
    return ForgottenVolumes(frozenset(numbers), frozenset(whole), frozenset(sliced), bool(others), known)
