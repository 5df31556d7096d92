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
from medfuncta_dist.latents.table_format import Row
from medfuncta_dist.storage.object_store import ObjectStore

IDENTITY = {"network": "n" * 64, "fit": "f" * 64}


def row(number: int, storage_type: str = "float32") -> Row:
    latent = np.random.default_rng(number).normal(size=6).astype(storage_type)
    affine = tuple(float(x) for x in np.diag([2, 3, 4, 1]).ravel()) if number % 2 else None
    return Row(
        key=f"{number:064x}",
        split="train",
        labels=(number % 3,) if number else (),
        latent=latent,
        psnr=30.0 + number,
        below_min=number == 0,
        steps=20,
        window=(-1000.0, 400.0),
        spacing=(1.0, 0.5),
        affine=affine,
        modality="CT",
        slice_index=number if number % 2 else None,
    )


def rows(count: int, storage_type: str = "float32") -> pa.Table:
    return table_format.part_table([row(i, storage_type) for i in range(count)], 6, storage_type, IDENTITY)


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
    assert np.array_equal(table_format.latents_of(read), np.stack([row(i, storage_type).latent for i in range(5)]))


def test_int8_latents_never_come_without_their_scale(store):
    numbers = [replace(row(i), latent=np.arange(-3, 3, dtype=np.int8), scale=0.5 * (i + 1)) for i in range(2)]
    part = table_format.write_part(store, "latents", table_format.part_table(numbers, 6, "int8", IDENTITY))
    read = table_format.read_part(store, "latents", part, ["key", "latent"])
    assert read.column_names == ["key", "latent", "scale"]
    assert table_format.latents_of(read).tolist() == [[0.5 * i * n for n in range(-3, 3)] for i in (1, 2)]
    assert "scale" not in rows(1).column_names


DEVIATIONS = np.array([4, 2, 1, 0.5, 0.25, 0.125], np.float32)


def counted(deviations: np.ndarray | None = DEVIATIONS) -> pa.Table:
    """int8 latents of a basis field, whose numbers have deviations."""
    whole = [replace(row(i), latent=np.arange(-3, 3, dtype=np.int8), scale=0.5 * (i + 1)) for i in range(2)]
    return table_format.part_table([replace(one, deviations=deviations) for one in whole], 6, "int8", IDENTITY)


def test_int8_latents_come_with_the_deviations_that_they_are_counted_in(store, tmp_path):
    part = table_format.write_part(store, "latents", counted())
    read = table_format.read_part(store, "latents", part, ["key", "latent"])
    assert read.schema.metadata[b"format_version"] == b"2", "earlier versions would not know, and must refuse it"
    expected = [[0.5 * i * n * d for n, d in zip(range(-3, 3), DEVIATIONS.tolist(), strict=True)] for i in (1, 2)]
    whole = table_format.sort_by_key([read.slice(1), read.slice(0, 1)])
    for table in (read, whole, whole.take([0, 1])):
        assert table_format.latents_of(table).tolist() == expected
    table_format.export(counted(), tmp_path / "out.parquet")
    exported = table_format.parse_table((tmp_path / "out.parquet").read_bytes(), "here")
    assert table_format.latents_of(exported).tolist() == expected


@pytest.mark.parametrize("storage_type", ["float32", "float16"])
def test_deviations_are_of_int8_alone(storage_type):
    with_them = [replace(row(i, storage_type), deviations=DEVIATIONS) for i in range(5)]
    found = table_format.part_table(with_them, 6, storage_type, IDENTITY)
    assert table_format.table_bytes(found) == table_format.table_bytes(rows(5, storage_type))


@pytest.mark.parametrize(
    "changes",
    [
        {"deviations": "AAAA"},
        {"deviations": "no base64!"},
        {"deviations": ""},
        {"deviations": base64.b64encode(DEVIATIONS[:5].tobytes()).decode()},
        {"deviations": base64.b64encode((DEVIATIONS * np.nan).tobytes()).decode()},
        {"deviations": base64.b64encode((-DEVIATIONS).tobytes()).decode()},
        {"format_version": "1"},
    ],
    ids=str,
)
def test_deviations_that_are_none_are_damage(changes):
    metadata = {name.decode(): value.decode() for name, value in counted().schema.metadata.items()}
    other = counted().replace_schema_metadata(metadata | changes)
    with pytest.raises(IntegrityError, match="deviations"):
        table_format.parse_table(table_format.table_bytes(other), "a part")
    del metadata["deviations"]
    with pytest.raises(IntegrityError, match="deviations"):
        table_format.parse_table(table_format.table_bytes(counted().replace_schema_metadata(metadata)), "a part")


def test_equal_rows_are_equal_bytes_under_their_own_digest(store):
    one, two = (table_format.write_part(store, "latents", rows(5)) for _ in range(2))
    assert one == two
    assert [o.path for o in store.list("latents")] == [f"latents/parts/{one.sha256}.parquet"]


def test_the_file_says_what_it_is(store):
    part = table_format.write_part(store, "latents", rows(1))
    metadata = pq.read_schema(io.BytesIO(store.read(f"latents/{part.path}"))).metadata
    assert (metadata[b"format_version"], metadata[b"network"]) == (b"1", b"n" * 64)


@pytest.mark.parametrize(("key", "value"), [("format_version", "3"), ("kind", "index")])
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
        table_format.part_table([replace(row(0), latent=np.zeros(5, np.float32))], 6, "float32", IDENTITY)


def test_no_bit_of_the_stored_schema_is_more_than_an_error():
    data = table_format.table_bytes(rows(2))
    begin, flips = data.index(b"ARROW:schema"), 0
    for at in range(begin, len(data) - 8):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            flips += 1
            with suppress(IntegrityError, FormatVersionError):
                table_format.parse_table(bytes(damaged), "here")
    assert flips > 1000
