from __future__ import annotations

import base64
import io
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.table_format import Rows
from medfuncta_dist.storage.object_store import ObjectStore

IDENTITY = {"network": "n" * 64, "fit": "f" * 64}


def latent(number: int, storage_type: str = "float32") -> np.ndarray:
    return np.random.default_rng(number).normal(size=6).astype(storage_type)


def some(count: int, storage_type: str = "float32") -> Rows:
    affine = [float(x) for x in np.diag([2, 3, 4, 1]).ravel()]
    numbers = range(count)
    return Rows(
        split="train",
        keys=[f"{n:064x}" for n in numbers],
        labels=[[n % 3] if n else [] for n in numbers],
        latents=np.stack([latent(n, storage_type) for n in numbers]),
        scales=None,
        psnr=np.arange(30, 30 + count, dtype=np.float32),
        below_min=np.arange(count) == 0,
        steps=np.full(count, 20, np.int32),
        windows=[[-1000.0, 400.0]] * count,
        spacings=[[1.0, 0.5]] * count,
        affines=[affine if n % 2 else None for n in numbers],
        modalities=["CT"] * count,
        slices=[n if n % 2 else None for n in numbers],
    )


def rows(count: int, storage_type: str = "float32") -> pa.Table:
    return table_format.part_table(some(count, storage_type), 6, storage_type, IDENTITY)


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return ObjectStore(str(tmp_path))


@pytest.mark.parametrize("storage_type", ["float32", "float16"])
def test_what_is_written_is_what_is_read(store, storage_type):
    part = table_format.write_part(store, "latents", rows(5, storage_type))
    read = table_format.read_part(store, "latents", part)
    assert read.equals(rows(5, storage_type))
    first, second = read.to_pylist()[:2]
    assert first["affine"] is None
    assert np.array_equal(np.reshape(second["affine"], (4, 4)), np.diag([2.0, 3, 4, 1]))
    assert (first["below_min"], second["below_min"], second["slice"], second["labels"]) == (True, False, 1, [1])
    assert np.array_equal(table_format.latents_of(read), some(5, storage_type).latents)


def test_int8_latents_never_come_without_their_scale(store):
    latents, scales = np.tile(np.arange(-3, 3, dtype=np.int8), (2, 1)), np.array([0.5, 1.0], np.float32)
    numbers = replace(some(2), latents=latents, scales=scales)
    part = table_format.write_part(store, "latents", table_format.part_table(numbers, 6, "int8", IDENTITY))
    read = table_format.read_part(store, "latents", part, ["key", "latent"])
    assert read.column_names == ["key", "latent", "scale"]
    assert table_format.latents_of(read).tolist() == [[0.5 * i * n for n in range(-3, 3)] for i in (1, 2)]
    assert "scale" not in rows(1).column_names


def test_equal_rows_are_equal_bytes_under_their_own_digest(store):
    one, two = (table_format.write_part(store, "latents", rows(5)) for _ in range(2))
    assert one == two
    assert [o.path for o in store.list("latents")] == [f"latents/parts/{one.sha256}.parquet"]


def test_the_file_says_what_it_is(store):
    part = table_format.write_part(store, "latents", rows(1))
    metadata = pq.read_schema(io.BytesIO(store.read(f"latents/{part.path}"))).metadata
    assert (metadata[b"format_version"], metadata[b"network"]) == (b"1", b"n" * 64)


@pytest.mark.parametrize(("key", "value"), [("format_version", "4"), ("kind", "index")])
def test_an_unknown_format_is_refused_by_name(key, value):
    other = rows(1).replace_schema_metadata({"format_version": "1", "kind": "latents", key: value})
    with pytest.raises(FormatVersionError, match=f"'{value}'"):
        table_format.parse_table(table_format.table_bytes(other), "a part")


def test_damage_is_noticed(store):
    part = table_format.write_part(store, "latents", rows(3))
    data = bytearray(store.read(f"latents/{part.path}"))
    data[len(data) // 2] ^= 1
    store.write(f"latents/{part.path}", bytes(data))
    with pytest.raises(IntegrityError, match="not the one that was committed"):
        table_format.read_part(store, "latents", part)
    with pytest.raises(IntegrityError, match="not a Parquet file"):
        table_format.parse_table(b"something else", "a part")


def test_the_whole_table_is_sorted_by_key_whatever_the_order_of_parts():
    whole = rows(7)
    pieces = [whole.slice(4), whole.slice(1, 3), whole.slice(0, 1)]
    assert table_format.sort_by_key(pieces).equals(whole)
    assert table_format.sort_by_key(pieces[::-1]).equals(whole)


def test_a_key_that_occurs_twice_is_refused():
    with pytest.raises(IntegrityError, match="1 keys"):
        table_format.sort_by_key([rows(3), rows(1)])


def test_exports_of_equal_tables_are_equal_files(tmp_path):
    first = table_format.export(rows(4), tmp_path / "a.parquet")
    assert (
        table_format.export(table_format.sort_by_key([rows(4).slice(2), rows(4).slice(0, 2)]), tmp_path / "b.parquet")
        == first
    )
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_a_latent_of_another_length_does_not_get_in():
    with pytest.raises(pa.ArrowInvalid):
        table_format.part_table(replace(some(1), latents=np.zeros((1, 5), np.float32)), 6, "float32", IDENTITY)


UNITS = np.array([1, 0.5, 0.25, 0.1, 0.01, 0.001], np.float32)


def with_units(count: int = 2, units: np.ndarray = UNITS) -> pa.Table:
    numbers = np.tile(np.arange(-3, 3, dtype=np.int8), (count, 1))
    scales = np.array([0.5 * (n + 1) for n in range(count)], np.float32)
    rounded = replace(some(count, "int8"), latents=numbers, scales=scales)
    return table_format.part_table(rounded, 6, "int8", IDENTITY, units)


def test_int8_numbers_are_multiples_of_scale_and_unit(store):
    part = table_format.write_part(store, "latents", with_units())
    read = table_format.read_part(store, "latents", part, ["key", "latent"])
    assert read.schema.metadata[b"format_version"] == b"2"
    expected = np.outer([0.5, 1.0], np.arange(-3, 3)).astype(np.float32) * UNITS
    assert np.array_equal(table_format.latents_of(read), expected)
    chosen = table_format.sort_by_key([read.slice(1), read.slice(0, 1)]).take([1])
    assert np.array_equal(table_format.latents_of(chosen), expected[1:])
    assert table_format.storage_of(read) == table_format.Storage("int8", 6)


def test_an_export_has_the_units(tmp_path):
    table_format.export(with_units(), tmp_path / "a.parquet")
    again = table_format.parse_table((tmp_path / "a.parquet").read_bytes(), "a.parquet")
    assert np.array_equal(table_format.latents_of(again), table_format.latents_of(with_units()))


def test_tables_without_units_are_of_the_version_that_every_reader_knows():
    assert rows(2).schema.metadata[b"format_version"] == b"1"
    part = table_format.part_table(some(1), 6, "float32", IDENTITY, UNITS)
    assert part.schema == rows(1).schema
    assert part.schema.metadata == rows(1).schema.metadata


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not base64",
        base64.b64encode(b"123"),
        base64.b64encode(UNITS[:5].tobytes()),
        base64.b64encode(np.append(UNITS[:5], np.float32("nan")).tobytes()),
        base64.b64encode(np.append(UNITS[:5], np.float32("inf")).tobytes()),
        base64.b64encode((-UNITS).tobytes()),
        base64.b64encode((0 * UNITS).tobytes()),
        None,
    ],
)
def test_damaged_units_are_refused(text):
    metadata = dict(with_units().schema.metadata) | {b"units": text}
    metadata = {key: value for key, value in metadata.items() if value is not None}
    data = table_format.table_bytes(with_units().replace_schema_metadata(metadata))
    with pytest.raises(IntegrityError, match="units"):
        table_format.parse_table(data, "a part")


def test_units_where_there_may_be_none_are_refused():
    metadata = with_units().schema.metadata
    for table, version in ((rows(2), b"2"), (with_units(), b"1")):
        damaged = table.replace_schema_metadata(dict(metadata) | {b"format_version": version})
        with pytest.raises(IntegrityError, match="do not belong"):
            table_format.parse_table(table_format.table_bytes(damaged), "a part")


def test_parts_that_store_latents_in_different_ways_are_no_table():
    plain = replace(some(1, "int8"), latents=np.zeros((1, 6), np.int8), scales=np.ones(1, np.float32))
    without = table_format.part_table(plain, 6, "int8", IDENTITY)
    for other in (without, with_units(units=2 * UNITS), rows(1)):
        with pytest.raises(IntegrityError, match="different ways"):
            table_format.sort_by_key([with_units(), other])


@pytest.mark.parametrize("table", [rows(2), with_units()], ids=["plain", "with units"])
def test_no_bit_of_the_stored_schema_is_more_than_an_error(table):
    data = table_format.table_bytes(table)
    begin, flips = data.index(b"ARROW:schema"), 0
    for at in range(begin, len(data) - 8):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            flips += 1
            with suppress(IntegrityError, FormatVersionError):
                table_format.parse_table(bytes(damaged), "here")
    assert flips > 1000
