"""A publication appears whole, at a place where nothing was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, RunFileError
from medfuncta_dist.publication.target import CHECKSUMS, Target, write_checksums
from medfuncta_dist.storage.object_store import ObjectStore
from tests.unit.latents.fitted import run_file


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    return run_file(tmp_path)


def filled(staged: Path) -> bytes:
    (staged / "data").mkdir()
    (staged / "data" / "one").write_bytes(b"1")
    (staged / "README.md").write_text("card")
    return write_checksums(staged)


def of(text: Path | str, run: RunFile) -> Target:
    return Target.of(str(text), run, Path(str(run.data.private)))


def test_a_local_folder_appears_whole(tmp_path: Path, run: RunFile) -> None:
    target = of(tmp_path / "new" / "there", run)
    with target.staging() as staged:
        text = filled(staged)
        assert not Path(target.root).exists()
        target.place(staged)
    place = Path(target.root)
    assert (place / CHECKSUMS).read_bytes() == text
    assert text.decode() == "".join(
        f"{hashlib.sha256((place / name).read_bytes()).hexdigest()}  {name}\n" for name in ("README.md", "data/one")
    )
    assert [path.name for path in place.parent.iterdir()] == ["there"]


def test_what_is_left_staged_is_removed(tmp_path: Path, run: RunFile) -> None:
    target = of(tmp_path / "there", run)
    with target.staging() as staged:
        filled(staged)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_nothing_that_exists_is_written_over(tmp_path: Path, run: RunFile, there: str) -> None:
    place = tmp_path / "there"
    if there == "file":
        place.write_text("mine")
    elif there == "folder":
        place.mkdir()
    else:
        place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunFileError, match="something here already"):
        of(place, run)


def test_what_appears_meanwhile_stays(tmp_path: Path, run: RunFile) -> None:
    target = of(tmp_path / "there", run)
    with target.staging() as staged:
        filled(staged)
        (tmp_path / "there").mkdir()
        with pytest.raises(RunFileError, match="something here already"):
            target.place(staged)
    assert not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize("inside", ["storage", "storage/datasets/x", "private", "private/x", "link/x"])
def test_it_is_never_inside_what_is_the_owners(tmp_path: Path, run: RunFile, inside: str) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "storage")
    with pytest.raises(RunFileError, match="must not lie in the"):
        of(tmp_path / inside, run)
    of(tmp_path / "storage-published", run)


def test_in_a_bucket_the_checksums_come_last(
    s3: Callable[[], str], run: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, order = s3(), []
    write = ObjectStore.write
    monkeypatch.setattr(
        ObjectStore,
        "write",
        lambda self, path, data: (order.append(sorted(i.path for i in self.list(""))), write(self, path, data)),
    )
    target = of(f"{root}/published", run)
    with target.staging() as staged:
        filled(staged)
        target.place(staged)
    assert order == [["README.md", "data/one"]]
    store = ObjectStore(f"{root}/published")
    assert [info.path for info in store.list("")] == ["README.md", CHECKSUMS, "data/one"]
    with pytest.raises(RunFileError, match="something here already"):
        of(f"{root}/published", run)


def test_a_bucket_that_loses_files_gets_no_checksums(
    s3: Callable[[], str], run: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = of(f"{s3()}/published", run)
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "upload", lambda self, local, path: None)
        with target.staging() as staged:
            filled(staged)
            with pytest.raises(IntegrityError, match="nothing is published"):
                target.place(staged)
    assert ObjectStore(target.root).list("") == []


def test_a_place_where_nothing_can_be_made_is_named(tmp_path: Path, run: RunFile) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunFileError, match="no folder can be made here: File exists") as refused,
        of(tmp_path / "file" / "x", run).staging(),
    ):
        pass
    assert refused.value.where == str(tmp_path / "file")
