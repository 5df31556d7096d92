"""Nothing of the user's is lost: what differs is refused, all of it before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medfuncta_dist.deploy.folder_writer import compare, write_folder
from medfuncta_dist.deploy.package_files import Content
from medfuncta_dist.errors import MedfunctaError, RunFileError

FILES = {"a/one": Content(b"1"), "run.sh": Content(b"2", executable=True)}


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_gets_all_and_the_second_time_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert write_folder(folder, FILES, force=False).new == tuple(FILES)
    assert held(folder) == {name: content.data for name, content in FILES.items()}
    assert [os.access(folder / name, os.X_OK) for name in FILES] == [False, True]
    before = (folder / "run.sh").stat().st_mtime_ns
    assert write_folder(folder, FILES, force=True).same == tuple(FILES)
    assert (folder / "run.sh").stat().st_mtime_ns == before


def test_a_changed_file_is_refused_before_others_are_written_and_replaced_by_force(tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_bytes(b"mine")
    (tmp_path / "notes").write_bytes(b"mine, too")
    with pytest.raises(RunFileError, match=r"run\.sh would be replaced") as refused:
        write_folder(tmp_path, FILES, force=False)
    assert "--force" in refused.value.do
    assert held(tmp_path) == {"run.sh": b"mine", "notes": b"mine, too"}
    done = write_folder(tmp_path, FILES, force=True)
    assert (done.new, done.different) == (("a/one",), ("run.sh",))
    assert held(tmp_path) == {"a/one": b"1", "run.sh": b"2", "notes": b"mine, too"}


def test_of_many_changed_files_a_few_are_named(tmp_path: Path) -> None:
    names = [f"file-{number}" for number in range(9)]
    for name in names:
        (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(RunFileError, match=r"file-4 and 4 more would be replaced"):
        write_folder(tmp_path, dict.fromkeys(names, Content(b"")), force=False)


def test_a_folder_in_a_files_place_is_refused_even_with_force(tmp_path: Path) -> None:
    (tmp_path / "run.sh").mkdir()
    with pytest.raises(RunFileError, match="the same name"):
        write_folder(tmp_path, FILES, force=True)
    (tmp_path / "run.sh").rmdir()
    (tmp_path / "a").write_bytes(b"a file")
    with pytest.raises(RunFileError, match="the same name"):
        write_folder(tmp_path, FILES, force=True)
    assert held(tmp_path) == {"a": b"a file"}


def test_what_a_link_leads_to_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "run.sh").symlink_to(elsewhere)
    assert compare(folder, FILES).different == ("run.sh",)
    write_folder(folder, FILES, force=True)
    assert elsewhere.read_bytes() == b"mine"
    assert not (folder / "run.sh").is_symlink()


def test_a_place_where_nothing_can_be_written_is_an_error_of_ours() -> None:
    with pytest.raises(MedfunctaError, match="cannot be written"):
        write_folder(Path("/proc/medfuncta"), FILES, force=False)
