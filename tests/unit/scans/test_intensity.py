from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.config.sections.data_section import Data, Intensity
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.canonical import windowed
from medfuncta_dist.scans.intensity import choose_window, intensity_of
from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
from medfuncta_dist.scans.scan import Scan, Window
from tests.writers import write_dicom

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


def test_a_ct_in_hounsfield_units_has_the_data_set_s_window() -> None:
    data = Data(source="x", shape=[4, 4], ct_window=[-1000, 1000])
    ct = Scan(RAMP[0, :1], (1.0, 1.0), None, "CT")
    assert windowed(ct, data).window == Window(-1000, 1000)
    for other in (
        replace(ct, modality="MR"),
        replace(ct, unscaled=True),
        replace(ct, array=ct.array.astype(np.uint8)),
    ):
        assert intensity_of(other, data) == data.intensity
    for without in (data.model_copy(update={"ct_window": "off"}), Data(source="x", shape=[4, 4])):
        assert intensity_of(ct, without) == without.intensity
    chosen = Data(source="x", shape=[4, 4], intensity=Intensity(mode="minmax"))
    assert intensity_of(ct, chosen) == chosen.intensity


def test_the_file_says_whether_a_ct_is_in_hounsfield_units(tmp_path: Path) -> None:
    data = Data(source="x", shape=[8, 8], ct_window=[-1000, 1000])
    with_rescale = write_dicom(tmp_path / "a.dcm", modality="CT", slope=1, intercept=-1024)
    without = write_dicom(tmp_path / "b.dcm", modality="CT")
    of_mr = write_dicom(tmp_path / "c.dcm", modality="MR", slope=1, intercept=-1024)
    (one,), (two,), (three,) = (list(DicomReader().scans(path)) for path in (with_rescale, without, of_mr))
    assert isinstance(one.scan, Scan)
    assert isinstance(two.scan, Scan)
    assert isinstance(three.scan, Scan)
    assert windowed(one.scan, data).window == Window(-1000, 1000)
    assert windowed(two.scan, data).window != Window(-1000, 1000)
    assert (two.scan.unscaled, three.scan.unscaled) == (True, False)
    assert windowed(three.scan, data).window != Window(-1000, 1000)
