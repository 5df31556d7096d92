from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.shards.source_table import SourceTable, TableRow, load_table

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
