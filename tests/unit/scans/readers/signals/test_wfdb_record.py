"""WFDB records, written and read again by PhysioNet's own library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb

from medfuncta_dist.errors import RunFileError, ScanError
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.readers.signals import wfdb_record
from medfuncta_dist.scans.readers.signals.wfdb_header import record_files
from medfuncta_dist.scans.readers.signals.wfdb_record import WfdbReader
from medfuncta_dist.scans.scan import Scan
from tests.unit.scans.archive import all_found, declared
from tests.writers import PATIENT, write_wfdb

SAMPLES = 1000


def found(path: Path, samples: int = SAMPLES, channels: int = 2, **keys: Any) -> list[Found]:
    return all_found(WfdbReader(declared([samples], channels=channels, **({"length": "exact"} | keys))), path)


def scan(path: Path, *args: Any, **keys: Any) -> Scan:
    [only] = found(path, *args, **keys)
    assert isinstance(only.scan, Scan), only.scan
    return only.scan


def by_library(path: Path) -> np.ndarray:
    """(lead, sample) in the units of the record."""
    return wfdb.rdrecord(str(path.with_suffix(""))).p_signal.T


@pytest.mark.parametrize("form", ["16", "212", "80", "24", "32", "516"])
def test_values_are_the_library_s_in_every_format(tmp_path: Path, form: str) -> None:
    path = write_wfdb(tmp_path / "100.hea", form=form)
    read = scan(path)
    np.testing.assert_allclose(read.array, by_library(path), rtol=1e-6, atol=1e-9)
    assert (read.spacing, read.modality) == ((1 / 360,), "ECG")


def test_voltages_are_in_millivolts_and_missing_samples_are_no_numbers(tmp_path: Path) -> None:
    path = write_wfdb(tmp_path / "100.hea", units=("uV", "mmHg"), missing=range(20, 30))
    expected = by_library(path) * [[1e-3], [1]]
    assert np.isnan(expected).sum() == 10
    np.testing.assert_allclose(scan(path).array, expected, rtol=1e-6)


def test_a_half_hour_record_is_cut_into_windows_or_refused_but_never_squeezed(tmp_path: Path) -> None:
    path = write_wfdb(tmp_path / "100.hea", samples=650_000, form="212")
    for length in ("exact", None):
        [refused] = found(path, 187, length=length)
        assert isinstance(refused.scan, ScanError)
        assert refused.scan.what == "a signal of 650000 samples, where data.shape declares 187"
    windows = found(path, 3600, length="windows")
    assert [windows[0].item, windows[-1].item, len(windows)] == ["window/0", "window/179", 180]
    assert {f.part_of for f in windows} == {""}, "all are in one split"
    joined = np.concatenate([f.scan.array for f in windows if isinstance(f.scan, Scan)], axis=1)
    np.testing.assert_allclose(joined, by_library(path)[:, : 180 * 3600], rtol=1e-6)
    [short] = found(path, 700_000, length="windows")
    assert isinstance(short.scan, ScanError)


def test_leads_are_chosen_by_name_or_number(tmp_path: Path) -> None:
    path = write_wfdb(tmp_path / "100.hea")
    whole = scan(path).array
    assert np.array_equal(scan(path, leads=["v5", "MLII"]).array, whole[::-1])
    assert np.array_equal(scan(path, channels=1, leads=[1]).array, whole[1:])
    for refused in ({"channels": 1}, {"channels": 1, "leads": ["V9"]}, {"channels": 1, "leads": [2]}):
        with pytest.raises(ScanError, match=r"data\.leads"):
            found(path, **refused)


def test_segments_and_gaps(tmp_path: Path) -> None:
    for number in (1, 2):
        write_wfdb(tmp_path / f"s_000{number}.hea", seed=number)
    (tmp_path / "fixed.hea").write_text("fixed/2 2 360 2000\ns_0001 1000\ns_0002 1000\n")
    assert WfdbReader().parts(tmp_path / "fixed.hea") == ["s_0001.hea", "s_0001.dat", "s_0002.hea", "s_0002.dat"]
    joined = np.concatenate([by_library(tmp_path / f"s_000{n}.hea") for n in (1, 2)], axis=1)
    np.testing.assert_allclose(scan(tmp_path / "fixed.hea", 2000).array, joined, rtol=1e-6)
    layout = "".join(f"~ 0 200 16 0 0 0 0 {lead}\n" for lead in ("MLII", "V5", "III"))
    (tmp_path / "s_layout.hea").write_text(f"s_layout 3 360 0\n{layout}")
    (tmp_path / "gap.hea").write_text("gap/4 3 360 2100\ns_layout 0\ns_0001 1000\n~ 100\ns_0002 1000\n")
    read = scan(tmp_path / "gap.hea", 2100, channels=2, leads=["MLII", "V5"]).array
    np.testing.assert_allclose(np.delete(read, range(1000, 1100), axis=1), joined, rtol=1e-6)
    assert np.isnan(read[:, 1000:1100]).all()


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
def test_gaps_without_a_layout_segment_are_refused_by_that_reason(tmp_path: Path, order: tuple[int, ...]) -> None:
    for number in (1, 2):
        write_wfdb(tmp_path / f"s_000{number}.hea", seed=number)
    lines = ["~ 100", "s_0001 1000", "s_0002 1000"]
    header = tmp_path / "gap.hea"
    header.write_text("\n".join(["gap/3 2 360 2100", *(lines[n] for n in order)]))
    with pytest.raises(ScanError, match="without a layout segment"):
        found(header, 2100)
    # Its segments are still known as parts: they are no records of their own.
    assert record_files(header.read_bytes()).segments == ("s_0001", "s_0002")


def test_no_name_gets_into_a_log(tmp_path: Path) -> None:
    """In a process of its own: loggers that only come to be when the first file is opened count too."""
    path = write_wfdb(tmp_path / "Doe_Jane.hea")
    (tmp_path / "Doe_John.hea").write_text("Doe_John/2 2 360 2000\nDoe_Jane 1000\nDoe_Jane 1000\n")
    script = (
        "import logging, sys; logging.basicConfig(level=logging.DEBUG)\n"
        "from pathlib import Path\n"
        "from medfuncta_dist.scans.readers.signals.wfdb_record import WfdbReader\n"
        "for path in sys.argv[1:]: [one] = WfdbReader().scans(Path(path)); print(one.scan.array.shape)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "Doe_John.hea"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(2, 2000)", "(2, 1000)"]
    assert "Doe" not in done.stderr


def test_leads_of_several_rates(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=400)
    wfdb.wrsamp(
        "a",
        fs=100,
        units=["mV", "NU"],
        sig_name=["I", "resp"],
        e_p_signal=[values, values[:100]],
        samps_per_frame=[4, 1],
        fmt=["16", "16"],
        write_dir=str(tmp_path),
    )
    read = scan(tmp_path / "a.hea", 400, channels=1, leads=["I"])
    expected = wfdb.rdrecord(str(tmp_path / "a"), smooth_frames=False).e_p_signal[0]
    np.testing.assert_allclose(read.array[0], expected, rtol=1e-6)
    assert read.spacing == (0.0025,)
    with pytest.raises(ScanError, match="different sampling rates"):
        found(tmp_path / "a.hea", 400)


def test_samples_that_do_not_match_the_header_s_checksum_are_refused(tmp_path: Path) -> None:
    path = write_wfdb(tmp_path / "100.hea")
    data = bytearray(path.with_suffix(".dat").read_bytes())
    data[100] ^= 1
    path.with_suffix(".dat").write_bytes(data)
    with pytest.raises(ScanError, match="checksum"):
        found(path)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("", "not a readable WFDB header"),
        (f"{PATIENT}\n", "not a readable WFDB header"),
        ("a 2 360 100\na.dat 16\n", "cut off"),
        ("a 1 360 100\n../../etc/passwd 16 200\n", "not plain"),
        ("a 1 360 100\nfile:///etc/passwd 16 200\n", "not plain"),
        ("a 1 360 100\n/etc/passwd 16 200\n", "not plain"),
        ("a 1 360 100\nmissing.dat 16 200\n", "is missing"),
        ("a 1 360 900000000\nb.dat 516 200\n", "declares 900000000 values"),
        ("a 1 360 400000000\nb.dat 516 200\n", "bomb"),
        ("a 1 360 100\nb.dat 999 200\n", "damaged"),
        ("a/1 1 360 100\na 100\n", "has segments"),
        ("a 0 360 100\n", "without signals"),
    ],
)
def test_headers_made_to_harm_and_damaged_ones(tmp_path: Path, header: str, reason: str) -> None:
    (tmp_path / "a.hea").write_text(header)
    (tmp_path / "b.dat").write_bytes(bytes(64))
    with pytest.raises(ScanError, match=reason) as caught:
        found(tmp_path / "a.hea", 100, channels=1)
    assert "Doe" not in str(caught.value)


def test_comments_name_the_patient_and_are_not_read(tmp_path: Path) -> None:
    path = write_wfdb(tmp_path / "100.hea", comments=[f"age: 69 sex: M {PATIENT}"])
    [only] = found(path)
    assert PATIENT not in repr(only)


def test_without_the_library_the_run_is_refused_and_no_scan_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wfdb", None)
    with pytest.raises(RunFileError) as caught:
        wfdb_record._library()
    assert caught.value.do.startswith("pip install 'medfuncta-dist[ecg]'")
