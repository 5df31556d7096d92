from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.coordinates import grid


@given(st.lists(st.integers(2, 7), min_size=1, max_size=3))
def test_rows_are_the_points_of_an_array_in_memory_order(shape: list[int]) -> None:
    points = grid(shape, dtype=torch.float64).numpy()
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    np.testing.assert_allclose(points, np.stack([a.ravel() for a in axes], axis=1), atol=1e-15)


def test_both_ends_are_included() -> None:
    assert grid([5])[[0, -1]].tolist() == [[-1.0], [1.0]]


@pytest.mark.parametrize("shape", [[], [1], [4, 1]])
def test_an_axis_without_extent_is_refused(shape: list[int]) -> None:
    with pytest.raises(RunFileError, match="at least two points"):
        grid(shape)
