"""The format of a part of patches: Parquet, a row per patch, in the order of the shard's scans and of their patches.

Columns: ``key`` (of the scan), ``patch`` (its number in the scan's grid), ``latent`` and for int8 ``scale``, as in a
table without patches, ``psnr`` (dB, of the latent as stored, over the points that lie in the scan), ``below_min``,
``steps``, ``squared_error`` (summed over those points, the mean over channels, of values in [0, 1]; as ``psnr`` says
it) and ``points`` (their number). The schema metadata holds ``format_version`` 3, ``kind``, ``network``, ``fit``,
``precision`` and ``units`` as a table without patches has them, and ``size`` and ``overlap`` of the grids. Row groups
are small (``row_groups.py``), so that a region of a scan costs little more than its own patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int, Shaped

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.patch_format.row_groups import GroupedRef, write_grouped
from medfuncta_dist.latents.table_format import PartRef, number_type
from medfuncta_dist.latents.table_units import Units, read_units, write_units
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.strict_json import RESTORE

KIND = "patch latents"
FORMAT_VERSION = "3"
NUMBER_TYPES = ("float32", "float16", "int8")
"""Those in which patches are stored."""
GROUP_BYTES = 2**14
"""Of a row group's latents: the least that is read. Its entry in the footer is a few percent of that."""
LARGEST_GROUP = 1024
"""Rows."""
SIZE, OVERLAP = "size", "overlap"


@dataclass(frozen=True)
class PatchRows:
    """Fitted patches, column by column, in the order of the table."""

    keys: Sequence[str]
    patches: Int[np.ndarray, " row"]
    latents: Shaped[np.ndarray, "row latent"]
    """In the type that is stored."""
    scales: Float[np.ndarray, " row"] | None
    psnr: Float[np.ndarray, " row"]
    below_min: Bool[np.ndarray, " row"]
    steps: Int[np.ndarray, " row"]
    squared_errors: Float[np.ndarray, " row"]
    points: Int[np.ndarray, " row"]


def grid_metadata(size: Sequence[int], overlap: Sequence[int]) -> dict[str, str]:
    """What the metadata says of the grids."""
    return {SIZE: ",".join(map(str, size)), OVERLAP: ",".join(map(str, overlap))}


def grid_of(schema: pa.Schema, where: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Size of a patch, and overlap. IntegrityError where the metadata does not tell them."""
    metadata = schema.metadata or {}
    try:
        size, overlap = (tuple(map(int, metadata[name.encode()].split(b","))) for name in (SIZE, OVERLAP))
    except (KeyError, ValueError) as error:
        raise IntegrityError("a part does not tell the grid of its patches", where=where, do=RESTORE) from error
    sizes_fit = len(size) == len(overlap) and min(size) >= 2
    if not sizes_fit or not all(0 <= 2 * shared <= n for n, shared in zip(size, overlap, strict=True)):
        raise IntegrityError("a part tells a grid of patches that there is not", where=where, do=RESTORE)
    return size, overlap


def schema(latent: int, storage_type: str, identity: dict[str, str], units: Units | None = None) -> pa.Schema:
    """Columns of a part of patches; ``identity`` goes into the metadata beside kind and version."""
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("patch", pa.int32(), nullable=False),
        pa.field("latent", pa.list_(number_type(storage_type), latent), nullable=False),
        *([pa.field("scale", pa.float32(), nullable=False)] if storage_type == "int8" else []),
        pa.field("psnr", pa.float32(), nullable=False),
        pa.field("below_min", pa.bool_(), nullable=False),
        pa.field("steps", pa.int32(), nullable=False),
        pa.field("squared_error", pa.float64(), nullable=False),
        pa.field("points", pa.int64(), nullable=False),
    ]
    scaled = write_units(units) if units is not None and storage_type == "int8" else {}
    return pa.schema(fields, {"format_version": FORMAT_VERSION, "kind": KIND, **identity, **scaled})


def part_table(
    rows: PatchRows, latent: int, storage_type: str, identity: dict[str, str], units: Units | None = None
) -> pa.Table:
    """Rows as a table, in the order given."""
    numbers = pa.array(rows.latents.astype(storage_type, copy=False).ravel(), number_type(storage_type))
    columns = [
        rows.keys,
        rows.patches,
        pa.FixedSizeListArray.from_arrays(numbers, latent),
        *([rows.scales] if storage_type == "int8" else []),
        rows.psnr,
        rows.below_min,
        rows.steps,
        rows.squared_errors,
        rows.points,
    ]
    part_schema = schema(latent, storage_type, identity, units)
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns, part_schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=part_schema)


def write_part(store: ObjectStore, folder: str, table: pa.Table) -> GroupedRef:
    """Put a part of patches under its content address in ``folder``."""
    latent = table.schema.field("latent").type
    row_bytes = latent.list_size * latent.value_type.bit_width // 8
    return write_grouped(store, folder, table, min(LARGEST_GROUP, max(1, GROUP_BYTES // row_bytes)))


def read_part(store: ObjectStore, folder: str, part: PartRef, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole part of patches. IntegrityError when it is not the committed one; FormatVersionError for another
    version."""
    data = table_format.verified_bytes(store, folder, part)
    return table_format.parse_table(data, store.uri(f"{folder}/{part.path}"), columns, check_schema)


def check_schema(found: pa.Schema, where: str) -> None:
    """FormatVersionError unless it is that of a part of patches of the version that this one reads; IntegrityError for
    other columns."""
    require_kind(found, KIND, FORMAT_VERSION, where)
    latent = found.field("latent").type if "latent" in found.names else pa.null()
    width = max(0, latent.list_size) if pa.types.is_fixed_size_list(latent) else 0
    types = [one for one in NUMBER_TYPES if found.equals(schema(width, one, {}))]
    if not types:
        raise IntegrityError("a part of patches with other columns than expected", where=where, do=RESTORE)
    if read_units(found.metadata, width, where) is not None and types != ["int8"]:
        raise IntegrityError("units of numbers that are not int8", where=where, do=RESTORE)
    grid_of(found, where)


def require_kind(found: pa.Schema, kind: str, version: str, where: str) -> None:
    """FormatVersionError for a file of another kind or version."""
    metadata = found.metadata or {}
    there = metadata.get(b"kind"), metadata.get(b"format_version")
    if there != (kind.encode(), version.encode()):
        raise FormatVersionError(
            f"format_version {there[1]!r} of kind {there[0]!r} is not version {version} of kind '{kind}'",
            where=where,
            do="read it with the version of medfuncta-dist that wrote it",
        )
