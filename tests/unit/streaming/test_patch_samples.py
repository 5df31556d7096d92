"""Patches of scans as samples: which are drawn, what they hold, and that no number of workers changes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.patches.patch_grid import PatchGrid
from medfuncta_dist.patches.random_corner import random_corner
from medfuncta_dist.scans.scan import Scan, Window
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.patch_samples import PatchDraws, patch_at, patch_samples, spread_patches
from medfuncta_dist.streaming.sample_order import EpochOrder, SampleId, rank_slice
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache
from medfuncta_dist.streaming.stream import Batch, Read, training_stream
from tests.unit.streaming.archive import key_of, write_scans

SIZE, VISITS, BATCH = (4, 3), 5, 4
SHAPES = [[(9, 7), (4, 3)], [(3, 10), (12, 2), (6, 6)]]
"""By shard; one scan is a patch, and two are narrower than one."""


def array_of(shard: int, row: int) -> np.ndarray:
    return np.random.default_rng([shard, row]).integers(0, 100, (2, *SHAPES[shard][row])).astype(np.int16)


@pytest.fixture(params=[True, False], ids=["bricks", "no-bricks"])
def reader(tmp_path: Path, request: pytest.FixtureRequest) -> SampleReader:
    store = ObjectStore(str(tmp_path / "store"))
    shards = [
        write_scans(store, [(key_of(shard, row), scan_of(shard, row)) for row in range(len(shapes))], request.param)
        for shard, shapes in enumerate(SHAPES)
    ]
    return SampleReader(store, shards, ShardCache(store, tmp_path / "cache", 10**9))


def scan_of(shard: int, row: int) -> Scan:
    return Scan(array_of(shard, row), (1.0, 1.0), None, "OT", Window(0.0, 100.0))


def expected(scan: SampleId, corner: tuple[int, ...]) -> np.ndarray:
    """Point by point, the nearest one of the scan."""
    array = array_of(*scan)
    places = [
        np.clip(np.arange(n) + start, 0, m - 1) for start, n, m in zip(corner, SIZE, array.shape[1:], strict=True)
    ]
    return array[:, places[0][:, None], places[1]]


def order(epoch: int) -> EpochOrder:
    return EpochOrder([VISITS * len(s) for s in SHAPES], batch=BATCH, seed=1, epoch=epoch, digest="d", window=8)


def draws(reader: SampleReader) -> Read:
    return PatchDraws(reader, SIZE, VISITS, seed=3)


def read(reader: SampleReader, start: int, stop: int, part: slice = slice(0, BATCH)) -> list[Batch]:
    return list(training_stream(reader, order, start, stop, part, read=draws(reader)))


def test_an_epoch_draws_every_visit_of_every_scan_once(reader: SampleReader) -> None:
    assert order(0).batches == 6
    seen = [key for batch in read(reader, 0, 6) for key in batch.keys]
    everything = {
        f"{key_of(s, row)}/{v}" for s, rows in enumerate(SHAPES) for row in range(len(rows)) for v in range(VISITS)
    }
    assert len(set(seen)) == len(seen) == 24
    assert everything.issuperset(seen)


def test_a_visit_is_the_patch_at_its_corner(reader: SampleReader) -> None:
    for batch in read(reader, 0, 12):
        for key, values, place in zip(batch.keys, batch.values, order(batch.epoch).batch(batch.step % 6), strict=True):
            row, visit = divmod(place.row, VISITS)
            name, shape = key_of(place.shard, row), SHAPES[place.shard][row]
            assert key == f"{name}/{visit}"
            corner = random_corner(shape, SIZE, seed=3, epoch=batch.epoch, key=name, visit=visit)
            patch = expected(SampleId(place.shard, row), corner)
            np.testing.assert_allclose(values, patch.reshape(2, -1).T / 100, rtol=1e-6)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_number_of_workers_draws_the_same_patches_also_after_a_resume(reader: SampleReader, world: int) -> None:
    whole = read(reader, 0, 12)
    for start in (0, 7):
        parts = [read(reader, start, 12, rank_slice(BATCH, world, rank)) for rank in range(world)]
        for step, batch in enumerate(whole[start:]):
            assert [key for part in parts for key in part[step].keys] == batch.keys
            assert np.concatenate([part[step].values for part in parts]).tobytes() == batch.values.tobytes()


def test_another_epoch_draws_other_patches(reader: SampleReader) -> None:
    place = SampleId(0, 2)  # of the largest scan
    first, second = (draws(reader)(place, epoch).array for epoch in (0, 1))
    assert not np.array_equal(first, second)


def test_beyond_a_scan_its_edge_is_repeated(reader: SampleReader) -> None:
    scan = SampleId(1, 0)
    patch = patch_at(reader, scan, (0, 5), SIZE)
    np.testing.assert_array_equal(patch.array[:, 3], patch.array[:, 2])
    np.testing.assert_array_equal(patch.array, expected(scan, (0, 5)))
    assert patch.key == key_of(1, 0)


def test_a_few_patches_are_spread_over_scans_and_over_the_places_in_them(tmp_path: Path) -> None:
    store, size = ObjectStore(str(tmp_path / "store")), (4, 4)
    scans = [
        (key_of(0, row), Scan(np.zeros((1, 16, 16), np.int16), (1.0, 1.0), None, "OT", Window(0.0, 1.0)))
        for row in range(8)
    ]
    reader = SampleReader(store, [write_scans(store, scans, bricks=True)], ShardCache(store, tmp_path / "cache", 10**9))
    ids = [SampleId(0, row) for row in range(8)]
    found = spread_patches(reader, ids, size, (0, 0), 8)
    assert [scan for scan, _ in found] == ids
    assert len({corner for _, corner in found}) >= 7, "not the same corner of every scan"
    assert (found[0][1], found[-1][1]) == ((0, 0), (12, 12))
    everything = spread_patches(reader, ids, size, (0, 0), 1000)
    grid = PatchGrid((16, 16), size, (0, 0))
    assert everything == [(scan, grid.corner(number)) for scan in ids for number in range(16)]
    assert len(list(patch_samples(reader, found, size))) == 8
    assert spread_patches(reader, [], size, (0, 0), 8) == []
