from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.readers.signals.ecg_csv import EcgCsvReader
from medfuncta_dist.scans.scan import Scan
from tests.unit.scans.archive import all_found
from tests.writers import PATIENT, write_ecg_csv

READER = EcgCsvReader()


def read(path: Path, text: str) -> list[Found]:
    path.write_text(text)
    return all_found(READER, path)


def arrays(found: list[Found]) -> list[list[float]]:
    return [f.scan.array[0].tolist() for f in found if isinstance(f.scan, Scan)]


def test_mit_bih_layout_has_its_label_in_the_last_column(tmp_path: Path) -> None:
    found = all_found(READER, write_ecg_csv(tmp_path / "a.csv", rows=6))
    table = np.loadtxt(tmp_path / "a.csv", delimiter=",")
    assert [f.item for f in found] == [f"row/{i}" for i in range(6)]
    for f, row in zip(found, table, strict=True):
        assert isinstance(f.scan, Scan)
        assert f.scan.array.shape == (1, 187)
        np.testing.assert_allclose(f.scan.array[0], row[:-1], rtol=1e-6, atol=1e-30)
        assert f.scan.labels == (int(row[-1]),)
        assert f.scan.modality == "ECG"
        assert f.split is None


def test_rows_of_another_length_are_samples_only(tmp_path: Path) -> None:
    [found] = read(tmp_path / "a.csv", "0.5,1,0\n")
    assert isinstance(found.scan, Scan)
    assert (found.scan.array.tolist(), found.scan.labels) == ([[0.5, 1, 0]], ())


def test_header_and_empty_lines_are_no_rows(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", "\na,b\r\n1,2\n\n3,4\n")
    assert [f.item for f in found] == ["row/0", "row/1"]
    assert arrays(found) == [[1, 2], [3, 4]]


def test_one_damaged_row_is_refused_alone(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", f"1,2\n3,{PATIENT}\n5\n6,7,8\n9,\n10,11\n")
    assert len(found) == 6
    assert arrays(found) == [[1, 2], [10, 11]]
    errors = [f.scan.what for f in found if isinstance(f.scan, ScanError)]
    assert errors == [
        "a row with a field that is not a number",
        "a row of 1 fields in a file of 2",
        "a row of 3 fields in a file of 2",
        "a row with a field that is not a number",
    ]


@pytest.mark.parametrize("label", ["0.5", "nan", "inf"])
def test_labels_are_whole_numbers(tmp_path: Path, label: str) -> None:
    [found] = read(tmp_path / "a.csv", ",".join(["0.1"] * 187 + [label]))
    assert isinstance(found.scan, ScanError)
    assert "label" in found.scan.what


def test_numbers_beyond_float32_become_infinite_for_the_canonical_check(tmp_path: Path) -> None:
    [found] = read(tmp_path / "a.csv", "1e300,0.5")
    assert isinstance(found.scan, Scan)
    assert np.isinf(found.scan.array[0, 0])


@pytest.mark.parametrize("text", ["", "\n\n", "a,b\n"])
def test_files_without_rows_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ScanError, match="without rows"):
        read(tmp_path / "a.csv", text)


def test_binary_files_do_not_get_their_bytes_into_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"1,2\n\xff\xfe\x00,3\n")
    found = all_found(READER, tmp_path / "a.csv")
    assert isinstance(found[1].scan, ScanError)
    assert found[1].scan.what == "a row with a field that is not a number"


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1," * 2**23 + "1\n")
    with pytest.raises(ScanError, match="too long"):
        all_found(READER, tmp_path / "a.csv")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="error 2"):
        all_found(READER, tmp_path / f"{PATIENT}.csv")
