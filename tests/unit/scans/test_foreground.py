"""Foreground masks on made phantoms: a body with holes, air around it, and a table beside it."""

from __future__ import annotations

import numpy as np
import pytest

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.foreground import foreground_of


def distance(shape: tuple[int, ...], centre: tuple[float, ...]) -> np.ndarray:
    """Of every point from a centre, in voxels."""
    points = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    found: np.ndarray = np.sqrt(((points - np.reshape(centre, (-1, *[1] * len(shape)))) ** 2).sum(0))
    return found


def phantom(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy values and the body: a bright ball with a dark hole, a bright table line that does not touch it."""
    centre = tuple(n / 2 - 1 for n in shape)
    body = distance(shape, centre) < min(shape) / 3
    values = 0.7 * body
    values[distance(shape, centre) < min(shape) / 9] = 0.05
    values[..., -3:-1] = 0.8
    noise = np.random.default_rng(seed).normal(0, 0.04, shape)
    return (values + noise).clip(0, 1).astype(np.float32), body


@pytest.mark.parametrize("shape", [(90,), (48, 40), (30, 24, 26)])
def test_the_body_is_found_with_its_holes_and_without_air_and_table(shape: tuple[int, ...]) -> None:
    values, body = phantom(shape)
    mask = foreground_of(values)
    assert mask.dtype == bool
    if len(shape) > 1:
        assert np.array_equal(mask, body)
    else:  # a hole cuts a line in two, of which the larger remains
        assert not mask[-3:].any()
        assert 0 < mask.sum() <= body.sum()
        assert not (mask & ~body).any()


def test_a_dark_plateau_in_a_line_that_does_not_cut_it_is_kept() -> None:
    values = np.zeros(60)
    values[10:40], values[20:25], values[50:55] = 0.9, 0.6, 1.0
    assert foreground_of(values).nonzero()[0].tolist() == list(range(10, 40))


def test_an_airway_that_leaves_at_the_end_of_a_volume_does_not_open_the_body() -> None:
    values = np.zeros((20, 20, 12))
    body = distance((20, 20), (9.5, 9.5)) < 7
    values[body] = 1.0
    values[9:11, 9:11] = 0.0
    assert np.array_equal(foreground_of(values), np.repeat(body[..., None], 12, -1))


@pytest.mark.parametrize(("scale", "offset"), [(2000.0, -1000.0), (1e-3, 5.0), (1.0, 0.0)])
def test_the_unit_of_values_does_not_count(scale: float, offset: float) -> None:
    values, body = phantom((48, 40))
    assert np.array_equal(foreground_of(values.astype(np.float64) * scale + offset), body)


def test_whole_numbers_are_values_too() -> None:
    values, body = phantom((48, 40))
    assert np.array_equal(foreground_of((values * 255).round().astype(np.uint8)), body)


def test_values_that_are_not_finite_are_background() -> None:
    values, body = phantom((48, 40))
    values[:2], values[-1, 0] = np.nan, np.inf
    assert np.array_equal(foreground_of(values), body)
    with pytest.raises(ScanError, match="finite"):
        foreground_of(np.full((4, 4), np.nan))


def test_a_scan_of_one_value_is_all_foreground() -> None:
    assert foreground_of(np.full((5, 6), 0.3)).all()


def test_values_are_left_as_they_are() -> None:
    values, _ = phantom((48, 40))
    before = values.copy()
    foreground_of(values)
    assert np.array_equal(values, before)


@pytest.mark.parametrize(
    ("dark", "bright"),
    [
        (np.float32(1), np.nextafter(np.float32(1), np.float32(2))),
        (np.float32(0), np.float32(1e-45)),
        (np.float32(-3e38), np.float32(3e38)),
        (np.float64(-1.7e308), np.float64(1.7e308)),
        (np.int32(-(2**31)), np.int32(2**31 - 1)),
        (np.uint32(0), np.uint32(2**32 - 1)),
    ],
)
def test_a_body_is_found_whatever_its_type_and_range(dark: np.generic, bright: np.generic) -> None:
    body = distance((8, 8), (4, 4)) < 3
    values = np.where(body, bright, dark)
    assert values.dtype == dark.dtype
    assert np.array_equal(foreground_of(values), body)
