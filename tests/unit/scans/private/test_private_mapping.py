from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.scans.private.private_mapping import MappingRow, open_mapping
from tests.mapping_rows import read_mapping, write_mapping

ROWS = [
    MappingRow("b" * 64, 's3://archive/Doe, "Jane"\n.dcm', ""),
    MappingRow("a" * 64, "/archive/\udce4.nii", "row/7"),
]


def key(n: int) -> str:
    return hashlib.sha256(str(n).encode()).hexdigest()


def test_mapping_comes_back_sorted_and_private(tmp_path: Path) -> None:
    write_mapping(tmp_path / "private", ROWS)
    assert read_mapping(tmp_path / "private") == sorted(ROWS)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "private", tmp_path / "private/mapping.sqlite")]
    assert modes == [0o700, 0o600]
    assert os.listdir(tmp_path / "private") == ["mapping.sqlite"]


def test_mapping_grows_and_the_newest_row_of_a_key_counts(tmp_path: Path) -> None:
    write_mapping(tmp_path, ROWS)
    write_mapping(tmp_path, [("a" * 64, "/moved", "row/7"), ("c" * 64, "/new", "")])
    assert [row.uri for row in read_mapping(tmp_path)] == ["/moved", ROWS[0].uri, "/new"]


def test_a_mapping_that_is_not_there_yet_is_made_empty(tmp_path: Path) -> None:
    assert read_mapping(tmp_path) == []
    assert os.listdir(tmp_path) == ["mapping.sqlite"]


@given(files=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), unique=True), gone=st.sets(st.integers(0, 99)))
def test_every_question_is_answered_as_by_all_rows(tmp_path_factory: pytest.TempPathFactory, files, gone) -> None:
    folder = tmp_path_factory.mktemp("private")
    rows = [MappingRow(key(10 * file + item), f"/archive/p{file}/x.npz", f"row/{item}") for file, item in files]
    gone = {key(n) for n in gone}
    left = sorted(row for row in rows if row.key not in gone)
    with open_mapping(folder) as mapping:
        mapping.add(rows)
        mapping.remove(gone)
    with open_mapping(folder) as mapping:
        assert list(mapping.of_beginning("")) == left
        for row in rows:
            assert list(mapping.of_beginning(row.key)) == [r for r in left if r.key == row.key]
            assert list(mapping.of_beginning(row.key[:12])) == [r for r in left if r.key[:12] == row.key[:12]]
            assert list(mapping.of_uri(row.uri)) == [r for r in left if r.uri == row.uri]
            assert list(mapping.of_part(row.uri[8:12])) == [r for r in left if row.uri[8:12] in r.uri]


def test_mapping_survives_a_writer_that_fails(tmp_path: Path) -> None:
    write_mapping(tmp_path, ROWS)
    with pytest.raises(ValueError, match="unpack"):
        write_mapping(tmp_path, [("c" * 64, "/good", ""), ("d" * 64, "/too", "many", "columns")])  # type: ignore[list-item]
    assert read_mapping(tmp_path) == sorted(ROWS)


def _write_and_die(folder: Path) -> None:
    with open_mapping(folder) as mapping:
        mapping.add((key(n), f"/archive/{n}", "") for n in range(60_000))
        mapping.add([("a" * 64, "/never", "")])
        os.kill(os.getpid(), signal.SIGKILL)


def test_mapping_survives_a_writer_that_is_killed(tmp_path: Path) -> None:
    write_mapping(tmp_path, ROWS)
    process = multiprocessing.get_context("spawn").Process(target=_write_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert read_mapping(tmp_path) == sorted(ROWS)


def test_removed_rows_are_not_left_in_the_file(tmp_path: Path) -> None:
    name = "s3://archive/Doe-Jane-1962.dcm"
    write_mapping(tmp_path, [*ROWS, ("c" * 64, name, "")])
    assert name.encode() in (tmp_path / "mapping.sqlite").read_bytes()
    with open_mapping(tmp_path) as mapping:
        mapping.remove(["c" * 64])
    data = (tmp_path / "mapping.sqlite").read_bytes()
    assert name.encode() not in data
    assert bytes.fromhex("c" * 64) not in data


EARLIER = f'format_version,1\nkey,uri,item\n{"a" * 64},/archive/\udce4.nii,row/7\n{"b" * 64},"s3://a/Doe, ""J""",\n'


def test_a_mapping_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "mapping.csv").write_text(EARLIER, errors="surrogateescape")
    rows = [MappingRow("a" * 64, "/archive/\udce4.nii", "row/7"), MappingRow("b" * 64, 's3://a/Doe, "J"', "")]
    assert read_mapping(tmp_path) == rows
    assert os.listdir(tmp_path) == ["mapping.sqlite"]
    write_mapping(tmp_path, [("c" * 64, "/new", "")])
    assert read_mapping(tmp_path) == [*rows, MappingRow("c" * 64, "/new", "")]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("format_version,2\nkey,uri,item\n", FormatVersionError),
        ("format_version,1\n", IntegrityError),
        ("format_version,1\nkey,uri,item\na,b\n", IntegrityError),
        ("format_version,1\nkey,uri,item\nno hex,b,c\n", IntegrityError),
    ],
)
def test_a_damaged_one_of_an_earlier_version_is_refused_and_kept(
    tmp_path: Path, text: str, error: type[IntegrityError]
) -> None:
    (tmp_path / "mapping.csv").write_text(text)
    with pytest.raises(error) as caught:
        read_mapping(tmp_path)
    assert caught.type is error
    assert (tmp_path / "mapping.csv").read_text() == text


@pytest.mark.parametrize("damage", [lambda data: b"garbage " * 900, lambda data: data[: len(data) // 2]])
def test_a_damaged_mapping_is_refused(tmp_path: Path, damage) -> None:
    write_mapping(tmp_path, [(key(n), f"/archive/{n}", "") for n in range(500)])
    path = tmp_path / "mapping.sqlite"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match="the mapping"):
        read_mapping(tmp_path)


def test_another_version_is_refused(tmp_path: Path) -> None:
    write_mapping(tmp_path, ROWS)
    with sqlite3.connect(tmp_path / "mapping.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(FormatVersionError):
        read_mapping(tmp_path)
