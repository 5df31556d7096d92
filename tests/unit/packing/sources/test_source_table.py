from __future__ import annotations

import datetime
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.packing.sources.source_table import SourceTable, TableRow, load_table

WHOLE = "source,group\na/1.png,Doe\na/2.png,Doe\nb.png,Roe\n"


def table(tmp_path: Path, text: str | bytes, **columns: str) -> SourceTable:
    path = tmp_path / "patients.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    loaded = load_table(Data.model_validate({"source": "x", "shape": [8], "group": {"table": str(path)} | columns}))
    assert loaded is not None
    return loaded


def test_every_source_gets_its_row(tmp_path: Path) -> None:
    found = table(tmp_path, WHOLE).rows
    assert found == {"a/1.png": TableRow("Doe"), "a/2.png": TableRow("Doe"), "b.png": TableRow("Roe")}


def test_columns_have_the_names_that_the_run_file_gives(tmp_path: Path) -> None:
    text = "\ufefffile, x,mrn,fold\r\nb.png,1,77,test\r\n"
    assert table(tmp_path, text, source="file", group="mrn", split="fold").rows == {"b.png": TableRow("77", "test")}


def test_no_table_where_none_is_named() -> None:
    assert load_table(Data(source="x", shape=[8])) is None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("path,patient\nDoe,1\n", "no column 'source' and no column 'group'"),
        ("source,group\nDoe.png,\n", "row 1 of the table has no source or no group"),
        ("source,group\nDoe.png\n", "row 1 of the table has no source or no group"),
        (WHOLE + "b.png,Smith\n", "1 rows of the table say something else"),
        (b"source,group\n\xff\xfe,Doe\n", "not UTF-8"),
        ('source,group\n"Doe"x,1\n', "not a valid CSV"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_without_quoting_it(
    tmp_path: Path, text: str | bytes, what: str
) -> None:
    with pytest.raises(RunFileError, match=what) as caught:
        table(tmp_path, text)
    assert "Doe" not in str(caught.value)


def test_a_split_that_is_no_split_s_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="row 1 of the table has no valid split"):
        table(tmp_path, "source,group,split\nb.png,1,Test Set\n", split="split")


def test_labels_are_whole_numbers(tmp_path: Path) -> None:
    text = "source,group,labels\na.png,1,3\nb.png,2,0 -12\nc.png,3,\n"
    found = table(tmp_path, text, label="labels").rows
    assert [row.labels for row in found.values()] == [(3,), (0, -12), ()]
    for wrong in ("1.5", "2024-01-31", "1234567890", "Doe"):
        with pytest.raises(RunFileError, match="row 1 of the table has a label that is not a whole number") as caught:
            table(tmp_path, f"source,group,labels\na.png,1,{wrong}\n", label="labels")
        assert wrong not in str(caught.value)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    rule = {"table": str(tmp_path / "none.csv")}
    with pytest.raises(RunFileError, match="does not exist"):
        load_table(Data.model_validate({"source": "x", "shape": [8], "group": rule}))


def told(
    tmp_path: Path, cells: list[object], label: object, *, suffix: str = ".csv", keep: bool = False
) -> list[object]:
    """The labels of a column, by ``data.table``."""
    path = tmp_path / f"labels{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"path": [f"{n}.png" for n in range(len(cells))], "x": pa.array(cells)}), path)
    else:
        path.write_text("path\tx\n" + "".join(f"{n}.png\t{cell}\n" for n, cell in enumerate(cells)))
    data = {"source": "x", "shape": [8], "table": {"path": str(path), "label": label}}
    loaded = load_table(Data.model_validate(data | ({"identifying_labels": "keep"} if keep else {})))
    assert loaded is not None
    return [row.labels for row in loaded.rows.values()]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_have_types(tmp_path: Path, suffix: str) -> None:
    assert told(tmp_path, [2, 0], "x", suffix=suffix) == [(2,), (0,)]
    assert told(tmp_path, [2.0, 0.0], "x", suffix=suffix) == [(2,), (0,)]  # as pandas writes a column with gaps
    classes = {"column": "x", "categories": ["normal", "pneumonia"]}
    assert told(tmp_path, ["pneumonia", "normal", ""], classes, suffix=suffix) == [(1,), (0,), ()]
    ages = {"column": "x", "bins": [18, 65]}
    assert told(tmp_path, ["17.9", "18", "64", "65", "-1", ""], ages, suffix=suffix) == [
        (0,),
        (1,),
        (1,),
        (2,),
        (0,),
        (),
    ]
    both = [classes, {"column": "x", "categories": ["pneumonia", "normal"]}]
    assert told(tmp_path, ["pneumonia", "normal"], both, suffix=suffix) == [(1, 0), (0, 1)]


def test_what_stands_for_a_missing_value_is_no_label_unless_it_is_a_category(tmp_path: Path) -> None:
    assert told(tmp_path, ["n/a", "3", "NA"], "x") == [(), (3,), ()]
    assert told(tmp_path, ["n/a", "70"], {"column": "x", "bins": [65]}) == [(), (1,)]
    assert told(tmp_path, ["NA", "n/a", "EU"], {"column": "x", "categories": ["EU", "NA"]}) == [(1,), (), (0,)]


def test_a_parquet_table_has_days_flags_and_gaps(tmp_path: Path) -> None:
    assert told(tmp_path, [True, False], "x", suffix=".parquet") == [(1,), (0,)]
    assert told(tmp_path, [1.0, None, float("nan")], "x", suffix=".parquet") == [(1,), (), ()]
    with pytest.raises(RunFileError, match="it looks like dates or times"):
        told(tmp_path, [datetime.date(2024, 1, 31)], "x", suffix=".parquet")
    (tmp_path / "labels.parquet").write_bytes(b"PAR1" + bytes(40))
    with pytest.raises(RunFileError, match="not a valid Parquet file"):
        load_table(
            Data.model_validate(
                {"source": "x", "shape": [8], "table": {"path": str(tmp_path / "labels.parquet"), "label": "x"}}
            )
        )


@pytest.mark.parametrize(
    ("cells", "label", "what"),
    [
        ([20240131, 20240201], "x", r"labels look like dates \(yyyymmdd\)"),
        ([123456789], "x", "whole numbers of seven digits or more"),
        ([f"{n}" for n in range(40)], "x", "more than half of the values differ"),
        (["Doe^Jane", "Doe^John"], "x", r"holds 2 different texts: it looks like names of persons \(with \^\)"),
        (["2024-01-31"], "x", "it looks like dates or times"),
        (["normal", "pneumonia"], "x", "holds 2 different texts$"),
        (
            ["normal", "Doe"],
            {"column": "x", "categories": ["normal"]},
            "row 2 of the table has a label that is none of its",
        ),
        (["1", "old"], {"column": "x", "bins": [1]}, "row 2 of the table has a label that is not a number"),
        (["nan"], {"column": "x", "bins": [1]}, "not a number"),
    ],
)
def test_what_looks_like_an_identifier_is_refused_without_quoting_it(
    tmp_path: Path, cells: list[object], label: object, what: str
) -> None:
    with pytest.raises(RunFileError, match=re.compile(what, re.MULTILINE)) as caught:
        told(tmp_path, cells, label)
    assert not any(str(cell) in str(caught.value) for cell in cells if len(str(cell)) > 6 or cell == "Doe")


def test_identifiers_that_are_classes_after_all(tmp_path: Path) -> None:
    assert told(tmp_path, [123456789, 20240131], "x", keep=True) == [(123456789,), (20240131,)]


def test_some_labels_of_a_row_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("path,a,b\n1.png,1,\n")
    data = {"source": "x", "shape": [8], "table": {"path": str(path), "label": ["a", "b"]}}
    with pytest.raises(RunFileError, match="row 1 of the table has some of its labels"):
        load_table(Data.model_validate(data))
