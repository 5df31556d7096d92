"""Damaged frames that end the process which decodes them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.dicom import decoder as decoding
from medfuncta_dist.scans.readers.dicom.decoder import Decoder
from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
from tests.unit.scans.archive import PYDICOM, only, reason

WHOLE = PYDICOM / "SC_rgb_jpeg_dcmtk.dcm"
ENDED = "the DICOM file's pixels are damaged: their decoder did not survive them"


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    it = Decoder()
    yield it
    it.close()


def deadly(path: Path) -> Path:
    """One byte of a marker in the JPEG header is another one: GDCM 3.2.6 calls abort()."""
    data = bytearray(WHOLE.read_bytes())
    assert data[1712] == 0xFF
    data[1712] = 13
    path.write_bytes(data)
    return path


def test_a_frame_that_ends_its_decoder_is_refused_and_the_next_file_is_read(tmp_path: Path) -> None:
    before = only(DicomReader(), WHOLE).array
    for _ in range(2):
        assert reason(DicomReader(), deadly(tmp_path / "a.dcm")) == ENDED
        assert (only(DicomReader(), WHOLE).array == before).all()


def test_a_decoder_that_ended_between_two_frames_costs_none(decoder: Decoder) -> None:
    before = decoder.frame(WHOLE, 0, 1, 1)
    assert decoder._process is not None
    decoder._process.kill()
    decoder._process.wait()
    assert np.array_equal(decoder.frame(WHOLE, 0, 1, 2), before)


def test_frames_of_two_files_are_not_mixed_up(decoder: Decoder) -> None:
    one, other = PYDICOM / "examples_ybr_color.dcm", PYDICOM / "MR_small_jp2klossless.dcm"
    first = decoder.frame(one, 0, 30, 1)
    assert decoder.frame(other, 0, 1, 2).shape == (64, 64)
    assert not np.array_equal(decoder.frame(one, 29, 30, 3), first)
    assert np.array_equal(decoder.frame(one, 0, 30, 3), first)


def test_a_decoder_that_takes_too_long_is_ended(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder.frame(WHOLE, 0, 1, 1)
    assert decoder._process is not None
    os.kill(decoder._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(decoding, "SECONDS", 0.2)
    with pytest.raises(ScanError, match="did not survive"):
        decoder.frame(WHOLE, 0, 1, 2)


def test_an_error_of_the_machine_is_not_the_file_s(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "CODE", "raise SystemExit(1)  # {}")
    with pytest.raises(OSError, match="did not start"):
        decoder.frame(WHOLE, 0, 1, 1)


def test_it_ends_with_the_process_that_started_it(decoder: Decoder) -> None:
    decoder.frame(WHOLE, 0, 1, 1)
    process = decoder._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()  # as the end of the parent does
    assert process.wait(10) == 0
