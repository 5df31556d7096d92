from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.meta.sweeps.chunks import Chunks

sizes = st.integers(1, 40)


@given(sizes, sizes, st.integers(0, 40), st.integers(0, 40))
def test_blocks_cover_everything_once_within_their_bounds(points: int, scans: int, batch: int, total: int) -> None:
    seen = np.zeros((batch, total), int)
    for block in Chunks(points, scans).blocks(batch, total):
        assert seen[block].shape[0] <= scans
        assert seen[block].shape[1] <= points
        seen[block] += 1
    assert (seen == 1).all()


@given(st.integers(1, 100_000), st.integers(1, 2**30))
def test_activations_stay_within_their_size(hidden: int, activation_bytes: int) -> None:
    chunks = Chunks.sized(hidden, activation_bytes)
    assert chunks.points * chunks.scans * hidden * 4 <= max(activation_bytes, hidden * 4)


def test_the_default_for_a_width_is_fixed_because_it_decides_bits() -> None:
    assert (Chunks.sized(64), Chunks.sized(256)) == (Chunks(1024, 8), Chunks(1024, 2))


@pytest.mark.parametrize(("points", "scans"), [(0, 1), (1, 0), (-3, 2)])
def test_empty_chunks_are_refused(points: int, scans: int) -> None:
    with pytest.raises(RunFileError, match="at least one"):
        Chunks(points, scans)
