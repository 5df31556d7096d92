from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.scans.private.private_folder import load_or_create_salt, private_folder


@pytest.fixture(autouse=True)
def _no_salt_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDFUNCTA_SALT", raising=False)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_salt_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "private"
    salt = load_or_create_salt(folder)
    assert len(salt) == 32
    assert load_or_create_salt(folder) == salt
    assert (mode(folder), mode(folder / "salt")) == (0o700, 0o600)
    assert os.listdir(folder) == ["salt"]
    assert load_or_create_salt(tmp_path / "other") != salt


def test_a_new_salt_is_announced_once_and_never_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    salt = load_or_create_salt(tmp_path)
    said = capsys.readouterr()
    assert said.out == ""
    for part in ("A NEW SALT WAS MADE", str(tmp_path / "salt"), "back it up", "without it", "MEDFUNCTA_SALT"):
        assert part in said.err
    assert salt.hex() not in said.err
    load_or_create_salt(tmp_path)
    assert capsys.readouterr().err == ""


def test_processes_that_start_together_get_one_salt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    salts: list[bytes] = []
    start = threading.Barrier(8)

    def load() -> None:
        start.wait()
        salts.append(load_or_create_salt(tmp_path / "private"))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(salts) == 8
    assert len(set(salts)) == 1
    assert capsys.readouterr().err.count("A NEW SALT WAS MADE") == 1


def test_salt_of_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDFUNCTA_SALT", "ab" * 32 + "\n")
    assert load_or_create_salt(tmp_path / "private") == b"\xab" * 32
    assert not (tmp_path / "private").exists()


@pytest.mark.parametrize("text", ["", "abcd", "zz" * 32, "ab" * 31])
def test_a_damaged_salt_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "salt").write_text(text)
    with pytest.raises(RunFileError, match="salt") as error:
        load_or_create_salt(tmp_path)
    assert (tmp_path / "salt").read_text() == text
    assert not text or text not in str(error.value)


def test_private_folder_never_lies_in_the_storage(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    for inside in (storage, storage / "a" / "b", storage / "x" / ".." / "y"):
        for root in (str(storage), f"file://{storage}", f"{storage}/"):
            with pytest.raises(RunFileError, match="inside the storage"):
                private_folder(str(inside), "d", root)
    with pytest.raises(RunFileError, match="local folder"):
        private_folder("s3://bucket/private", "d", str(storage))


def test_a_link_into_the_storage_is_seen_through(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "storage")
    with pytest.raises(RunFileError, match="inside the storage"):
        private_folder(str(tmp_path / "link" / "p"), "d", str(tmp_path / "storage"))


def test_private_folder_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert private_folder(None, "brains", "s3://bucket/root") == tmp_path.resolve() / ".medfuncta" / "brains"
    assert private_folder("~/p", "brains", str(tmp_path / "storage")) == tmp_path.resolve() / "p"
    with pytest.raises(RunFileError):
        private_folder(None, "brains", str(tmp_path))
