"""Units of a shard: every patch of every scan is one, in order, and ranges cut them exactly once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fitting.fit_plan import cover, cut_before, plan, ranges
from medfuncta_dist.fitting.patched.shard_units import MOST_UNITS, GridSettings, ShardUnits
from medfuncta_dist.shards.snapshot import Shard, Snapshot

GRIDS = GridSettings((4, 6), (1, 2))
SHAPES = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=6)


def snapshot(shapes: list[list[tuple[int, int]]]) -> tuple[Snapshot, dict[str, int]]:
    """A shard of scans of each list of shapes, and how many units each has."""
    shards = [
        Shard(f"shards/{i}.tar", 1, f"{i * 2**160:064x}", len(shapes[i]), f"indexes/{i}.parquet", 1, "0" * 64)
        for i in range(len(shapes))
    ]
    units = {shard.sha256: len(ShardUnits.of(shapes[i], GRIDS)) for i, shard in enumerate(shards)}
    return Snapshot("d", None, {}, {"train": tuple(shards)}), units


@given(SHAPES)
def test_units_are_the_patches_of_the_scans_in_order(shapes):
    units = ShardUnits.of(shapes, GRIDS)
    expected = [(scan, patch) for scan, shape in enumerate(shapes) for patch in range(len(GRIDS.of(shape)))]
    found = [(units.scan_of(unit), unit - units.firsts[units.scan_of(unit)]) for unit in range(len(units))]
    assert found == expected
    assert [units.patches(scan) for scan in range(units.scans)] == [len(GRIDS.of(shape)) for shape in shapes]


def test_a_scan_of_the_size_of_a_patch_is_one_unit():
    assert ShardUnits.of([(4, 6)] * 3, GRIDS) == ShardUnits((0, 1, 2, 3))


@given(SHAPES, st.data())
def test_the_scans_of_a_range_are_those_of_its_units(shapes, data):
    units = ShardUnits.of(shapes, GRIDS)
    start = data.draw(st.integers(0, len(units) - 1))
    stop = data.draw(st.integers(start + 1, len(units)))
    found = [(scan, patch) for scan, first, last in units.scans_in(start, stop) for patch in range(first, last)]
    assert found == [(units.scan_of(unit), unit - units.firsts[units.scan_of(unit)]) for unit in range(start, stop)]
    assert units.within_one_scan(start, stop) == (len({scan for scan, _ in found}) == 1)


@given(st.lists(SHAPES, min_size=1, max_size=3), st.integers(1, 40), st.randoms())
def test_every_unit_is_in_exactly_one_range_or_piece(shapes, per_task, random):
    whole, units = snapshot(shapes)
    works = ranges(whole, None, per_task, units)
    names: set[str] = set()

    def commit_some(work):
        if random.random() < 0.4:
            names.add(work.name)
        elif random.random() < 0.5:
            for piece in work.divided():
                commit_some(piece)

    for work in works:
        commit_some(work)
    done, left = cover(works, names)
    assert {work.name for work in done} == names
    assert left == plan(whole, None, names, per_task, units)
    found = sorted((w.shard.sha256, unit) for w in (*done, *left) for unit in range(w.start, w.stop))
    assert found == sorted((shard, unit) for shard, count in units.items() for unit in range(count))


@given(st.lists(SHAPES, min_size=1, max_size=3), st.integers(1, 40), st.randoms())
def test_how_a_table_was_cut_is_known_by_any_of_its_ranges(shapes, per_task, random):
    whole, units = snapshot(shapes)
    names = {work.name for work in ranges(whole, None, per_task, units) if random.random() < 0.5}
    size = cut_before(whole, names, units)
    if names:
        assert size is not None
        assert {work.name for work in cover(ranges(whole, None, size, units), names)[0]} == names


def test_a_shard_has_no_more_units_than_ranges_can_name():
    with pytest.raises(RunFileError, match="patches"):
        ShardUnits.of([(4 * MOST_UNITS, 6)], GridSettings((4, 6), (0, 0)))
