from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medfuncta_dist.fingerprint.scan_facts import LARGEST, PERCENTILES, POOLED, facts_of, orientation_of
from medfuncta_dist.scans.scan import Scan

RAMP = np.arange(1001, dtype=np.int16).reshape(1, 7, 11, 13)


def scan(array: np.ndarray, affine: np.ndarray | None = None, modality: str = "MR") -> Scan:
    return Scan(array, (1.5,) * (array.ndim - 1), affine, modality)


def turned(degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 1]])


def test_percentiles_are_those_of_all_values() -> None:
    facts = facts_of(scan(RAMP), 1)
    assert facts is not None
    assert facts.percentiles == tuple(np.percentile(RAMP, PERCENTILES))
    assert (facts.shape, facts.spacing, facts.channels, facts.dtype) == ((7, 11, 13), (1.5,) * 3, 1, "int16")
    assert facts.background == pytest.approx(1 / 1001)
    assert sorted(facts.values) == list(range(1001))


def test_a_large_scan_is_represented_by_a_draw_that_its_seed_decides() -> None:
    array = np.random.default_rng(0).normal(size=(1, 2049, 2049)).astype(np.float32)
    assert array.size > LARGEST
    one, same, other = (facts_of(scan(array), seed) for seed in (1, 1, 2))
    assert one is not None and same is not None and other is not None  # noqa: PT018
    assert one.values.shape == (POOLED,)
    assert np.array_equal(one.values, same.values)
    assert one.percentiles == same.percentiles
    assert not np.array_equal(one.values, other.values)
    assert one.percentiles == pytest.approx(tuple(np.percentile(array, PERCENTILES)), abs=0.01)


def test_values_that_are_not_finite_do_not_count() -> None:
    array = RAMP.astype(np.float32)
    array[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    facts = facts_of(scan(array), 1)
    assert facts is not None
    assert not facts.finite
    assert facts.percentiles == pytest.approx(tuple(np.percentile(np.arange(3, 1001), PERCENTILES)))
    assert facts_of(scan(np.full((1, 4), np.nan, np.float32)), 1) is None


def test_hounsfield_units_are_those_that_the_file_says() -> None:
    ct = scan(RAMP, modality="CT")
    for one, expected in (
        (ct, True),
        (replace(ct, unscaled=True), False),
        (replace(ct, array=RAMP.astype(np.uint8)), False),
        (replace(ct, modality="MR"), False),
    ):
        facts = facts_of(one, 1)
        assert facts is not None
        assert facts.hounsfield is expected


@pytest.mark.parametrize(
    ("shape", "affine", "expected"),
    [
        ((3, 3, 3), turned(4), "RAS"),
        ((3, 3, 3), turned(20), "RAS oblique"),
        ((3, 3), turned(4), "axial"),
        ((3, 3), turned(4)[:, [2, 0, 1, 3]], "coronal"),
        ((3, 3), turned(30), "axial oblique"),
        ((3, 3), None, "unknown"),
        ((9,), None, "signal"),
    ],
)
def test_orientation(shape: tuple[int, ...], affine: np.ndarray | None, expected: str) -> None:
    assert orientation_of(scan(np.zeros((1, *shape), np.int16), affine)) == expected
