"""CSV files as they come: an identifier, a row number, a label or a header never becomes a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medfuncta_dist.config.sections.data_section import Csv, Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.readers.signals.ecg_csv import EcgCsvReader
from medfuncta_dist.scans.scan import Scan
from tests.unit.scans.archive import all_found, declared
from tests.writers import PATIENT

SAMPLES = 32
SIGNALS = np.round(np.sin(np.linspace(0, 9, SAMPLES) + np.arange(3)[:, None]), 4)
COUNTS = np.round(1000 + 100 * SIGNALS).astype(int)
CLASSES = ["0", "3", "1"]
MRN = ["731000017", "731000311", "731000018"]


def written(path: Path, rows: list[list[str]], separator: str = ",", header: list[str] | None = None) -> Path:
    lines = [separator.join(row) for row in ([header] if header else []) + rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def texts(values: np.ndarray = SIGNALS, form: str = ".4f") -> list[list[str]]:
    return [[format(v, form) for v in row] for row in values]


def found(path: Path, samples: int = SAMPLES, **keys: Any) -> list[Found]:
    return all_found(EcgCsvReader(declared([samples], **({"length": "exact"} | keys))), path)


def arrays(scans: list[Found]) -> np.ndarray:
    assert all(isinstance(f.scan, Scan) for f in scans), scans
    return np.stack([f.scan.array[0] for f in scans if isinstance(f.scan, Scan)])


def labels(scans: list[Found]) -> list[tuple[int, ...]]:
    return [f.scan.labels for f in scans if isinstance(f.scan, Scan)]


def same(scans: list[Found], values: np.ndarray = SIGNALS) -> bool:
    return np.array_equal(arrays(scans), values.astype(np.float32))


@pytest.mark.parametrize("separator", [",", ";", "\t", " ", "  "])
def test_separators(tmp_path: Path, separator: str) -> None:
    assert same(found(written(tmp_path / "a.csv", texts(), separator)))


@pytest.mark.parametrize("separator", [";", "\t", " "])
def test_decimal_commas(tmp_path: Path, separator: str) -> None:
    rows = [[cell.replace(".", ",") for cell in row] for row in texts()]
    assert same(found(written(tmp_path / "a.csv", rows, separator)))
    quoted = [[f'"{cell}"' for cell in row] for row in rows]
    assert same(found(written(tmp_path / "b.csv", quoted, ",")))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path / "a.csv", texts())
    path.write_text(path.read_text(), encoding=encoding)
    assert same(found(path))


def test_quotes_and_separators_at_the_end_of_each_line(tmp_path: Path) -> None:
    assert same(found(written(tmp_path / "a.csv", [[f'"{cell}"' for cell in row] + [""] for row in texts()])))


@pytest.mark.parametrize(
    "header", [[f"x{i}" for i in range(SAMPLES)], list(map(str, range(SAMPLES))), [f"{i / 250:.3f}" for i in range(32)]]
)
def test_a_header_of_names_counts_or_times_is_no_row(tmp_path: Path, header: list[str]) -> None:
    scans = found(written(tmp_path / "a.csv", texts(), header=header))
    assert same(scans)
    assert scans[0].item == "row/0"


@pytest.mark.parametrize("first", [MRN, ["0", "1", "2"], ["7", "7", "9"], [PATIENT, "A-2", "A-3"]])
def test_one_column_too_many_at_the_beginning_is_left_out_if_it_is_no_sample(tmp_path: Path, first: list[str]) -> None:
    rows = [[name, *row] for name, row in zip(first, texts(), strict=True)]
    assert same(found(written(tmp_path / "a.csv", rows)))
    with_classes = [[*row, label] for row, label in zip(rows, CLASSES, strict=True)]
    scans = found(written(tmp_path / "b.csv", with_classes))
    assert same(scans)
    assert labels(scans) == [(0,), (3,), (1,)]


def test_row_numbers_that_pandas_writes(tmp_path: Path) -> None:
    rows = [[str(i), *row] for i, row in enumerate(texts())]
    scans = found(written(tmp_path / "a.csv", rows, header=["", *map(str, range(SAMPLES))]))
    assert same(scans)


def test_classes_at_the_end_are_labels(tmp_path: Path) -> None:
    rows = [[*row, label] for row, label in zip(texts(), CLASSES, strict=True)]
    scans = found(written(tmp_path / "a.csv", rows))
    assert same(scans)
    assert labels(scans) == [(0,), (3,), (1,)]


@pytest.mark.parametrize("length", ["exact", "resample", "windows"])
@pytest.mark.parametrize("values", [SIGNALS, COUNTS])
def test_an_identifier_is_refused_where_it_would_be_a_sample(tmp_path: Path, values: np.ndarray, length: str) -> None:
    form = ".4f" if values is SIGNALS else "d"
    rows = [[name, *row] for name, row in zip(MRN, texts(values, form), strict=True)]
    with pytest.raises(ScanError, match=r"identifier; data\.csv says") as caught:
        found(written(tmp_path / "a.csv", rows), SAMPLES + 1, length=length)
    assert MRN[0] not in str(caught.value)
    at_end = [row[1:] + row[:1] for row in rows]
    with pytest.raises(ScanError, match="label or an identifier"):
        found(written(tmp_path / "b.csv", at_end), SAMPLES + 1, length=length)


@pytest.mark.parametrize("number", [MRN[0], f"{MRN[0]}.0"])
def test_a_single_row_with_an_identifier_is_refused_too(tmp_path: Path, number: str) -> None:
    for values, form in ((SIGNALS, ".4f"), (COUNTS, "d")):
        path = written(tmp_path / "a.csv", [[number, *texts(values, form)[0]]])
        with pytest.raises(ScanError, match="identifier"):
            found(path, SAMPLES + 1)


def test_more_than_one_reading_is_refused_and_the_run_file_decides(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", texts(COUNTS, "d"))
    with pytest.raises(ScanError, match=r"rows of 32 numbers, where data\.shape declares 31: one is no sample"):
        found(path, SAMPLES - 1)
    assert same(found(path, SAMPLES - 1, csv=Csv(skip=[0])), COUNTS[:, 1:])
    last = found(path, SAMPLES - 1, csv=Csv(label=-1))
    assert same(last, COUNTS[:, :-1])
    assert labels(last) == [(int(n),) for n in COUNTS[:, -1]]


def test_what_the_run_file_says_counts(tmp_path: Path) -> None:
    rows = [[name, *row] for name, row in zip(MRN, texts(), strict=True)]
    path = written(tmp_path / "a.csv", rows)
    assert arrays(found(path, SAMPLES + 1, csv=Csv()))[:, 0].tolist() == [np.float32(n) for n in MRN]
    assert same(found(path, csv=Csv(skip=[0], header=False, separator=",", decimal=".")))
    assert len(found(path, csv=Csv(skip=[0], header=True))) == 2
    with pytest.raises(ScanError, match="names a column that rows of 33 do not have"):
        found(path, csv=Csv(skip=[33]))


def test_a_row_of_another_length_is_an_error_and_not_resampled(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", texts())
    with pytest.raises(ScanError, match=r"rows of 32 numbers, where data\.shape declares 64"):
        found(path, 64)
    [scan, *_] = found(path, 64, csv=Csv())
    assert isinstance(scan.scan, ScanError)
    assert scan.scan.what == "a signal of 32 samples, where data.shape declares 64"
    assert same(found(path, 64, length="resample"))
    assert same(found(path, 64, length=None)), "data sets of earlier versions"


def test_windows_are_pieces_of_a_row_and_stay_in_its_split(tmp_path: Path) -> None:
    scans = found(written(tmp_path / "a.csv", texts()[:2]), 10, length="windows")
    assert [(f.item, f.part_of) for f in scans] == [
        (f"row/{r}/window/{w}", f"row/{r}") for r in (0, 1) for w in range(3)
    ]
    assert same(scans, SIGNALS[:2, :30].reshape(6, 10))


def test_decimal_signs_that_could_separate_thousands_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=r"data\.csv\.decimal"):
        found(written(tmp_path / "a.csv", [["1,234", "2,345"]], ";"), 2)
    with pytest.raises(ScanError, match=r"data\.csv\.decimal"):
        found(written(tmp_path / "b.csv", [["1,2", "2.3"]], ";"), 2)
    assert same(
        found(written(tmp_path / "c.csv", [["1,234", "2,345"]], ";"), 2, csv=Csv(decimal=",")),
        np.array([[1.234, 2.345]]),
    )


@pytest.mark.parametrize("cell", ["1_0", "٣", "0x1", "1,0", PATIENT])
def test_only_plain_numbers_are_numbers(tmp_path: Path, cell: str) -> None:
    rows = texts()
    rows[1][5] = f'"{cell}"'
    bad = found(written(tmp_path / "a.csv", rows), csv=Csv(separator=",", decimal="."))[1].scan
    assert isinstance(bad, ScanError)
    assert bad.what == "a row with a field that is not a number"


def test_an_option_that_contradicts_another_is_refused() -> None:
    with pytest.raises(ValueError, match="in skip, and is the label"):
        Csv(skip=[3], label=3)
    with pytest.raises(ValueError, match="the same sign"):
        Csv(decimal=",", separator=",")
    with pytest.raises(ValueError, match="length is for signals"):
        Data(source="x", shape=[4, 4], length="exact")


SIGNAL = st.lists(st.floats(-5, 5, width=32).map(lambda v: f"{v:.5f}"), min_size=12, max_size=12)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(10**4, 10**10), SIGNAL), min_size=1, max_size=8),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["exact", "resample", "windows"]),
    st.integers(11, 14),
)
def test_no_identifier_ever_becomes_a_sample(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, list[str]]],
    separator: str,
    length: str,
    declared_samples: int,
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    written(path, [[str(number), *signal] for number, signal in rows], separator)
    try:
        scans = found(path, declared_samples, length=length)
    except ScanError:
        return
    values = [float(v) for f in scans if isinstance(f.scan, Scan) for v in f.scan.array[0]]
    assert all(abs(v) <= 5 for v in values)
