"""The latent table's format: Parquet parts, one row per scan, equal rows giving equal bytes.

Columns: ``key``, ``split``, ``labels``, ``latent`` (float32, float16 or int8, P numbers), for int8 ``scale`` (what the
numbers are multiples of, times a unit per number where the metadata has ``units``), ``psnr`` (dB, of the latent as
stored), ``below_min`` (the PSNR is below ``fit.min_psnr``), ``steps``, ``window_low`` and ``window_high`` (scan units
that 0 and 1 stand for), ``spacing`` (mm or s per voxel), ``affine`` (4 x 4, row by row; null where the scan has none),
``modality``, ``slice``. The schema metadata holds ``format_version``, ``kind``, the digests of the shared network
and of the fit settings, in parts that a GPU made its ``precision`` (``meta.precision``), and for int8 latents of a
basis field ``units`` (``table_units.py``). A table with units has version 2: earlier versions, which do not know them,
would read other latents from it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int, Shaped

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.latents.latent_types import StorageType
from medfuncta_dist.latents.table_units import KEY as UNITS
from medfuncta_dist.latents.table_units import Units, read_units, write_units
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import parquet
from medfuncta_dist.storage.parsing.strict_json import RESTORE
from medfuncta_dist.storage.promised import REPAIR, read_promised

Check = Callable[[pa.Schema, str], None]
"""Refuses a schema that is not one of its kind; the second argument says where it is from."""
FORMAT_VERSION = "1"
VERSION_WITH_UNITS = "2"
KIND = "latents"
STORAGE_TYPES: tuple[StorageType, ...] = get_args(StorageType)
LARGEST_ROW = 2**20  # bytes, decompressed: a latent of 262 144 numbers
ROW_GROUP = 1024  # rows: 8 MB of float32 latents at P = 2048, so a reader needs little memory
FIT_AGAIN = f"{REPAIR}: it fits the scans of this part again, and only them"
READERS = 8  # parts fetched at a time: storage latency, not bandwidth, bounds small parts


@dataclass(frozen=True)
class Storage:
    """How a table stores latents: the type, and how many numbers of each."""

    storage_type: StorageType
    numbers: int


@dataclass(frozen=True)
class PartRef:
    """Where a part is, and what its bytes must be. ``path`` is relative to the latent table's folder."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Rows:
    """Fitted scans of one split, column by column: lists and arrays of equal length, in the order of the table."""

    split: str
    keys: Sequence[str]
    labels: Sequence[Sequence[int]]
    latents: Shaped[np.ndarray, "row latent"]
    """In the type that is stored."""
    scales: Float[np.ndarray, " row"] | None
    """For int8: what each latent's numbers are multiples of."""
    psnr: Float[np.ndarray, " row"]
    below_min: Bool[np.ndarray, " row"]
    steps: Int[np.ndarray, " row"]
    windows: Sequence[Sequence[float]]
    spacings: Sequence[Sequence[float]]
    affines: Sequence[Sequence[float] | None]
    modalities: Sequence[str]
    slices: Sequence[int | None]


def schema(latent: int, storage_type: str, identity: dict[str, str], units: Units | None = None) -> pa.Schema:
    """Columns of a part with latents of ``latent`` numbers; ``identity`` goes into the metadata beside the version.

    ``units``: what int8 numbers count in, times each scan's scale; of the other types there are none.
    """
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("latent", pa.list_(number_type(storage_type), latent), nullable=False),
        *([pa.field("scale", pa.float32(), nullable=False)] if storage_type == "int8" else []),
        pa.field("psnr", pa.float32(), nullable=False),
        pa.field("below_min", pa.bool_(), nullable=False),
        pa.field("steps", pa.int32(), nullable=False),
        pa.field("window_low", pa.float64(), nullable=False),
        pa.field("window_high", pa.float64(), nullable=False),
        pa.field("spacing", pa.list_(pa.float64()), nullable=False),
        pa.field("affine", pa.list_(pa.float64())),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("slice", pa.int32()),
    ]
    if units is None or storage_type != "int8":
        return pa.schema(fields, {"format_version": FORMAT_VERSION, "kind": KIND, **identity})
    return pa.schema(fields, {"format_version": VERSION_WITH_UNITS, "kind": KIND, **identity, **write_units(units)})


def part_table(
    rows: Rows, latent: int, storage_type: str, identity: dict[str, str], units: Units | None = None
) -> pa.Table:
    """Rows as a table, in the order given."""
    numbers = pa.array(rows.latents.astype(storage_type, copy=False).ravel(), number_type(storage_type))
    columns: list[Any] = [
        rows.keys,
        [rows.split] * len(rows.keys),
        rows.labels,
        pa.FixedSizeListArray.from_arrays(numbers, latent),
        *([rows.scales] if storage_type == "int8" else []),
        rows.psnr,
        rows.below_min,
        rows.steps,
        [low for low, _ in rows.windows],
        [high for _, high in rows.windows],
        rows.spacings,
        rows.affines,
        rows.modalities,
        rows.slices,
    ]
    part_schema = schema(latent, storage_type, identity, units)
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns, part_schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=part_schema)


def table_bytes(table: pa.Table) -> bytes:
    """Parquet bytes; the same table always gives the same bytes (they hold no time or machine)."""
    buffer = io.BytesIO()
    # Latents and keys are close to noise: a dictionary of either would only be a second copy.
    pq.write_table(table, buffer, row_group_size=ROW_GROUP, use_dictionary=["split", "modality"], compression="ZSTD")
    return buffer.getvalue()


def write_part(store: ObjectStore, folder: str, table: pa.Table) -> PartRef:
    """Put a part under its content address ``parts/<sha256>.parquet`` in ``folder``."""
    data = table_bytes(table)
    digest = sha256_bytes(data)
    path = f"parts/{digest}.parquet"
    store.write(f"{folder}/{path}", data)
    return PartRef(path, digest, len(data))


def read_part(store: ObjectStore, folder: str, part: PartRef, columns: Sequence[str] | None = None) -> pa.Table:
    """A part's table. IntegrityError when it is not the committed one; FormatVersionError for another version."""
    return parse_table(verified_bytes(store, folder, part), store.uri(f"{folder}/{part.path}"), columns)


def verified_bytes(store: ObjectStore, folder: str, part: PartRef) -> bytes:
    """A part's bytes. IntegrityError when it is not the committed one."""
    where = f"{folder}/{part.path}"
    data = read_promised(store, where, "a part of the latent table", FIT_AGAIN, limit=part.size)
    if len(data) != part.size or sha256_bytes(data) != part.sha256:
        raise IntegrityError(
            "a part of the latent table is not the one that was committed",
            where=store.uri(where),
            do=FIT_AGAIN,
        )
    return data


def parse_table(data: bytes, where: str, columns: Sequence[str] | None = None, check: Check | None = None) -> pa.Table:
    """Parquet bytes of a part, or of an exported table, as a table; refuses what this version does not read.

    ``check``: of another kind of part; None: ``check_schema``.
    """
    file = parquet.open_parquet(data, where, row_bytes=LARGEST_ROW)
    (check or check_schema)(file.schema_arrow, where)
    if columns is not None and "latent" in columns and "scale" in file.schema_arrow.names:
        columns = [*columns, "scale"]  # int8 numbers mean nothing without their scale
    return parquet.read(file, where, None if columns is None else list(dict.fromkeys(columns)))


def check_schema(found: pa.Schema, where: str) -> None:
    """FormatVersionError unless it is that of a latent table of a version that this one reads; IntegrityError for other
    columns."""
    metadata = found.metadata or {}
    version, kind = metadata.get(b"format_version"), metadata.get(b"kind")
    known = [FORMAT_VERSION, VERSION_WITH_UNITS]
    if version not in [one.encode() for one in known] or kind != KIND.encode():
        raise FormatVersionError(
            f"format_version {_text(version)} of kind {_text(kind)} is not a latent table of version "
            + " or ".join(known),
            where=where,
            do="read it with the version of medfuncta-dist that wrote it",
        )
    _check_columns(found, where)
    _check_units(found, version, where)


def _check_columns(found: pa.Schema, where: str) -> None:
    latent = found.field("latent").type if "latent" in found.names else pa.null()
    size = max(0, latent.list_size) if pa.types.is_fixed_size_list(latent) else 0  # a damaged one may be negative
    if not any(found.equals(schema(size, storage_type, {})) for storage_type in STORAGE_TYPES):
        raise IntegrityError("a latent table with other columns than expected", where=where, do=RESTORE)


def _check_units(found: pa.Schema, version: bytes, where: str) -> None:
    """A table has units exactly if its version says so, and only of int8 numbers."""
    units = read_units(found.metadata, found.field("latent").type.list_size, where)
    if (units is not None) != (version == VERSION_WITH_UNITS.encode()) or (units is not None and not _is_int8(found)):
        what = "a latent table whose units do not belong to its version and columns"
        raise IntegrityError(what, where=where, do=RESTORE)


def _is_int8(found: pa.Schema) -> bool:
    return "scale" in found.names


def storage_of(table: pa.Table | pa.Schema) -> Storage:
    """How a table with the column ``latent`` stores it."""
    column = table.field("latent").type
    types = {number_type(storage_type): storage_type for storage_type in STORAGE_TYPES}
    return Storage(types[column.value_type], column.list_size)


def read_parts(
    store: ObjectStore, folder: str, parts: Iterable[PartRef], columns: Sequence[str] | None = None
) -> list[pa.Table]:
    """Several parts, fetched in parallel, in the order given."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda part: read_part(store, folder, part, columns), parts))


def sort_by_key(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of all rows, sorted by key. IntegrityError when a key occurs twice, or when parts differ in how they
    store latents."""
    require_alike([table.schema for table in tables])
    whole = pa.concat_tables(tables)
    keys = whole["key"]
    repeated = len(keys) - len(pc.unique(keys))
    if repeated:
        raise IntegrityError(
            f"{repeated} keys occur more than once in the latent table",
            do="run `verify`: two shards of the data set may hold the same scan",
        )
    return whole.take(pc.sort_indices(keys)).combine_chunks()


def require_alike(schemas: Sequence[pa.Schema]) -> None:
    """IntegrityError where parts differ: latents of other units, types or lengths are not rows of one table."""
    first = schemas[0]
    units = (first.metadata or {}).get(UNITS.encode())
    for other in schemas[1:]:
        if not other.equals(first) or (other.metadata or {}).get(UNITS.encode()) != units:
            raise IntegrityError(
                "the parts of the latent table store latents in different ways",
                do="delete this latent table's folder and run fit again",
            )


def export(table: pa.Table, path: Path) -> str:
    """Write one Parquet file of a whole table; returns its SHA-256. Equal tables give equal files."""
    data = table_bytes(table)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(data)
    temporary.replace(path)
    return sha256_bytes(data)


def latents_of(table: pa.Table) -> np.ndarray:
    """The latents as one float32 array (scan, latent): the ``latent`` column, times scale and units where
    there are any."""
    column = table["latent"].combine_chunks()
    width = column.type.list_size
    flat = np.array(column.flatten().to_numpy(zero_copy_only=False), np.float32)  # a copy: torch wants it writable
    latents = flat.reshape(-1, width)
    if "scale" not in table.column_names:
        return latents
    scaled: np.ndarray = latents * table["scale"].to_numpy()[:, None]
    units = read_units(table.schema.metadata, width)
    return scaled if units is None else scaled * units


def number_type(storage_type: str) -> pa.DataType:
    """The type of a stored latent's numbers."""
    return {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}[storage_type]


def _text(value: bytes | None) -> str:
    return "(none)" if value is None else f"'{value[:40].decode(errors='replace')}'"
