from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.patches.patch_grid import PatchGrid
from tests.unit.patches.grids import grids


def test_patches_begin_every_size_less_overlap_and_the_last_one_ends_with_the_scan():
    grid = PatchGrid((10, 4, 3), (4, 4, 4), (1, 0, 2))
    assert grid.starts == ((0, 3, 6), (0,), (0,))
    assert PatchGrid((11,), (4,), (1,)).starts == ((0, 3, 6, 7),)
    assert (grid.counts, len(grid)) == ((3, 1, 1), 3)
    assert [grid.corner(number) for number in range(3)] == [(0, 0, 0), (3, 0, 0), (6, 0, 0)]
    assert grid.inside((6, 0, 0)) == (slice(6, 10), slice(0, 4), slice(0, 3))


def test_a_scan_of_the_size_of_a_patch_is_one_patch():
    grid = PatchGrid((16, 16), (16, 16), (8, 8))
    assert [grid.corner(n) for n in range(len(grid))] == [(0, 0)]


@given(grids())
def test_every_point_is_in_a_patch_and_no_patch_sticks_out_of_a_scan_that_holds_one(grid: PatchGrid):
    seen = np.zeros(grid.shape, int)
    for number in range(len(grid)):
        corner = grid.corner(number)
        seen[grid.inside(corner)] += 1
        for start, points, size in zip(corner, grid.shape, grid.size, strict=True):
            assert start + size <= points or points < size
    assert seen.min() >= 1


@given(grids())
def test_patches_are_counted_without_listing_them(grid: PatchGrid):
    assert grid.counts == tuple(map(len, grid.starts))
    large = PatchGrid((2**31 - 1,) * 3, (2, 2, 2), (1, 1, 1))
    assert large.counts == (2**31 - 2,) * 3
    assert "starts" not in vars(large)


@given(grids(), st.data())
def test_the_patches_that_touch_a_region_are_those_that_have_a_point_of_it(grid: PatchGrid, data: st.DataObject):
    region = []
    for points in grid.shape:
        first = data.draw(st.integers(0, points - 1))
        region.append((first, data.draw(st.integers(first, points - 1))))
    asked = np.zeros(grid.shape, bool)
    asked[tuple(slice(first, last + 1) for first, last in region)] = True
    expected = [number for number in range(len(grid)) if asked[grid.inside(grid.corner(number))].any()]
    assert list(grid.touching(region)) == expected


def test_between_two_patches_both_count():
    grid = PatchGrid((8,), (4,), (0,))
    assert list(grid.touching([(3.0, 3.0)])) == [0]
    assert list(grid.touching([(3.5, 3.5)])) == [0, 1]
    assert list(grid.touching([(4.0, 4.0)])) == [1]


def test_a_patch_that_there_is_not_is_refused():
    with pytest.raises(IndexError, match="patch 2 of 2"):
        PatchGrid((8,), (4,), (0,)).corner(2)


def test_points_of_a_patch_beyond_a_scan_that_is_shorter_have_no_weight():
    assert PatchGrid((4, 9), (4, 4), (0, 0)).weights is None
    weights = PatchGrid((3, 9), (4, 2), (0, 0)).weights
    assert weights is not None
    assert weights.tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]
