"""What must never be packed again: ``forgotten.json`` in the owner's private folder, an entry per act of forgetting.

It holds keys (HMACs) only, no name and no path, and is the one place that remembers them: storage does not. An act that
is not done yet also holds what it still has to delete.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from medfuncta_dist.errors import FormatVersionError
from medfuncta_dist.scans.patient_group import Group
from medfuncta_dist.scans.private.forgotten_volumes import Piece
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.storage.digest import canonical_json, sha256_bytes
from medfuncta_dist.storage.local_objects import replacing
from medfuncta_dist.storage.parsing import strict_json
from medfuncta_dist.storage.parsing.typed_record import typed

LIST_FILE = "forgotten.json"
FORMAT_VERSION = 1
_RESTORE = "restore it from a backup: without it, packing would bring forgotten scans back"


@dataclass(frozen=True)
class Act:
    """One act of forgetting. All keys are HMACs under the owner's salt."""

    id: str
    """Of all keys; storage knows the act by it."""
    dataset: str
    date: str
    """UTC."""
    scans: tuple[str, ...]
    sources: tuple[str, ...] = ()
    """Files of which nothing stays."""
    groups: tuple[str, ...] = ()
    """Patients: later scans of theirs are left out, too."""
    contents: tuple[str, ...] = ()
    """Of the files of which nothing stays: wherever they are moved, they are recognised."""
    pixels: tuple[str, ...] = ()
    """Of the packed scans (``pixels_key``): they are recognised in another file, under another key."""
    pieces: tuple[Piece, ...] = ()
    """Of the forgotten volumes of DICOM series of which others stay: what they are known by when the series changes."""
    latents: tuple[str, ...] = ()
    """Until it is done: what must be found nowhere (``latent_key``)."""
    delete: tuple[str, ...] = ()
    """Until it is done: objects to delete, relative to the storage root."""
    done: bool = False

    @property
    def keys(self) -> frozenset[str]:
        """Everything that no object may hold afterwards."""
        return frozenset((*self.scans, *self.sources, *self.groups))


@dataclass(frozen=True)
class Forgotten:
    """What packing leaves out. ``keys`` is needed where there are pixels to recognise."""

    scans: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    contents: frozenset[str] = frozenset()
    pixels: frozenset[str] = frozenset()
    pieces: tuple[Piece, ...] = ()
    trusted: bool = False
    """Nothing comes of what is read but what was packed before: so places in a series count as they did."""

    def pieces_of(self, source: str) -> list[Piece]:
        """The forgotten volumes of a series (key), and slices of them."""
        return [piece for piece in self.pieces if piece.source == source]

    def holds_scan(self, key: str, group: Group | None, npy: bytes, keys: KeyMaker) -> bool:
        """Whether a scan is left out. ``npy``: b"" of one that could not be read."""
        if key in self.scans or (group is not None and group.key in self.groups):
            return True
        return bool(npy and self.pixels) and pixels_key(keys, npy) in self.pixels


NOTHING_FORGOTTEN = Forgotten()


def pixels_key(keys: KeyMaker, npy: bytes) -> str:
    """The key of a packed scan's values, 32 hex digits."""
    return keys.property_key("pixels", sha256_bytes(npy))


def latent_key(keys: KeyMaker, numbers: bytes) -> str:
    """The key of a stored latent's numbers, 32 hex digits."""
    return keys.property_key("latent", sha256_bytes(numbers))


def act_id(keys: KeyMaker, dataset: str, of: Iterable[str]) -> str:
    """The name of an act: a key of all its keys, 32 hex digits, which tells none of them."""
    return keys.property_key("forgotten", dataset, *sorted(of))


@dataclass(frozen=True)
class ForgottenList:
    """The acts, in order."""

    acts: tuple[Act, ...] = field(default=(), repr=False)

    def of(self, dataset: str) -> list[Act]:
        """The acts on a data set."""
        return [act for act in self.acts if act.dataset == dataset]

    def with_act(self, act: Act) -> ForgottenList:
        """The list with this act, in place of an earlier state of it."""
        if any(known.id == act.id for known in self.acts):
            return ForgottenList(tuple(act if known.id == act.id else known for known in self.acts))
        return ForgottenList((*self.acts, act))

    def forgotten(self) -> Forgotten:
        """What packing leaves out: whatever the data set was, since keys of one salt mean the same."""

        def all_of(name: str) -> frozenset[str]:
            return frozenset(key for act in self.acts for key in getattr(act, name))

        return Forgotten(
            all_of("scans"),
            all_of("sources"),
            all_of("groups"),
            all_of("contents"),
            all_of("pixels"),
            tuple(piece for act in self.acts for piece in act.pieces),
        )


@dataclass(frozen=True)
class _File:
    format_version: int
    acts: Sequence[Act]


def read_list(folder: Path) -> ForgottenList:
    """The list of a private folder; an empty one where nothing was forgotten. IntegrityError, FormatVersionError."""
    path = folder / LIST_FILE
    try:
        body = strict_json.parse_object(path.read_bytes(), "the list of forgotten scans", str(path), _RESTORE)
    except FileNotFoundError:
        return ForgottenList()
    if body.get("format_version") != FORMAT_VERSION:
        raise FormatVersionError(
            "the list of forgotten scans has an unknown format_version",
            where=str(path),
            do="use the version of medfuncta-dist that wrote it, or a newer one",
        )
    return ForgottenList(tuple(typed(_File, body, "the list of forgotten scans", str(path), _RESTORE).acts))


def write_list(folder: Path, found: ForgottenList) -> None:
    """Replace the list, whole or not at all; only its owner can read it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replacing(folder / LIST_FILE) as part:
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))
        part.write_bytes(canonical_json({"format_version": FORMAT_VERSION, "acts": [asdict(a) for a in found.acts]}))


def keep_act(folder: Path, act: Act) -> None:
    """Write the present state of an act into the list."""
    write_list(folder, read_list(folder).with_act(act))


def done(act: Act, equal: Iterable[str] = ()) -> Act:
    """The act when all is deleted and proved. ``equal``: pixels that other scans have, too, which are still packed."""
    others = set(equal)
    return replace(act, pixels=tuple(p for p in act.pixels if p not in others), latents=(), delete=(), done=True)
