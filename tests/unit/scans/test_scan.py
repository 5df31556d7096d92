from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.scan import STORED_TYPES, Scan, Window, stored


def test_window_maps_its_ends_to_0_and_1_and_clips_beyond() -> None:
    values = Window(-100.0, 300.0).normalise(np.array([-500, -100, 100, 300, 900], np.int16))
    assert values.dtype == np.float32
    assert values.tolist() == [0, 0, 0.5, 1, 1]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.lists(st.floats(0, 1), min_size=1))
def test_restore_undoes_normalise(low: float, width: float, values: list[float]) -> None:
    window = Window(low, low + width)
    scan = low + np.array(values) * (window.high - window.low)
    np.testing.assert_allclose(window.restore(window.normalise(scan)), scan, atol=1e-6 * (abs(low) + width))


def test_32_bit_integers_with_an_offset_keep_their_low_bits() -> None:
    window = Window(2.0**30, 2.0**30 + 4)
    assert window.normalise(np.array([2**30 + 1, 2**30 + 3], np.int32)).tolist() == [0.25, 0.75]


def test_constant_scan_is_0_and_restored_exactly() -> None:
    window = Window(7.0, 7.0)
    values = window.normalise(np.full((1, 3), 7, np.int16))
    assert values.tolist() == [[0, 0, 0]]
    assert window.restore(values).tolist() == [[7, 7, 7]]


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (np.nan, 1.0), (0.0, np.inf), (-1.7e308, 1.7e308)])
def test_window_that_is_no_finite_interval_is_refused(low: float, high: float) -> None:
    with pytest.raises(ScanError, match="window"):
        Window(low, high)


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, -2.0), (1.0, np.nan)])
def test_spacing_must_be_positive_for_each_axis(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ScanError, match="spacing"):
        Scan(np.zeros((1, 4, 4), np.uint8), spacing, None, "OT")


def test_affine_must_be_invertible() -> None:
    with pytest.raises(ScanError, match="affine"):
        Scan(np.zeros((1, 4, 4), np.uint8), (1.0, 1.0), np.diag([1.0, 1, 0, 1]), "OT")


@pytest.mark.parametrize("shape", [(1,), (1, 2, 0), (1, 2, 2, 2, 2)])
def test_axes_must_be_one_to_three_and_not_empty(shape: tuple[int, ...]) -> None:
    with pytest.raises(ScanError, match="axes"):
        Scan(np.zeros(shape, np.uint8), (1.0,) * (len(shape) - 1), None, "OT")


@pytest.mark.parametrize("dtype", [*STORED_TYPES, ">i2", ">f4", "bool", "float16", "float64", "int64", "uint64"])
def test_stored_keeps_every_value_in_a_type_that_is_stored(dtype: str) -> None:
    array = np.array([[0, 1], [1, 0]]).astype(dtype)
    kept = stored(array)
    assert kept.dtype.name in STORED_TYPES
    assert kept.dtype.isnative
    assert (kept == array).all()


def test_stored_copies_nothing_that_is_fine_already() -> None:
    array = np.arange(4, dtype=np.int16)
    assert stored(array) is array


@pytest.mark.parametrize("array", [np.array([2**40]), np.array([-(2**31) - 1]), np.array([1j]), np.array(["a"])])
def test_stored_refuses_what_would_change(array: np.ndarray) -> None:
    with pytest.raises(ScanError):
        stored(array)


def test_scan_crosses_process_borders() -> None:
    scan = Scan(np.zeros((1, 4), np.uint8), (1.0,), None, "ECG", Window(0, 1), (3,))
    copy = pickle.loads(pickle.dumps(scan))
    assert (copy.window, copy.labels, copy.shape, copy.channels) == (Window(0, 1), (3,), (4,), 1)
