"""The format of a part of scans, beside a part of patches: Parquet, a row per scan of which a patch is there.

Columns: ``key``, ``split``, ``labels``, ``shape`` (points per axis, without the channel), ``window_low``,
``window_high``, ``spacing``, ``affine``, ``modality``, ``slice`` as in a table without patches, ``patches`` (of the
whole grid), and of those of its patches that the other part holds: ``rows`` (their number), ``first_patch``,
``first_row`` (where they begin in that part), the sums ``squared_error`` and ``points``, ``worst_psnr`` (dB) and
``worst_patch`` (the first of equals). A scan that is fitted in several ranges has a row in each, with equal facts; its
own figures are made of all of them. The schema metadata holds ``format_version`` 3, ``kind``, ``network``, ``fit``,
``size`` and ``overlap``, ``storage_type`` and ``numbers`` (of the latents), and ``min_psnr`` (dB, the limit below which
a scan is flagged).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import pyarrow as pa

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.patch_format.patch_rows import NUMBER_TYPES, grid_metadata, grid_of, require_kind
from medfuncta_dist.latents.table_format import PartRef, Storage
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.strict_json import RESTORE

KIND = "patched scans"
FORMAT_VERSION = "3"


@dataclass(frozen=True)
class TableFacts:
    """What all parts of scans of a table say alike: size and overlap of the patches, how their latents are stored, and
    the limit (dB) below which a scan is flagged."""

    size: tuple[int, ...]
    overlap: tuple[int, ...]
    storage: Storage
    min_psnr: float

    def metadata(self) -> dict[str, str]:
        """As a part of scans holds it."""
        latents = {"storage_type": self.storage.storage_type, "numbers": str(self.storage.numbers)}
        return grid_metadata(self.size, self.overlap) | latents | {"min_psnr": repr(float(self.min_psnr))}


@dataclass(frozen=True)
class ScanRow:
    """A scan of a range, fields in the order of the columns."""

    key: str
    split: str
    labels: Sequence[int]
    shape: Sequence[int]
    window_low: float
    window_high: float
    spacing: Sequence[float]
    affine: Sequence[float] | None
    modality: str
    slice: int | None
    patches: int
    rows: int
    first_patch: int
    first_row: int
    squared_error: float
    points: int
    worst_psnr: float
    worst_patch: int


def schema(identity: dict[str, str]) -> pa.Schema:
    """Columns of a part of scans; ``identity`` goes into the metadata beside kind and version."""
    columns = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("shape", pa.list_(pa.int32()), nullable=False),
        pa.field("window_low", pa.float64(), nullable=False),
        pa.field("window_high", pa.float64(), nullable=False),
        pa.field("spacing", pa.list_(pa.float64()), nullable=False),
        pa.field("affine", pa.list_(pa.float64())),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("slice", pa.int32()),
        pa.field("patches", pa.int32(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("first_patch", pa.int32(), nullable=False),
        pa.field("first_row", pa.int32(), nullable=False),
        pa.field("squared_error", pa.float64(), nullable=False),
        pa.field("points", pa.int64(), nullable=False),
        pa.field("worst_psnr", pa.float32(), nullable=False),
        pa.field("worst_patch", pa.int32(), nullable=False),
    ]
    return pa.schema(columns, {"format_version": FORMAT_VERSION, "kind": KIND, **identity})


def part_table(rows: Sequence[ScanRow], identity: dict[str, str]) -> pa.Table:
    """Rows as a table, in the order given."""
    columns = [[getattr(row, field.name) for row in rows] for field in fields(ScanRow)]
    part_schema = schema(identity)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, part_schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=part_schema)


def write_part(store: ObjectStore, folder: str, table: pa.Table) -> PartRef:
    """Put a part of scans under its content address in ``folder``."""
    return table_format.write_part(store, folder, table)


def read_part(store: ObjectStore, folder: str, part: PartRef, columns: Sequence[str] | None = None) -> pa.Table:
    """A part of scans. IntegrityError when it is not the committed one; FormatVersionError for another version."""
    data = table_format.verified_bytes(store, folder, part)
    return table_format.parse_table(data, store.uri(f"{folder}/{part.path}"), columns, check_schema)


def check_schema(found: pa.Schema, where: str) -> None:
    """FormatVersionError unless it is that of a part of scans of the version that this one reads; IntegrityError for
    other columns."""
    require_kind(found, KIND, FORMAT_VERSION, where)
    if not found.equals(schema({})):
        raise IntegrityError("a part of scans with other columns than expected", where=where, do=RESTORE)
    facts_of(found, where)


def facts_of(found: pa.Schema, where: str) -> TableFacts:
    """What the metadata of a part of scans says of its table. IntegrityError where it does not."""
    metadata = {name.decode(): value.decode() for name, value in (found.metadata or {}).items()}
    try:
        storage = Storage(metadata["storage_type"], int(metadata["numbers"]))
        limit = float(metadata["min_psnr"])
    except (KeyError, ValueError) as error:
        raise IntegrityError("a part of scans does not tell what its table is", where=where, do=RESTORE) from error
    if storage.storage_type not in NUMBER_TYPES or storage.numbers < 1:
        raise IntegrityError("a part of scans tells of latents that there are not", where=where, do=RESTORE)
    return TableFacts(*grid_of(found, where), storage, limit)
