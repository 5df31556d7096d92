"""The catalogue of a latent table: a narrow row per scan, sorted by key, to find one and to list all without the parts.

    <table>/catalogue/<sha256>.parquet                 up to ``FILE_ROWS`` rows each; keys rise from file to file
    <table>/catalogue/<commits24>[-g<generation>].json   commit record, written last: parts, files, first keys

``part`` is a scan's part, by its place in the record's ``parts``, and ``row`` its row there. It belongs to the commit
records whose names it was made from: where others are there now, it is not used. Equal tables have equal catalogues.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.latents.latent_types import StorageType
from medfuncta_dist.latents.patch_format.row_groups import GroupedRef
from medfuncta_dist.latents.table_format import PartRef, Storage
from medfuncta_dist.storage.commit_record import FORMAT_VERSION as FIRST_RECORD
from medfuncta_dist.storage.commit_record import PATCHES_VERSION as PATCHES_RECORD
from medfuncta_dist.storage.digest import digest_json

KIND = "catalogue"
FORMAT_VERSION = "1"
FOLDER = "catalogue"
NAMES = re.compile(r"[0-9a-f]{24}(-g\d{9,})?\.json")
"""Names of its commit records: the first digits of ``commits``, and the generation."""
ROW_GROUP = 8192
"""Rows that are read to find a key: about 350 kB."""
FILE_ROWS = 2**20
LARGEST_ROW = 2**12
"""Bytes, decompressed."""
PATCHED = ("patches", "worst_psnr", "worst_patch")
KEY, NARROW = "key", ("split", "labels", "psnr", "below_min", "part", "row")

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("psnr", pa.float32(), nullable=False),
        pa.field("below_min", pa.bool_(), nullable=False),
        pa.field("part", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
    ],
    {"format_version": FORMAT_VERSION, "kind": KIND},
)


PATCHED_VERSION = "2"
PATCHED_SCHEMA = pa.schema(
    [
        *SCHEMA,
        pa.field("patches", pa.int32(), nullable=False),
        pa.field("worst_psnr", pa.float32(), nullable=False),
        pa.field("worst_patch", pa.int32(), nullable=False),
        pa.field("scan_row", pa.int32(), nullable=False),
    ],
    {"format_version": PATCHED_VERSION, "kind": KIND},
)
"""Of a table of patches: a scan's patches begin at ``row`` of ``part``, and go on in the parts that follow it in the
record; its facts are row ``scan_row`` of that part's own part of scans. ``psnr`` is over all points of all patches."""


@dataclass(frozen=True)
class CataloguedPart:
    """A part of the table. ``path`` is relative to the table's folder, as in the part's commit record."""

    path: str
    sha256: str
    size: int
    rows: int
    patches: PatchedPart | None = None
    """Of a part of patches."""

    @property
    def ref(self) -> PartRef:
        """As the ledger names it."""
        return PartRef(self.path, self.sha256, self.size)

    @property
    def grouped(self) -> GroupedRef:
        """The same of a part of patches, to read some of its rows."""
        assert self.patches is not None
        return GroupedRef(self.path, self.sha256, self.size, self.patches.footer, self.patches.footer_sha256)

    def body(self) -> dict[str, Any]:
        """As JSON objects."""
        return {name: value for name, value in asdict(self).items() if name != "patches" or value is not None}


@dataclass(frozen=True)
class PatchedPart:
    """What there is besides of a part of patches: its footer, as in its commit record, and its part of scans."""

    footer: int
    footer_sha256: str
    scans: PartRef


@dataclass(frozen=True)
class CataloguedGrid:
    """The grids of a table of patches."""

    size: tuple[int, ...]
    overlap: tuple[int, ...]


@dataclass(frozen=True)
class CatalogueFile:
    """A file of rows. ``path`` is relative to the table's folder."""

    path: str
    sha256: str
    size: int
    rows: int
    footer: int
    """Bytes of the Parquet footer, with the eight that follow it, and in the next field their SHA-256."""
    footer_sha256: str
    firsts: tuple[str, ...]
    """The first key of each row group of ``ROW_GROUP`` rows, and in the next field the SHA-256 of its bytes."""
    groups: tuple[str, ...]


@dataclass(frozen=True)
class CatalogueRecord:
    """The body of a catalogue's commit record."""

    commits: str
    """SHA-256 over the names of the ledger's records that it was made from."""
    rows: int
    storage_type: StorageType
    """How latents are stored, and in the next field how many numbers each has."""
    numbers: int
    parts: tuple[CataloguedPart, ...]
    files: tuple[CatalogueFile, ...]
    grid: CataloguedGrid | None = None
    """Of a table of patches, whose catalogue has a version of its own."""

    @property
    def version(self) -> int:
        """Of the record."""
        return FIRST_RECORD if self.grid is None else PATCHES_RECORD

    @property
    def storage(self) -> Storage:
        """How latents are stored."""
        return Storage(self.storage_type, self.numbers)

    def body(self) -> dict[str, Any]:
        """As JSON objects."""
        body = asdict(self) | {"parts": [part.body() for part in self.parts]}
        return {name: value for name, value in body.items() if name != "grid" or value is not None}


def commit_names(paths: Iterable[str], folder: str, shards: Iterable[str] | None) -> list[str]:
    """Of the objects of a table's folder, the names of the ledger's records, sorted; None for those of all shards."""
    start = f"{folder}/commits/"
    names = sorted(path.removeprefix(start) for path in paths if path.startswith(start))
    known = None if shards is None else {shard[:24] for shard in shards}
    return [n for n in names if latent_ledger.NAMES.fullmatch(n) and (known is None or n[:24] in known)]


def names_digest(names: Iterable[str]) -> str:
    """SHA-256 over the names of commit records: it changes with each range that is fitted, or fitted again by another
    driver."""
    return digest_json(sorted(names))


def record_path(folder: str, commits: str, generation: int) -> str:
    """Path of a catalogue's commit record. Two drivers never share a name."""
    return f"{folder}/{FOLDER}/{commits[:24]}{f'-g{generation:09d}' if generation else ''}.json"
