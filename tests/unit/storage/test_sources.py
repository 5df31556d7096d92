"""Patterns to source files, on a local archive and the same one in S3."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from medfuncta_dist.errors import ObjectMissingError, RunFileError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.sources import Source, expand, local_copy, suffix

FILES = ("a.nii", "b.nii.gz", "x/c.nii", "x/y/d.nii", "x/y/e.png", ".hidden/f.nii", "x/.DS_Store", "odd[1].nii")


@pytest.fixture(params=["local", "s3"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = str(tmp_path / "archive") if request.param == "local" else request.getfixturevalue("s3")()
    store = ObjectStore(root)
    for name in FILES:
        store.write(name, name.encode())
    return store.root


@pytest.mark.parametrize(
    ("pattern", "relatives"),
    [
        ("", ["a.nii", "b.nii.gz", "odd[1].nii", "x/c.nii", "x/y/d.nii", "x/y/e.png"]),
        ("/", ["a.nii", "b.nii.gz", "odd[1].nii", "x/c.nii", "x/y/d.nii", "x/y/e.png"]),
        ("/*.nii", ["a.nii", "odd[1].nii"]),
        ("/**/*.nii", ["a.nii", "odd[1].nii", "x/c.nii", "x/y/d.nii"]),
        ("/**", ["a.nii", "b.nii.gz", "odd[1].nii", "x/c.nii", "x/y/d.nii", "x/y/e.png"]),
        ("/*/*.nii", ["x/c.nii"]),
        ("/x", ["c.nii", "y/d.nii", "y/e.png"]),
        ("/x/y/?.[np]*", ["d.nii", "e.png"]),
        ("/x/y/d.nii", ["d.nii"]),
        ("/.hidden/*.nii", ["f.nii"]),
        ("/odd[1].nii", ["odd[1].nii"]),
    ],
)
def test_patterns(archive: str, pattern: str, relatives: list[str]) -> None:
    sources = expand(archive + pattern)
    assert [s.relative for s in sources] == relatives
    for source in sources:
        with local_copy(source.uri) as path:
            assert path.read_bytes().decode().endswith(source.relative)
            assert source.size == path.stat().st_size


def test_a_file_matched_twice_counts_once(archive: str) -> None:
    sources = expand([f"{archive}/x/*.nii", f"{archive}/x/c.nii", f"{archive}/*.nii"])
    assert [s.relative for s in sources] == ["a.nii", "c.nii", "odd[1].nii"]


def test_two_files_without_distinct_identities_are_refused(archive: str) -> None:
    ObjectStore(archive).write("z/c.nii", b"another")
    with pytest.raises(RunFileError) as caught:
        expand([f"{archive}/x/*.nii", f"{archive}/z/*.nii"])
    assert "c.nii" not in str(caught.value)
    assert len(expand(f"{archive}/?/c.nii")) == 2


@pytest.mark.parametrize("pattern", ["/*.dcm", "/nothing", "/nothing/*.nii"])
def test_a_pattern_that_matches_nothing_is_refused(archive: str, pattern: str) -> None:
    with pytest.raises(RunFileError, match="no file matches") as caught:
        expand([archive, archive + pattern])
    assert archive + pattern in caught.value.where


@pytest.mark.parametrize("pattern", ["pipe:cat /etc/passwd", "http://x/y.nii", "gs://b/x", "s3://", "s3://*/x"])
def test_other_kinds_of_uri_are_refused(pattern: str) -> None:
    with pytest.raises(RunFileError):
        expand(pattern)


def test_relative_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_bytes(b"1")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.csv").write_bytes(b"22")
    monkeypatch.chdir(tmp_path)
    assert expand("*.csv") == expand("a.csv") == [Source(str(tmp_path / "a.csv"), "a.csv", 1)]
    assert expand("in") == expand("./in/") == [Source(str(tmp_path / "in" / "b.csv"), "b.csv", 2)]
    assert [s.relative for s in expand(".")] == ["a.csv", "in/b.csv"]


def test_an_empty_file_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "empty.nii").touch()
    assert [s.size for s in expand(str(tmp_path / "empty.nii"))] == [0]


def test_a_copy_keeps_the_suffix_alone_and_goes_away(s3: Callable[[], str]) -> None:
    store = ObjectStore(s3())
    store.write("Doe.John.1970.nii.gz", b"scan")
    with local_copy(store.uri("Doe.John.1970.nii.gz")) as path:
        assert path.read_bytes() == b"scan"
        assert path.name.endswith(".nii.gz")
        assert "Doe" not in str(path)
        assert "1970" not in str(path)
    assert not path.exists()


def test_the_parts_of_a_source_are_fetched_with_it(s3: Callable[[], str]) -> None:
    store = ObjectStore(s3())
    for name in ("Doe.1.IMG", "Doe.1.HDR", "Doe.2.HDR", "first.dat", "second.dat"):
        store.write(name, name.encode())
    told = [".HDR", ".missing", "first.dat", "missing.dat"]

    def parts(path: Path) -> list[str]:
        return [*told, "second.dat"] if (path.parent / "first.dat").exists() else told

    with local_copy(store.uri("Doe.1.IMG"), parts) as path:
        found = {part.name: part.read_text() for part in path.parent.iterdir()}
    assert found == {
        path.name: "Doe.1.IMG",
        path.with_suffix(".HDR").name: "Doe.1.HDR",
        "first.dat": "first.dat",
        "second.dat": "second.dat",
    }
    assert "Doe" not in str(path)


def test_errors_do_not_name_the_source(s3: Callable[[], str]) -> None:
    with pytest.raises(ObjectMissingError) as caught, local_copy(f"{s3()}/Doe.nii"):
        pass
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii", ".nii"),
        ("a.b.nii.gz", ".nii.gz"),
        ("a", ""),
        ("J.Doe.dcm", ".dcm"),
        ("a.gz", ".gz"),
        ("A.NII.GZ", ".NII.GZ"),
    ],
)
def test_suffixes(name: str, expected: str) -> None:
    assert suffix(name) == expected


def test_a_glob_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="not a valid glob") as caught:
        expand(f"{tmp_path}/**b/*.csv")
    assert caught.value.do


def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("1")
    assert [source.relative for source in expand(f"{tmp_path}/*.csv")] == ["b.csv"]
    with pytest.raises(RunFileError, match="no file matches"):
        expand(str(tmp_path / "a.csv"))
