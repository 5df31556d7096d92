from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.patches.random_corner import random_corner

SHAPE, SIZE = (9, 6, 5), (6, 4, 5)


def corner(key: str = "k", visit: int = 0, **changes: int) -> tuple[int, ...]:
    return random_corner(SHAPE, SIZE, **({"seed": 1, "epoch": 0} | changes), key=key, visit=visit)


def test_every_corner_at_which_a_patch_fits_is_as_likely_as_any_other():
    counts = Counter(corner(visit=visit) for visit in range(6000))
    assert counts.keys() == set(product(range(4), range(3), [0]))
    expected = 6000 / 12
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 31.3, "less likely than one in a thousand for 11 degrees of freedom"


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(2, 30)), min_size=1, max_size=3), st.integers(0, 9))
def test_a_patch_lies_in_the_scan_or_begins_with_it(axes: list[tuple[int, int]], visit: int):
    shape, size = zip(*axes, strict=True)
    for start, points, own in zip(
        random_corner(shape, size, seed=0, epoch=0, key="k", visit=visit), shape, size, strict=True
    ):
        assert 0 <= start <= max(points - own, 0)


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 1}, {"key": "other"}, {"visit": 40}])
def test_corners_change_with_all_that_they_depend_on(change: dict[str, object]):
    before = [corner(visit=visit) for visit in range(30)]
    change = {"visit": 0} | change
    visits = int(str(change.pop("visit")))
    after = [corner(visit=visits + visit, **change) for visit in range(30)]  # type: ignore[arg-type]
    assert before != after
    assert before == [corner(visit=visit) for visit in range(30)]


def test_a_corner_is_the_same_for_ever():
    """Else, a resumed run would train on other patches."""
    found = [random_corner((512, 512, 300), (16, 16, 16), seed=3, epoch=2, key="k", visit=v) for v in range(2)]
    assert found == [(116, 266, 51), (23, 114, 233)]
