from __future__ import annotations

import numpy as np
import pytest

from medfuncta_dist.config.sections.data_section import Intensity
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.intensity import choose_window
from medfuncta_dist.scans.scan import Window

RAMP = np.arange(1001, dtype=np.int16).reshape(1, 7, 11, 13)


def test_auto_takes_the_whole_range_of_8_bits() -> None:
    assert choose_window(np.full((1, 4), 9, np.uint8), Intensity()) == Window(0, 255)
    assert choose_window(np.full((1, 4), 9, np.int8), Intensity()) == Window(-128, 127)


def test_auto_leaves_out_the_brightest_thousandth_of_anything_else() -> None:
    for array in (RAMP, RAMP.astype(np.float32)):
        window = choose_window(array, Intensity())
        assert (window.low, window.high) == (0, pytest.approx(999))


def test_modes() -> None:
    assert choose_window(RAMP - 5, Intensity(mode="minmax")) == Window(-5, 995)
    assert choose_window(RAMP, Intensity(mode="dtype")) == Window(-32768, 32767)
    assert choose_window(RAMP, Intensity(mode="percentile", low=10, high=90)) == Window(100, 900)
    assert choose_window(RAMP, Intensity(mode="range", low=-1000, high=400)) == Window(-1000, 400)


def test_dtype_of_floats_is_refused() -> None:
    with pytest.raises(ScanError, match="integer"):
        choose_window(RAMP.astype(np.float32), Intensity(mode="dtype"))


def test_constant_scan_has_an_empty_window() -> None:
    assert choose_window(np.full((1, 9), 5, np.int16), Intensity()) == Window(5, 5)


def test_few_bright_values_on_an_empty_background_are_still_the_scan() -> None:
    array = np.zeros((1, 100, 100), np.int16)
    array[0, 50, 50:55] = 100
    assert choose_window(array, Intensity()) == Window(0, 100)
