"""Regions of scans that keep their own shape: only what they touch is read, and it is verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.scans.scan import Scan, Window
from medfuncta_dist.shards.sample import decode, parse_meta
from medfuncta_dist.shards.shard_index import BRICK_BYTES
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.digest import crc32c
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming import sample_reader, scan_region
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.scan_region import BrickedArray
from medfuncta_dist.streaming.shard_cache import ShardCache
from tests.unit.streaming.archive import key_of, write_scans, write_split

SHAPES = [(30, 160, 250), (4, 5, 6)]
"""The first one has three bricks of 1 MiB, the last of them shorter."""
LARGE, SMALL = SampleId(0, 0), SampleId(0, 1)


def scan(row: int) -> Scan:
    array = np.random.default_rng(row).integers(-500, 500, (1, *SHAPES[row])).astype(np.int16)
    return Scan(array, (1.0, 2.0, 3.0), np.diag([1.0, 2.0, 3.0, 1.0]), "CT", Window(-500.0, 500.0), labels=(row,))


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "store"))


@pytest.fixture
def shard(store: ObjectStore) -> Shard:
    return write_scans(store, [(key_of(0, row), scan(row)) for row in range(2)], bricks=True)


@pytest.fixture
def cache(store: ObjectStore, tmp_path: Path) -> ShardCache:
    return ShardCache(store, tmp_path / "cache", 10**9)


@pytest.fixture
def reader(store: ObjectStore, shard: Shard, cache: ShardCache) -> SampleReader:
    return SampleReader(store, [shard], cache)


def test_a_region_is_the_same_as_of_the_whole_scan(reader: SampleReader) -> None:
    for row, region in (
        (0, np.s_[3:19, 40:56, 7:23]),
        (0, np.s_[29:30, 159:160, 249:250]),
        (0, np.s_[:, :, :]),
        (0, np.s_[5:5, :, :]),
        (1, np.s_[1:3, 0:9, -2:]),
    ):
        found = reader.region(SampleId(0, row), region)
        np.testing.assert_array_equal(found, scan(row).array[:, *region])
        assert found.dtype == np.int16
        assert found.flags.owndata
        assert found.flags.writeable


def test_members_are_still_read_whole(reader: SampleReader) -> None:
    members = reader.read(LARGE)
    sample = decode(members["__key__"], members["npy"], members["json"])
    np.testing.assert_array_equal(sample.array, scan(0).array)


def test_shapes_and_metadata_need_no_array(reader: SampleReader) -> None:
    assert reader.shapes(0) == SHAPES
    meta = reader.meta(SMALL)
    assert (meta["shape"], meta["window"], meta["labels"]) == ([1, *SHAPES[1]], [-500.0, 500.0], [1])


def flip(cache: ShardCache, shard: Shard, value: int) -> None:
    """Change a byte of the large scan's value of this number, in the file that the reader holds open."""
    row = cache.index(shard).to_pylist()[0]
    at = row["npy_offset"] + row["npy_length"] - scan(0).array.nbytes + 2 * value
    with cache.path(shard).open("r+b") as tar:
        tar.seek(at)
        byte = tar.read(1)[0]
        tar.seek(at)
        tar.write(bytes([byte ^ 1]))


def test_damage_is_noticed_by_the_regions_that_touch_its_brick(
    reader: SampleReader, cache: ShardCache, shard: Shard
) -> None:
    reader.meta(LARGE)
    per_plane = SHAPES[0][1] * SHAPES[0][2]
    flip(cache, shard, 20 * per_plane)  # in the second brick, which begins in plane 13
    np.testing.assert_array_equal(reader.region(LARGE, np.s_[0:13, :, :]), scan(0).array[:, 0:13])
    with pytest.raises(IntegrityError, match="CRC-32C") as caught:
        reader.region(LARGE, np.s_[10:16, 0:4, 0:4])  # not the plane that is damaged, but its brick
    assert shard.sha256 in caught.value.where
    assert key_of(0, 0) in caught.value.where
    np.testing.assert_array_equal(reader.region(LARGE, np.s_[27:, :, :]), scan(0).array[:, 27:])
    np.testing.assert_array_equal(reader.region(SMALL, np.s_[:, :, :]), scan(1).array)
    with pytest.raises(IntegrityError, match="CRC-32C"):
        reader.read(LARGE)


def test_a_brick_is_verified_once_per_open_file(reader: SampleReader, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(data: memoryview) -> int:
        sizes.append(len(data))
        return crc32c(data)

    monkeypatch.setattr(scan_region, "crc32c", counted)
    for _ in range(3):
        reader.region(LARGE, np.s_[0:2, 0:9, 0:9])
    assert sizes == [BRICK_BYTES]
    reader.close()
    reader.region(LARGE, np.s_[12:15, :, :])
    assert sizes == [BRICK_BYTES] * 3


def test_a_file_cut_behind_its_back_is_noticed(reader: SampleReader, cache: ShardCache, shard: Shard) -> None:
    reader.region(LARGE, np.s_[0:1, 0:1, 0:1])
    with cache.path(shard).open("r+b") as tar:
        tar.truncate(4096)
    with pytest.raises(IntegrityError):
        reader.region(LARGE, np.s_[0:1, 0:1, 0:1])


def test_scans_of_one_shape_have_regions_too_but_no_shapes(store: ObjectStore, cache: ShardCache) -> None:
    reader = SampleReader(store, write_split(store, (2,)), cache)
    whole = decode("k", *(reader.read(SampleId(0, 1))[name] for name in ("npy", "json"))).array  # type: ignore[literal-required]
    np.testing.assert_array_equal(reader.region(SampleId(0, 1), np.s_[1:3, 0:2]), whole[:, 1:3, 0:2])
    with pytest.raises(IntegrityError, match=r"data\.patches"):
        reader.shapes(0)


def test_another_step_or_number_of_axes_is_refused(reader: SampleReader) -> None:
    for region in (np.s_[0:4, 0:4], np.s_[0:4, 0:4, 0:4:2]):
        with pytest.raises(ValueError, match="step 1 for each axis"):
            reader.region(LARGE, region)


@given(st.data())
def test_touched_bricks_are_those_of_the_region_s_bytes(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=2, max_size=4)))
    ends = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    region = [slice(*pair) for pair in ends]
    header, brick = data.draw(st.integers(0, 20)), data.draw(st.integers(1, 30))
    length = header + 2 * int(np.prod(shape))
    inside = np.zeros(shape, np.int16)
    inside[tuple(region)] = -1
    by_byte = np.concatenate([np.zeros(header, bool), inside.view(np.uint8).ravel() > 0])
    expected = [bool(by_byte[at : at + brick].any()) for at in range(0, length, brick)]
    checksums = np.zeros(len(expected), np.uint32)
    array = BrickedArray(range(512, 512 + length), shape, np.dtype(np.int16), brick, checksums)
    assert array.touched(region).tolist() == expected


def test_bricks_are_a_mebibyte(cache: ShardCache, shard: Shard) -> None:
    rows = cache.index(shard).to_pylist()
    assert [row["brick_bytes"] for row in rows] == [2**20, 2**20] == [BRICK_BYTES] * 2
    assert [len(row["brick_crc32c"]) for row in rows] == [3, 1]


@pytest.mark.parametrize("changed", [{"dtype": "uint16"}, {"dtype": "uint8"}])
def test_a_header_that_does_not_belong_to_the_metadata_is_refused(
    reader: SampleReader, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]
) -> None:
    monkeypatch.setattr(sample_reader, "parse_meta", lambda key, data: parse_meta(key, data) | changed)
    for place in (LARGE, SMALL):
        with pytest.raises(IntegrityError) as caught:
            reader.region(place, np.s_[0:1, 0:1, 0:1])
        assert key_of(*place) in caught.value.where


def test_a_damaged_header_is_noticed_by_any_region(reader: SampleReader, cache: ShardCache, shard: Shard) -> None:
    reader.meta(LARGE)
    flip(cache, shard, 0)
    with pytest.raises(IntegrityError, match="CRC-32C"):
        reader.region(LARGE, np.s_[27:, :, :])
