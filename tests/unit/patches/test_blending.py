from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.patches.blending import grid_shares, shares
from medfuncta_dist.patches.patch_grid import PatchGrid
from tests.unit.patches.grids import grids


@given(grids(), st.data())
def test_weights_sum_to_1_at_every_position_of_the_scan(grid: PatchGrid, data: st.DataObject):
    asked = [np.linspace(0, n - 1, data.draw(st.integers(1, 60))) for n in grid.shape]
    for positions, found, size in zip(asked, grid_shares(grid, asked), grid.size, strict=True):
        total = np.zeros(len(positions))
        for share in found:
            assert (share.weights > 0).all()
            assert np.abs(share.local).max() <= 1
            assert len(share.local) == len(share.weights) == share.part.stop - share.part.start
            total[share.part] += share.weights
        np.testing.assert_allclose(total, 1, rtol=1e-14)
        assert all(len(share.local) for share in found), size


@given(grids())
def test_at_the_scans_own_points_without_overlap_one_patch_counts_alone(grid: PatchGrid):
    whole = tuple(points - points % size or size for points, size in zip(grid.shape, grid.size, strict=True))
    alone = PatchGrid(whole, grid.size, (0,) * len(whole))  # no patch is moved back
    for starts, axis in zip(alone.starts, grid_shares(alone, [np.arange(n, dtype=float) for n in whole]), strict=True):
        assert [share.part.start for share in axis] == list(starts)
        assert all((share.weights == 1).all() for share in axis)
        assert all(share.local[0] == -1 and share.local[-1] == 1 for share in axis)


@given(grids(), st.data())
def test_weights_are_those_of_all_patches_at_all_positions(grid: PatchGrid, data: st.DataObject):
    """The formula as the module states it, as a dense matrix."""
    asked = [np.linspace(0, n - 1, data.draw(st.integers(1, 60))) for n in grid.shape]
    axes = zip(grid.starts, grid.size, grid.overlap, asked, grid_shares(grid, asked), strict=True)
    for starts, size, overlap, positions, found in axes:
        first = np.asarray(starts, np.float64)[:, None]
        inside = np.minimum(positions - (first - 1), first + size - positions)
        dense = np.clip(inside / (overlap + 1), 0, 1)
        dense /= dense.sum(axis=0)
        sparse = np.zeros_like(dense)
        for share in found:
            sparse[share.place, share.part] = share.weights
        np.testing.assert_allclose(sparse, dense, rtol=0, atol=1e-12)
        assert [share.place for share in found] == np.flatnonzero(dense.any(axis=1)).tolist()


def test_a_long_signal_takes_memory_for_its_points_not_for_every_patch_at_each_of_them():
    grid = PatchGrid((10**6,), (64,), (8,))
    positions = [np.arange(10.0**6)]
    tracemalloc.start()
    [found] = grid_shares(grid, positions)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == len(grid)
    assert peak < 200 * 10**6


def test_patches_that_touch_a_position_are_those_that_count_there():
    grid = PatchGrid((23,), (6,), (2,))
    for position in np.linspace(0, 22, 177):
        counting = [share.place for share in grid_shares(grid, [np.array([position])])[0]]
        assert counting == list(grid.touching([(position, position)]))


def test_two_neighbours_share_their_overlap_linearly():
    left, right = shares((0, 4), 6, 2, np.arange(10.0))
    np.testing.assert_allclose(left.weights, [1, 1, 1, 1, 2 / 3, 1 / 3])
    np.testing.assert_allclose(right.weights, [1 / 3, 2 / 3, 1, 1, 1, 1])
    assert (left.part, right.part) == (slice(0, 6), slice(4, 10))


def test_without_overlap_neighbours_meet_between_their_last_and_first_points():
    left, right = shares((0, 4), 4, 0, np.array([3.0, 3.25, 3.5, 4.0]))
    np.testing.assert_allclose(left.weights, [1, 0.75, 0.5])
    np.testing.assert_allclose(right.weights, [0.25, 0.5, 1])
    np.testing.assert_array_equal(left.local, [1, 1, 1])
    np.testing.assert_array_equal(right.local, [-1, -1, -1])


def test_weights_do_not_jump():
    """However fine the positions: also where the last patch is moved back, and shares more than the overlap."""
    positions = np.linspace(0, 22, 22001)
    for share in shares(PatchGrid((23,), (6,), (2,)).starts[0], 6, 2, positions):
        weights = np.zeros(len(positions))
        weights[share.part] = share.weights
        assert np.abs(np.diff(weights)).max() < 0.0011
