"""Temporary folders: removed by their process or, where that was killed, by the next one; a full disk is told."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from medfuncta_dist.errors import DiskFullError
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage import scratch
from medfuncta_dist.storage.leftovers import (
    KEPT_OFFLINE_RUNS,
    OLD_S,
    SESSION_LOCK,
    find_leftovers,
    left_sessions,
    prune_offline_runs,
    remove_all,
    remove_sessions,
)
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.scratch import FILES, held, leftovers, remove_leftovers, scratch_folder, temporary_root
from tests.chaos.disk import disk
from tests.unit.latents.fitted import COUNTS, packed, run_file

FULL = Path("/dev/full")
HOLDS = """
import sys, time
from medfuncta_dist.storage.scratch import scratch_folder
with scratch_folder("pack") as folder:
    (folder / "shard.tar").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    time.sleep(600)
"""
USES_WANDB = """
import os, signal
from medfuncta_dist.storage.scratch import process_folder, temporaries_in
with temporaries_in(process_folder("wandb")):
    import wandb
    from wandb.sdk.data_types import _private
    from wandb.sdk.artifacts import artifact
    wandb.init(mode="offline", dir=os.environ["WORK"], settings=wandb.Settings(silent=True, console="off"))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files of this test, in this process and in those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    scratch.remove_leftovers_once.cache_clear()


@pytest.fixture
def holder(temporary: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process, and the temporary folder that it works in."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait()


def test_a_folder_is_there_for_the_block_and_gone_after_it(temporary: Path) -> None:
    with scratch_folder("pack") as folder:
        assert folder.parent.parent == temporary
        assert list(folder.iterdir()) == []
        (folder / "x").write_bytes(b"")
        assert leftovers() == []
    with pytest.raises(ValueError, match="own"), scratch_folder("pack"):
        raise ValueError("its own")
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_one(
    holder: tuple[subprocess.Popen[str], Path], temporary: Path
) -> None:
    process, folder = holder
    assert remove_leftovers() == 0, "it is in use"
    assert len(list(temporary.iterdir())) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "shard.tar").exists()
    scratch.remove_leftovers_once.cache_clear()
    with scratch_folder("source"):
        assert not folder.exists()
        assert len(list(temporary.iterdir())) == 1
    assert list(temporary.iterdir()) == []


def test_only_ours_goes(temporary: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Not what has no lock, an unknown name, or is a link to somewhere else."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("medfuncta-pack-0123abcd", "medfuncta-cache-0", "medfuncta-work", "other-pack-0123abcd"):
        (temporary / name).mkdir()
        if "0123abcd" not in name or name.startswith("other"):
            (temporary / name / ".lock").write_bytes(b"")
    (elsewhere / ".lock").write_bytes(b"")
    (temporary / "medfuncta-pack-89abcdef").symlink_to(elsewhere)
    assert remove_leftovers() == 0
    assert len(list(temporary.iterdir())) == 5


def test_folders_of_earlier_versions_go_when_asked_and_old_and_unused(temporary: Path) -> None:
    old, used, new = (temporary / f"medfuncta-pack-0000000{i}" for i in range(3))
    for folder in (old, used, new):
        folder.mkdir()
        (folder / "shard.tar").write_bytes(b"x" * 10)
    for folder in (old, used):
        os.utime(folder, times=(0, 0))
    assert OLD_S > 3600
    with (used / "shard.tar").open("rb"):
        found = find_leftovers()
        assert (found.folders, found.size) == ([old], 10)
        assert remove_all(found) == 1
    assert not old.exists()
    assert used.exists()
    assert new.exists()


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told_without_a_name_of_a_file(temporary: Path) -> None:
    with pytest.raises(DiskFullError, match="is full") as caught, scratch_folder("pack"):
        FULL.write_bytes(b"x")
    assert "TMPDIR" in caught.value.do
    assert "/dev/full" not in str(caught.value)
    assert list(temporary.iterdir()) == []


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(FileNotFoundError), scratch_folder("pack") as folder:
        (folder / "none").read_bytes()


def test_no_place_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the standard library says where every place that it tries is full."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/none/there"])
    with pytest.raises(DiskFullError, match="no folder for temporary files"):
        temporary_root()
    with pytest.raises(DiskFullError), scratch_folder("pack"):
        pass


def test_other_libraries_that_say_that_a_disk_is_full() -> None:
    class OutOfDiskError(Exception):
        """As Ray's."""

    error = OSError(errno.EDQUOT, "quota")
    assert scratch.disk_full(error) is not None
    assert scratch.disk_full(OutOfDiskError()) is not None
    assert scratch.disk_full(OSError(errno.EACCES, "no")) is None


def test_wandb_killed_leaves_nothing_after_the_next_command(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    work = tmp_path_factory.mktemp("work")
    killed = subprocess.run([sys.executable, "-c", USES_WANDB], check=False, env={**os.environ, "WORK": str(work)})
    assert killed.returncode == -signal.SIGKILL
    [folder] = temporary.iterdir()
    assert any("wandb" in path.name for path in (folder / FILES).iterdir()), (
        "W&B makes folders when it is imported and begins"
    )
    assert remove_leftovers() == 1
    assert list(temporary.iterdir()) == []


def test_sessions_of_ray_go_but_for_the_newest_and_those_in_use(temporary: Path) -> None:
    root = temporary / "ray"
    for number in range(6):
        (root / f"session_{number}").mkdir(parents=True)
        if number < 5:
            (root / f"session_{number}" / SESSION_LOCK).write_bytes(b"")
    (root / "session_latest").symlink_to(root / "session_4")
    wait = "import time; print(flush=True); time.sleep(600)"
    with (
        held(root / "session_1", SESSION_LOCK),
        subprocess.Popen([sys.executable, "-c", wait, str(root / "session_2")], stdout=subprocess.PIPE) as raylet,
    ):
        assert raylet.stdout is not None
        raylet.stdout.readline()
        assert [folder.name for folder in left_sessions(root)] == ["session_0", "session_3", "session_4"]
        assert remove_sessions(root, keep=2) == 1
        assert [folder.name for folder in find_leftovers().sessions] == ["session_3", "session_4"]
        raylet.kill()
    assert (root / "session_5").exists(), "a Ray that somebody else started"


def offline_run(tmp_path: Path, number: int, of: str = "x") -> Path:
    """As W&B leaves one of the run with the id ``of``."""
    folder = tmp_path / "wandb" / f"offline-run-20260101_{number:06d}-{of}"
    folder.mkdir(parents=True)
    (folder / "run-x.wandb").write_bytes(b"metrics")
    return folder


def test_offline_runs_of_wandb_that_were_uploaded_do_not_grow_without_bound(tmp_path: Path) -> None:
    for number in range(KEPT_OFFLINE_RUNS + 5):
        (offline_run(tmp_path, number) / "run-x.wandb.synced").write_bytes(b"")
    said: list[str] = []
    assert prune_offline_runs(tmp_path, said.append) == 6
    left = sorted(path.name for path in (tmp_path / "wandb").iterdir())
    assert len(left) == KEPT_OFFLINE_RUNS - 1
    assert left[-1].startswith(f"offline-run-20260101_{KEPT_OFFLINE_RUNS + 4:06d}")
    assert said == []


def test_an_offline_run_that_was_never_uploaded_is_kept_and_counted(tmp_path: Path) -> None:
    folders = [offline_run(tmp_path, number, f"of-{number}") for number in range(KEPT_OFFLINE_RUNS + 5)]
    (folders[1] / "run-x.wandb.synced").write_bytes(b"")
    said: list[str] = []
    assert prune_offline_runs(tmp_path, said.append) == 1
    assert [folder for folder in folders if not folder.exists()] == [folders[1]]
    assert said[0].startswith(f"{KEPT_OFFLINE_RUNS + 4} offline runs")
    assert "wandb sync" in said[0]
    said.clear()
    few = tmp_path / "few"
    offline_run(few, 1)
    assert (prune_offline_runs(few, said.append), said) == (0, [])


def test_an_offline_run_that_a_later_attempt_has_repeated_goes_unless_it_has_pictures(tmp_path: Path) -> None:
    folders = [offline_run(tmp_path, number, "chest-x-20260101") for number in range(KEPT_OFFLINE_RUNS + 5)]
    (folders[2] / "files/media/images").mkdir(parents=True)
    said: list[str] = []
    assert prune_offline_runs(tmp_path, said.append) == 5
    assert [folder for folder in folders if folder.exists()] == [folders[2], *folders[6:]]
    assert said[0].startswith(f"{KEPT_OFFLINE_RUNS} offline runs")


def test_packing_onto_a_full_disk_is_an_error_in_words_and_nothing_is_quarantined(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_file(temporary)
    with disk(temporary / "small", 2**14) as small:
        monkeypatch.setattr(tempfile, "tempdir", str(small))
        with pytest.raises(DiskFullError) as caught:
            packed(run, temporary)
        assert list(small.iterdir()) == []
    assert caught.value.do
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    packed(run, temporary)
    assert load_snapshot(ObjectStore(run.storage), "small", None).counts["packed"] == sum(COUNTS.values())
