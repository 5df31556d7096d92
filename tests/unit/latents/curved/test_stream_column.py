from __future__ import annotations

import io
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medfuncta_dist.errors import FormatVersionError, IntegrityError, MedfunctaError
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.curved import stored_tables, stream_column
from medfuncta_dist.latents.curved.stored_tables import OpenTables, open_tables, write_tables
from medfuncta_dist.latents.table_format import Rows, Storage
from medfuncta_dist.storage.object_store import ObjectStore
from tests.unit.latents.curved.made_tables import LATENT, tables

FOLDER, IDENTITY = "latents", {"network": "n" * 64, "fit": "f" * 64}


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return ObjectStore(str(tmp_path))


@pytest.fixture
def opened(store: ObjectStore) -> OpenTables:
    return open_tables(store, FOLDER, write_tables(store, FOLDER, tables().to_bytes()))


def symbols(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(-3, 4, (count, LATENT)).astype(np.int32)


def part_of(opened: OpenTables, count: int) -> pa.Table:
    rows = Rows(
        split="train",
        keys=[f"{n:064x}" for n in range(count)],
        labels=[[n] for n in range(count)],
        latents=symbols(count),
        scales=None,
        psnr=np.full(count, 30, np.float32),
        below_min=np.zeros(count, bool),
        steps=np.full(count, 1, np.int32),
        windows=[[0.0, 1.0]] * count,
        spacings=[[1.0]] * count,
        affines=[None] * count,
        modalities=["MR"] * count,
        slices=[None] * count,
    )
    return table_format.part_table(rows, LATENT, "curved", IDENTITY, None, opened)


def test_a_part_is_read_as_the_float32_latents_of_its_symbols(store: ObjectStore, opened: OpenTables) -> None:
    part = table_format.write_part(store, FOLDER, part_of(opened, 9))
    read = table_format.read_part(store, FOLDER, part)
    assert (table_format.latents_of(read) == opened.tables.latents(symbols(9))).all()
    table_format.check_schema(read.schema, "read")
    assert table_format.storage_of(read) == Storage("float32", LATENT)
    stored = table_format.read_stored_part(store, FOLDER, part)
    assert stored.equals(part_of(opened, 9))
    assert table_format.storage_of(stored) == Storage("curved", LATENT)
    assert table_format.storage_of(stored.schema).read_type == "float32"
    assert table_format.read_part(store, FOLDER, part, ["key"]).column_names == ["key"]
    some = table_format.read_part(store, FOLDER, part, ["latent"], [7, 2])
    assert (table_format.latents_of(some) == opened.tables.latents(symbols(9)[[7, 2]])).all()
    assert table_format.check_part(store, FOLDER, part) == 9


def test_equal_rows_give_equal_bytes_and_a_byte_of_length_each(opened: OpenTables) -> None:
    data = table_format.table_bytes(part_of(opened, 500))
    assert data == table_format.table_bytes(part_of(opened, 500))
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    (column,) = [group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "latent"]
    streams = sum(map(len, part_of(opened, 500)["latent"].to_pylist()))
    assert streams < column.total_compressed_size < streams + 1.2 * 500 + 200


@pytest.mark.parametrize("version", ["1", "2", "4"])
def test_other_versions_are_not_mistaken_for_it(opened: OpenTables, version: str) -> None:
    table = part_of(opened, 2)
    other = table.replace_schema_metadata({**table.schema.metadata, b"format_version": version.encode()})
    with pytest.raises(FormatVersionError if version == "4" else IntegrityError):
        table_format.parse_table(table_format.table_bytes(other), "here")


@pytest.mark.parametrize(("name", "value"), [(b"tables", b"x"), (b"numbers", b"0"), (b"numbers", b"99999999")])
def test_metadata_that_names_no_tables_is_refused(opened: OpenTables, name: bytes, value: bytes) -> None:
    table = part_of(opened, 2)
    other = table.replace_schema_metadata({**table.schema.metadata, name: value})
    with pytest.raises(IntegrityError, match="does not name its tables"):
        table_format.parse_table(table_format.table_bytes(other), "here")


def test_tables_of_another_length_are_refused(store: ObjectStore, opened: OpenTables) -> None:
    table = part_of(opened, 2)
    other = table.replace_schema_metadata({**table.schema.metadata, b"numbers": b"11"})
    part = table_format.write_part(store, FOLDER, other)
    with pytest.raises(IntegrityError, match="of another length"):
        table_format.read_part(store, FOLDER, part)


def test_parts_of_other_tables_are_not_rows_of_one_table(opened: OpenTables) -> None:
    table = part_of(opened, 2)
    other = table.replace_schema_metadata({**table.schema.metadata, b"tables": b"0" * 64})
    with pytest.raises(IntegrityError, match="in different ways"):
        table_format.require_alike([table.schema, other.schema])


def test_a_part_that_would_take_gigabytes_is_refused_before_it_does() -> None:
    stream_column.require_size(2**19, 1024)
    with pytest.raises(IntegrityError, match="1024 numbers each") as caught:
        stream_column.require_size(2**19 + 1, 1024)
    assert "scans_per_task" in caught.value.do


def test_damaged_parts_are_an_error_or_rows_of_the_same_kind(opened: OpenTables) -> None:
    good = table_format.table_bytes(part_of(opened, 20))
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(good)
        damaged[int(rng.integers(len(good)))] ^= 1 << int(rng.integers(8))
        with suppress(MedfunctaError):
            table = table_format.parse_table(bytes(damaged), "here")
            found = stream_column.decoded(table, opened, {}, "here")
            assert table_format.latents_of(found).shape[1] == LATENT


def test_tables_are_read_once_per_process(store: ObjectStore, opened: OpenTables) -> None:
    assert open_tables(store, FOLDER, opened.digest) is opened
    stored_tables._opened.cache_clear()
    assert open_tables(store, FOLDER, opened.digest) is not opened
