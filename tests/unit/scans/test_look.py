from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medfuncta_dist.scans.look import NUMBERS, look_of, look_of_pieces
from tests.writers import structured

SHAPES = [(1, 187), (12, 500), (1, 40, 56), (3, 48, 48), (1, 24, 20, 28), (1, 5000), (1, 2, 3), (1, 2)]


def scan(shape: tuple[int, ...], seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).random(shape)
    smooth = gaussian_filter(noise, [0, *(n / 20 for n in shape[1:])])
    return ((smooth - smooth.min()) / (np.ptp(smooth) or 1)).astype(np.float32)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    x, y = look_of(a).astype(float), look_of(b).astype(float)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


@pytest.mark.parametrize("shape", SHAPES)
def test_copies_that_were_changed_a_little_look_alike(shape: tuple[int, ...]) -> None:
    values, rng = scan(shape, 1), np.random.default_rng(0)
    assert likeness(values, values) == pytest.approx(1)
    assert likeness(values, values * 0.7 + 0.2) > 0.995
    if values[0].size > 100:
        assert likeness(values, (values + rng.normal(0, 0.02, shape)).astype(np.float32).clip(0, 1)) > 0.97
        assert likeness(values, np.round(values * 15).astype(np.float32) / 15) > 0.97


@pytest.mark.parametrize("shape", [s for s in SHAPES if np.prod(s) > 100])
def test_other_scans_do_not(shape: tuple[int, ...]) -> None:
    assert max(likeness(scan(shape, 1), scan(shape, n)) for n in range(2, 8)) < 0.97


def test_another_resolution_looks_alike() -> None:
    rows = scan((1, 96, 96), 3)
    assert likeness(rows, rows.reshape(1, 48, 2, 48, 2).mean(axis=(2, 4))) > 0.99
    line = scan((1, 6000), 3)
    assert likeness(line, line.reshape(1, 600, 10).mean(axis=2)) > 0.99


def test_colours_count() -> None:
    red, blue = np.zeros((2, 3, 16, 16), np.float32)
    red[0], blue[2] = (structured((16, 16), 1),) * 2
    assert likeness(red, blue) < 0.9


def test_a_constant_scan_looks_like_nothing() -> None:
    assert not look_of(np.full((1, 9, 9), 0.3, np.float32)).any()
    assert look_of(scan((1, 9, 9), 0)).shape == (NUMBERS,)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("few", [1, 3, 10**4])
def test_a_scan_in_pieces_looks_the_same(shape: tuple[int, ...], few: int) -> None:
    values = scan(shape, 1)
    pieces = (values[:, start : start + few] for start in range(0, shape[1], few))
    difference = look_of_pieces(pieces, shape).astype(int) - look_of(values)
    assert np.abs(difference).max() <= 1


def test_a_constant_scan_in_pieces_looks_like_nothing() -> None:
    values = np.full((1, 9, 9), 0.3, np.float32)
    assert not look_of_pieces([values[:, :4], values[:, 4:]], values.shape).any()
