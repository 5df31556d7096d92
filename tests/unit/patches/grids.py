"""Grids of patches of any kind, for the tests of this package."""

from __future__ import annotations

from hypothesis import strategies as st

from medfuncta_dist.patches.patch_grid import PatchGrid


@st.composite
def grids(draw: st.DrawFn) -> PatchGrid:
    """One to three axes; patches that stick out of a short axis, and last ones that are moved back, among them."""
    axes = draw(st.integers(1, 3))
    size = tuple(draw(st.integers(2, 7)) for _ in range(axes))
    overlap = tuple(draw(st.integers(0, n // 2)) for n in size)
    return PatchGrid(tuple(draw(st.integers(1, 20)) for _ in range(axes)), size, overlap)
