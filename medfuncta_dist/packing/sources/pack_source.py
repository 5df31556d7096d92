"""A source as the pack stage sees it: a file, or a DICOM series, which is several; its key, and whose it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from medfuncta_dist.archive.changes import SourceState
from medfuncta_dist.scans.patient_group import Group
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.storage.archive_files.place import Place
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.sources import Source


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a DICOM series."""

    uri: str = field(repr=False)
    name: str
    """A key that stands for its SOPInstanceUID."""
    size: int = field(default=0, repr=False)
    """Bytes."""
    content: str = ""
    """As in ``SourceState``."""
    labels: tuple[int, ...] | None = None
    """Those that the run file's table gives."""
    place: Place | None = field(default=None, repr=False)
    """Where it lies, if it is inside a zip or tar file."""


@dataclass(frozen=True)
class Told:
    """What the run file's table says of one scan."""

    split: str | None
    group: Group | None
    labels: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Mask:
    """The segmentation of an image. ``size``, ``version`` and ``place`` as in ``Source``."""

    uri: str = field(repr=False)
    size: int = field(repr=False)
    version: str = field(repr=False)
    place: Place | None = field(default=None, repr=False)
    image: str = field(default="", repr=False)
    """Of a DICOM segmentation beside a single file: a key that stands for the file's SOPInstanceUID."""


@dataclass(frozen=True, slots=True)
class PackSource:
    """A source and its key: a file, or a DICOM series, which is several. Its URI and path are never printed: they can
    name a patient."""

    key: str
    uri: str = field(repr=False)
    relative: str = field(repr=False)
    split: str | None = None
    """The split that the run file assigns; None if the file itself or the key decides."""
    path: str = field(default="", repr=False)
    """``relative`` without the split that ``data.splits`` assigns."""
    group: Group | None = None
    """Whose it is, as its path or the run file's rule or table tells."""
    labels: tuple[int, ...] | None = None
    """Those that the run file's table gives."""
    told: Mapping[str, Told] = field(default_factory=dict, repr=False)
    """What the table says of single scans, by their keys."""
    unlisted: bool = False
    """Nobody knows which row of the table is about it, so its scans are quarantined."""
    size: int = field(default=0, repr=False)
    version: str = field(default="", repr=False)
    """As in ``Source``."""
    state: SourceState | None = field(default=None, repr=False)
    """What is known of its bytes before it is read."""
    members: tuple[Member, ...] = field(default=(), repr=False)
    """The files of a series (``relative`` is then no path, but what identifies it); none in a source that is a file."""
    beside: tuple[Source, ...] | None = ()
    """The other files of a source of several: a NIfTI pair, a WFDB record. None where the pattern does not list them:
    then nobody knows whether they have changed."""
    copies: int = 0
    """Files of a series that are copies of others in it, and are no members."""
    scattered: bool = False
    """A series that names no patient, and whose files lie in folders of several: nobody knows whose it is."""
    mask: Mask | None = None
    """What is kept beside its scans (``data.masks: pair``)."""
    place: Place | None = field(default=None, repr=False)
    """Where it lies, if it is inside a zip or tar file."""
    refused: str = ""
    """Why it is not read, in fixed words."""
    inside: tuple[tuple[str, Place], ...] = field(default=(), repr=False)
    """Of one inside a zip or tar file: files there that belong to it, by the suffix in which their names differ."""

    @property
    def places(self) -> list[Place]:
        """Those of its files that are inside zip or tar files."""
        own = [file.place for file in (self.members or (self,)) if file.place is not None]
        return own + [place for _, place in self.inside]

    @property
    def files(self) -> int:
        """How many files it is."""
        return len(self.members) + self.copies or 1

    @property
    def items(self) -> dict[str, str]:
        """URIs of the scans of a series that are one file each, by item."""
        return {f"image/{member.name}": member.uri for member in self.members}


def told_key(source: PackSource, keys: KeyMaker) -> str:
    """Key of the labels that the table gives, of all that it says of single scans, of the segmentation, and of whether
    it is scattered: another one where those are others, "" where there are none."""
    members = sorted((member.name, member.labels) for member in source.members if member.labels is not None)
    more: dict[str, object] = {"mask": [source.mask.size, source.mask.version]} if source.mask else {}
    more |= {"scattered": True} if source.scattered else {}
    if source.labels is None and not source.told and not members and not more:
        return ""
    scans = {key: [t.split, t.group and t.group.key, t.labels] for key, t in source.told.items()}
    said = {"labels": source.labels, "scans": scans} | ({"members": members} if members else {}) | more
    return keys.property_key("told", digest_json(said))
