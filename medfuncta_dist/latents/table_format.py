"""The latent table's format: Parquet parts, one row per scan, equal rows giving equal bytes.

Columns: ``key``, ``split``, ``labels``, ``latent`` (float32, float16 or int8, P numbers), for int8 ``scale`` (what the
numbers are multiples of), ``psnr`` (dB, of the latent as stored), ``below_min`` (the PSNR is below ``fit.min_psnr``),
``steps``, ``window_low`` and ``window_high`` (scan units that 0 and 1 stand for), ``spacing`` (mm or s per voxel),
``affine`` (4 x 4, row by row; null where the scan has none), ``modality``, ``slice``. The file's schema metadata holds
``format_version``, ``kind``, and the digests of the shared network and of the fit settings.

int8 latents of a basis field are counted in each number's deviation over the training scans, which the metadata holds
as ``deviations`` (P float32 numbers, little-endian, base64): such a file has format_version 2, all others 1.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import parquet
from medfuncta_dist.storage.parsing.strict_json import RESTORE

FORMAT_VERSION, WITH_DEVIATIONS = "1", "2"
DEVIATIONS = "deviations"
"""Name in the metadata."""
KIND = "latents"
STORAGE_TYPES = ("float32", "float16", "int8")
LARGEST_ROW = 2**20  # bytes, decompressed: a latent of 262 144 numbers
ROW_GROUP = 1024  # rows: 8 MB of float32 latents at P = 2048, so a reader needs little memory
READERS = 8  # parts fetched at a time: storage latency, not bandwidth, bounds small parts


@dataclass(frozen=True)
class PartRef:
    """Where a part is, and what its bytes must be. ``path`` is relative to the latent table's folder."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Row:
    """One fitted scan. ``latent`` is a vector of P numbers, in the type that it is stored in."""

    key: str
    split: str
    labels: tuple[int, ...]
    latent: np.ndarray
    psnr: float
    below_min: bool
    steps: int
    window: tuple[float, float]
    spacing: tuple[float, ...]
    affine: tuple[float, ...] | None
    modality: str
    slice_index: int | None
    scale: float | None = None
    """For int8: what the latent's numbers are multiples of."""
    deviations: np.ndarray | None = None
    """For int8: what each number is counted in besides, where it is; the same for all rows of a part."""


def schema(latent: int, storage_type: str, identity: dict[str, str]) -> pa.Schema:
    """Columns of a part with latents of ``latent`` numbers; ``identity`` goes into the metadata beside the version."""
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("latent", pa.list_(_number(storage_type), latent), nullable=False),
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
    version = WITH_DEVIATIONS if DEVIATIONS in identity else FORMAT_VERSION
    return pa.schema(fields, {"format_version": version, "kind": KIND, **identity})


def part_table(rows: Sequence[Row], latent: int, storage_type: str, identity: dict[str, str]) -> pa.Table:
    """Rows as a table, in the order given."""
    columns: list[Any] = [
        [row.key for row in rows],
        [row.split for row in rows],
        [list(row.labels) for row in rows],
        _latent_column([row.latent for row in rows], latent, storage_type),
        *([[row.scale for row in rows]] if storage_type == "int8" else []),
        [row.psnr for row in rows],
        [row.below_min for row in rows],
        [row.steps for row in rows],
        [row.window[0] for row in rows],
        [row.window[1] for row in rows],
        [list(row.spacing) for row in rows],
        [None if row.affine is None else list(row.affine) for row in rows],
        [row.modality for row in rows],
        [row.slice_index for row in rows],
    ]
    shared = rows[0].deviations if rows and storage_type == "int8" else None
    counted = {} if shared is None else {DEVIATIONS: base64.b64encode(np.asarray(shared, "<f4").tobytes()).decode()}
    part_schema = schema(latent, storage_type, identity | counted)
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
    where = f"{folder}/{part.path}"
    data = store.read(where, limit=part.size)
    if len(data) != part.size or sha256_bytes(data) != part.sha256:
        raise IntegrityError(
            "a part of the latent table is not the one that was committed",
            where=store.uri(where),
            do="delete this part and the commit record that names it, then run fit again",
        )
    return parse_table(data, store.uri(where), columns)


def parse_table(data: bytes, where: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Parquet bytes of a part, or of an exported table, as a table; refuses what this version does not read."""
    file = parquet.open_parquet(data, where, row_bytes=LARGEST_ROW)
    metadata = file.schema_arrow.metadata or {}
    version, kind = metadata.get(b"format_version"), metadata.get(b"kind")
    if version not in (FORMAT_VERSION.encode(), WITH_DEVIATIONS.encode()) or kind != KIND.encode():
        raise FormatVersionError(
            f"format_version {_text(version)} of kind {_text(kind)} is not a latent table of version {FORMAT_VERSION} "
            f"or {WITH_DEVIATIONS}",
            where=where,
            do="read it with the version of medfuncta-dist that wrote it",
        )
    _check_columns(file.schema_arrow, where)
    _check_deviations(file.schema_arrow, version == WITH_DEVIATIONS.encode(), where)
    if columns is not None and "latent" in columns and "scale" in file.schema_arrow.names:
        columns = [*columns, "scale"]  # int8 numbers mean nothing without their scale
    return parquet.read(file, where, None if columns is None else list(dict.fromkeys(columns)))


def _check_columns(found: pa.Schema, where: str) -> None:
    latent = found.field("latent").type if "latent" in found.names else pa.null()
    size = max(0, latent.list_size) if pa.types.is_fixed_size_list(latent) else 0  # a damaged one may be negative
    if not any(found.equals(schema(size, storage_type, {})) for storage_type in STORAGE_TYPES):
        raise IntegrityError("a latent table with other columns than expected", where=where, do=RESTORE)


def _check_deviations(found: pa.Schema, expected: bool, where: str) -> None:
    """There, where the version says so: one positive number for each of an int8 latent."""
    try:
        deviations = _deviations(found)
    except (ValueError, binascii.Error) as error:
        raise IntegrityError("a latent table whose deviations are no numbers", where=where, do=RESTORE) from error
    if deviations is None:
        fits = not expected
    else:
        latent = found.field("latent").type
        fits = expected and latent.value_type == pa.int8() and len(deviations) == latent.list_size
        fits = fits and bool(np.all(np.isfinite(deviations) & (deviations >= 0)))
    if not fits:
        raise IntegrityError("a latent table with other deviations than its latents need", where=where, do=RESTORE)


def _deviations(found: pa.Schema) -> np.ndarray | None:
    text = (found.metadata or {}).get(DEVIATIONS.encode())
    return None if text is None else np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)


def read_parts(
    store: ObjectStore, folder: str, parts: Iterable[PartRef], columns: Sequence[str] | None = None
) -> list[pa.Table]:
    """Several parts, fetched in parallel, in the order given."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda part: read_part(store, folder, part, columns), parts))


def sort_by_key(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of all rows, sorted by key. IntegrityError when a key occurs twice."""
    whole = pa.concat_tables(tables)
    keys = whole["key"]
    repeated = len(keys) - len(pc.unique(keys))
    if repeated:
        raise IntegrityError(
            f"{repeated} keys occur more than once in the latent table",
            do="run `verify`: two shards of the data set may hold the same scan",
        )
    return whole.take(pc.sort_indices(keys)).combine_chunks()


def export(table: pa.Table, path: Path) -> str:
    """Write one Parquet file of a whole table; returns its SHA-256. Equal tables give equal files."""
    data = table_bytes(table)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(data)
    temporary.replace(path)
    return sha256_bytes(data)


def latents_of(table: pa.Table) -> np.ndarray:
    """The latents as one float32 array (scan, latent): the ``latent`` column, times the scale where there is one, and
    each number's deviation where the table has those."""
    column = table["latent"].combine_chunks()
    width = column.type.list_size
    flat = np.array(column.flatten().to_numpy(zero_copy_only=False), np.float32)  # a copy: torch wants it writable
    latents = flat.reshape(-1, width)
    if "scale" not in table.column_names:
        return latents
    scaled: np.ndarray = latents * table["scale"].to_numpy()[:, None]
    deviations = _deviations(table.schema)
    return scaled if deviations is None else scaled * deviations


def _latent_column(latents: Sequence[np.ndarray], latent: int, storage_type: str) -> pa.Array:
    flat = np.concatenate(latents) if latents else np.zeros(0)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.astype(storage_type), _number(storage_type)), latent)


def _number(storage_type: str) -> pa.DataType:
    return {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}[storage_type]


def _text(value: bytes | None) -> str:
    return "(none)" if value is None else f"'{value[:40].decode(errors='replace')}'"
