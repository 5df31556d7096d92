"""This machine, asked for real; what it lacks is made to lack."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.fit_section import Fit
from medfuncta_dist.doctor import machine_checks
from medfuncta_dist.doctor.check import Outcome
from medfuncta_dist.doctor.doctor import clean_machine
from medfuncta_dist.storage.leftovers import SESSION_LOCK


def run(**cluster: object) -> RunFile:
    return RunFile.model_validate(
        {"name": "r", "storage": "/tmp/r", "data": {"source": "x/*.png", "shape": [8, 8]}, "cluster": cluster}
    )


def test_this_machine_has_what_the_tests_needed() -> None:
    assert machine_checks.check_python().state is Outcome.PASSED
    assert machine_checks.check_packages().state is Outcome.PASSED


def test_a_package_of_a_version_that_is_not_allowed_and_one_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        machine_checks, "requires", lambda name: ["numpy<1", "no-such-package>=3", "torch>=2; extra == 'x'"]
    )
    found = machine_checks.check_packages()
    assert found.state is Outcome.FAILED
    assert "numpy is" in found.what
    assert "no-such-package is missing" in found.what
    assert "torch" not in found.what


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert machine_checks.check_threads(run(workers=2, threads=2), 4).state is Outcome.PASSED
    assert machine_checks.check_threads(run(workers=[1, 3], threads=2), 4).state is Outcome.WARNED
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    assert machine_checks.check_threads(run(workers=3, threads=2), 4).state is Outcome.SKIPPED


def test_the_cache_folder_is_judged_by_the_first_folder_that_is_there(tmp_path: Path) -> None:
    folder = str(tmp_path / "a" / "b")
    assert machine_checks.check_cache(run(cache=folder, cache_gigabytes=0.001)).state is Outcome.PASSED
    assert not (tmp_path / "a").exists()
    assert machine_checks.check_cache(run(cache=folder, cache_gigabytes=1e7)).state is Outcome.WARNED


def test_no_gpu_is_no_fault_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)  # the session's cluster, where other tests have started it
    assert machine_checks.check_gpu(run()).state is Outcome.PASSED
    assert machine_checks.check_gpu(run(gpus_per_worker=1)).state is Outcome.WARNED
    shared = run().model_copy(update={"fit": Fit(gpus_per_task=0.5)})
    assert machine_checks.check_gpu(shared).what.startswith("fit.gpus_per_task needs GPUs")


@pytest.mark.gpu
def test_a_gpu_is_named() -> None:
    assert "CUDA" in machine_checks.check_gpu(run(gpus_per_worker=1)).what


def test_what_ended_commands_left_is_told_and_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(machine_checks, "MIN_TEMPORARY_BYTES", 1)
    assert machine_checks.check_temporary_files().state is Outcome.PASSED
    for folder in ("medfuncta-pack-0123abcd", "ray/session_1"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "medfuncta-pack-0123abcd/.lock").write_bytes(b"")
    (tmp_path / "ray/session_1" / SESSION_LOCK).write_bytes(b"x" * 100)
    (tmp_path / "somebody-else-s").write_bytes(b"")
    found = machine_checks.check_temporary_files()
    assert found.state is Outcome.WARNED
    assert "doctor --clean" in found.do
    assert clean_machine()["cleaned"] == {"temporary": 1, "ray_sessions": 1, "removed": 2, "bytes": 100}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ray", "somebody-else-s"]
    assert machine_checks.check_temporary_files().state is Outcome.PASSED


def test_little_room_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "MIN_TEMPORARY_BYTES", 2**60)
    assert "TMPDIR" in machine_checks.check_temporary_files().do
