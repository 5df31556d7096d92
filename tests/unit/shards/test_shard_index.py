from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.shards.shard_index import SCHEMA, IndexRow, index_bytes, index_table, parse_index
from tests.unit.shards.samples import key_of

SIZE = 10240
FIRST = IndexRow(key_of(0), key_of("s"), "", 512, 600, 2**32 - 1, 2048, 200, 0)
SECOND = IndexRow(key_of(1), key_of("s"), "row/1", 3072, 600, 5, 4608, 200, 6)


def parse(rows: list[IndexRow], size: int = SIZE, samples: int | None = None) -> pa.Table:
    return parse_index(index_bytes(index_table(rows)), shard_size=size, samples=samples or len(rows), where="here")


def test_rows_come_back() -> None:
    assert [IndexRow(**row) for row in parse([FIRST, SECOND]).to_pylist()] == [FIRST, SECOND]


def test_an_index_with_groups_is_of_version_2() -> None:
    rows = [replace(FIRST, group=key_of("patient"), group_by="patient"), SECOND]
    data = index_bytes(index_table(rows, grouped=True))
    table = parse_index(data, shard_size=SIZE, samples=2, where="here")
    assert table.schema.metadata[b"format_version"] == b"2"
    assert [IndexRow(**row) for row in table.to_pylist()] == rows


BRICKED = replace(
    FIRST, npy_length=1500, json_offset=3072, shape=(1, 5, 6), brick_bytes=1000, brick_crc32c=(7, 2**32 - 1)
)


def bricked(row: IndexRow) -> pa.Table:
    data = index_bytes(index_table([row], bricks=True))
    return parse_index(data, shard_size=SIZE, samples=1, where="here")


def test_an_index_of_scans_in_their_own_shape_is_of_version_3() -> None:
    table = bricked(BRICKED)
    assert table.schema.metadata[b"format_version"] == b"3"
    [row] = table.to_pylist()
    assert (row["shape"], row["brick_bytes"], row["brick_crc32c"]) == ([1, 5, 6], 1000, [7, 2**32 - 1])


@pytest.mark.parametrize(
    "row",
    [
        replace(BRICKED, shape=(30,)),
        replace(BRICKED, shape=(1, 1, 1, 5, 6)),
        replace(BRICKED, shape=(1, -5, -6)),
        replace(BRICKED, shape=(2**20, 2**20, 2**20)),  # more than its bytes can hold
        replace(BRICKED, brick_bytes=0),
        replace(BRICKED, brick_bytes=700),
        replace(BRICKED, brick_crc32c=(7,)),
        replace(BRICKED, brick_crc32c=(7, 8, 9)),
    ],
)
def test_shapes_and_bricks_that_do_not_fit_the_scan_are_refused(row: IndexRow) -> None:
    with pytest.raises(IntegrityError, match="shapes or bricks"):
        bricked(row)


def test_a_shape_of_more_points_than_a_scan_may_have_is_refused() -> None:
    size = 2**31
    for points, fits in ((2**29, True), (2**29 + 1, False)):
        row = replace(
            BRICKED,
            shape=(1, points),
            npy_length=2**30,
            json_offset=2**30 + 2048,
            brick_bytes=2**30,
            brick_crc32c=(7,),
        )
        data = index_bytes(index_table([row], bricks=True))
        if fits:
            assert parse_index(data, shard_size=size, samples=1, where="here").num_rows == 1
        else:
            with pytest.raises(IntegrityError, match="shapes or bricks"):
                parse_index(data, shard_size=size, samples=1, where="here")


def test_an_empty_index_of_version_3_is_one_too() -> None:
    assert (
        parse_index(index_bytes(index_table([], bricks=True)), shard_size=SIZE, samples=0, where="here").num_rows == 0
    )


def test_the_columns_are_those_of_the_version() -> None:
    for table, version in ((index_table([FIRST]), "2"), (index_table([FIRST], grouped=True), "1")):
        other = table.replace_schema_metadata({"format_version": version})
        with pytest.raises(IntegrityError, match="other columns"):
            parse_index(written(other), shard_size=SIZE, samples=1, where="here")


def test_an_empty_index_is_one_too() -> None:
    assert parse([]).num_rows == 0


def test_the_same_rows_are_the_same_bytes() -> None:
    assert index_bytes(index_table([FIRST, SECOND])) == index_bytes(index_table([FIRST, SECOND]))


@pytest.mark.parametrize(
    "second",
    [
        replace(SECOND, json_offset=SIZE - 100),  # ends behind the shard
        replace(SECOND, npy_offset=-1),
        replace(SECOND, npy_offset=100),  # no room for a header
        replace(SECOND, npy_length=0),
        replace(SECOND, npy_length=2**62),
        replace(SECOND, json_offset=2**62, json_length=2**62),  # the sum overflows
        replace(SECOND, npy_offset=2048),  # overlaps the sample before
        replace(SECOND, json_offset=3072 + 600),  # no room for the header between
    ],
)
def test_ranges_outside_the_shard_are_refused(second: IndexRow) -> None:
    with pytest.raises(IntegrityError, match="points outside its shard"):
        parse([FIRST, second])


def test_a_shard_cut_short_no_longer_fits_its_index() -> None:
    parse([FIRST, SECOND], size=4808)
    with pytest.raises(IntegrityError, match="points outside its shard"):
        parse([FIRST, SECOND], size=4807)


def test_a_repeated_key_is_refused() -> None:
    with pytest.raises(IntegrityError, match="same key"):
        parse([FIRST, replace(SECOND, key=FIRST.key)])


def test_another_number_of_rows_is_refused() -> None:
    with pytest.raises(IntegrityError, match="of 2 rows, expected 3"):
        parse([FIRST, SECOND], samples=3)


def written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def test_an_unknown_format_version_is_refused_by_name() -> None:
    table = index_table([FIRST]).replace_schema_metadata({"format_version": "4"})
    with pytest.raises(FormatVersionError, match="index format_version b'4'"):
        parse_index(written(table), shard_size=SIZE, samples=1, where="here")


def test_other_columns_are_refused() -> None:
    table = index_table([FIRST]).drop_columns(["item"]).replace_schema_metadata(SCHEMA.metadata)
    with pytest.raises(IntegrityError, match="columns"):
        parse_index(written(table), shard_size=SIZE, samples=1, where="here")


def test_nulls_are_refused() -> None:
    row = index_table([FIRST]).to_pylist()[0] | {"npy_offset": None}
    with pytest.raises(IntegrityError, match="has missing values"):
        parse_index(written(pa.Table.from_pylist([row], schema=SCHEMA)), shard_size=SIZE, samples=1, where="here")


def test_something_else_than_parquet_is_refused() -> None:
    with pytest.raises(IntegrityError, match="not a Parquet file"):
        parse_index(b"PAR1 nonsense PAR1", shard_size=SIZE, samples=1, where="here")
