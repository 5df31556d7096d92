from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.patches.blended_scan import Values, blended, blended_slabs, native_positions
from medfuncta_dist.patches.blending import Reals
from medfuncta_dist.patches.patch_grid import PatchGrid
from tests.unit.patches.grids import grids

CHANNELS = 2


class Painted:
    """Patches whose values are a function of the position in the scan, and a record of what was decoded."""

    def __init__(self, grid: PatchGrid, slopes: Sequence[float] = (0.1, 0.02, 0.003)) -> None:
        self.grid, self.slopes, self.decoded = grid, slopes, 0
        self.numbers: set[int] = set()

    def __call__(self, numbers: list[int], local: Sequence[Reals]) -> Values:
        self.numbers |= set(numbers)
        found = np.stack([self._patch(number, local) for number in numbers])
        self.decoded += found[:, 0].size
        return found

    def _patch(self, number: int, local: Sequence[Reals]) -> Values:
        corner = self.grid.corner(number)
        axes = zip(corner, self.grid.size, local, strict=True)
        return self.at([start + (coordinate + 1) * (size - 1) / 2 for start, size, coordinate in axes])

    def at(self, positions: Sequence[Reals]) -> Values:
        """Linear along each axis, another sign per channel."""
        total = sum(slope * axis for slope, axis in zip(self.slopes, np.ix_(*positions), strict=False))
        return np.stack([total, -np.asarray(total)]).astype(np.float32)


@given(grids(), st.data())
def test_patches_that_agree_give_the_scan_at_its_own_points(grid: PatchGrid, data: st.DataObject):
    positions = native_positions(grid.shape, grid.shape)
    painted = Painted(grid)
    values = data.draw(st.integers(1, 400))
    slabs = list(
        blended_slabs(grid, positions, painted, CHANNELS, data.draw(st.integers(0, len(grid.shape) - 1)), values)
    )
    across = [
        axis for axis in range(len(grid.shape)) if sum(s.values.shape[1 + axis] for s in slabs) == grid.shape[axis]
    ]
    whole = np.concatenate([slab.values for slab in slabs], axis=1 + across[0])
    np.testing.assert_allclose(whole, painted.at(positions), atol=1e-5)


@pytest.mark.parametrize("target", [(37, 20), (11, 7), (5, 50)])
@pytest.mark.parametrize("overlap", [(0, 0), (2, 3)])
def test_at_any_resolution_patches_that_agree_give_the_scan_within_a_step(
    target: tuple[int, ...], overlap: tuple[int, ...]
):
    grid = PatchGrid((23, 14), (6, 7), overlap)
    positions = native_positions(grid.shape, target)
    found = blended(grid, positions, Painted(grid), CHANNELS)
    # Between patches the field's nearest end counts, so a value may be that of a place half a step off.
    np.testing.assert_allclose(found, Painted(grid).at(positions), atol=0.5 * (0.1 + 0.02) / (1 + min(overlap)))


def test_one_patch_is_itself():
    grid = PatchGrid((5, 6), (5, 6), (2, 2))
    painted = Painted(grid)
    positions = native_positions((5, 6), (9, 13))
    local = [2 * axis / (n - 1) - 1 for axis, n in zip(positions, grid.shape, strict=True)]
    np.testing.assert_array_equal(blended(grid, positions, painted, CHANNELS), painted([0], local)[0])


@given(grids(), st.data())
def test_only_the_patches_of_a_region_are_decoded(grid: PatchGrid, data: st.DataObject):
    region = []
    for points in grid.shape:
        first = data.draw(st.integers(0, points - 1))
        region.append((first, data.draw(st.integers(first, points - 1))))
    painted = Painted(grid)
    part = [np.arange(first, last + 1.0) for first, last in region]
    found = blended(grid, part, painted, CHANNELS)
    assert painted.numbers == set(grid.touching(region))
    whole = blended(grid, native_positions(grid.shape, grid.shape), Painted(grid), CHANNELS)
    inside = tuple(slice(first, last + 1) for first, last in region)
    np.testing.assert_allclose(found, whole[(slice(None), *inside)], atol=1e-6)


def test_slabs_hold_as_many_values_as_they_may_and_decode_each_point_of_a_patch_once():
    grid = PatchGrid((40, 12, 12), (8, 8, 8), (2, 2, 2))
    positions = native_positions(grid.shape, grid.shape)
    once, painted = Painted(grid), Painted(grid)
    whole = blended(grid, positions, once, CHANNELS)
    slabs = list(blended_slabs(grid, positions, painted, CHANNELS, across=2, slab_values=3 * 40 * 12 * CHANNELS))
    assert [slab.values.shape for slab in slabs] == [(CHANNELS, 40, 12, 3)] * 4
    assert [slab.first for slab in slabs] == [0, 3, 6, 9]
    assert painted.decoded == once.decoded == len(grid) * 8**3
    np.testing.assert_allclose(np.concatenate([slab.values for slab in slabs], axis=3), whole, atol=1e-6)
