"""Which device the quickstart takes; the whole job is `make quickstart` itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.quickstart import example_job
from medfuncta_dist.quickstart.example_job import has_gpu, may_take_gpu
from medfuncta_dist.run.frozen_run_file import freeze
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)  # the session's cluster, where other tests have started it


def workers(folder: Path, *overrides: str) -> tuple[int, float]:
    run = run_file(folder, *overrides)
    return run.cluster.most_workers, run.cluster.gpus_per_worker


def run_file(folder: Path, *overrides: str) -> RunFile:
    return example_job._run_file(folder, [f"storage={folder / 'storage'}", *overrides])


def test_one_worker_on_one_gpu_or_two_on_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers(tmp_path) == (2, 0)
    monkeypatch.setattr(example_job, "has_gpu", lambda: True)
    assert workers(tmp_path) == (1, 1)


def test_who_says_what_workers_get_gets_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_job, "has_gpu", lambda: pytest.fail("looked for a GPU"))
    assert workers(tmp_path, "cluster.workers=3") == (3, 0)
    assert workers(tmp_path, "cluster.gpus_per_worker=0") == (2, 0)
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    assert workers(tmp_path) == (2, 0)


def test_a_run_that_began_on_cpus_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = run_file(tmp_path)
    freeze(begun, ObjectStore(begun.storage), fence=ALONE)
    monkeypatch.setattr(example_job, "has_gpu", lambda: True)
    assert workers(tmp_path) == (2, 0)


def test_a_run_that_began_on_a_gpu_stays_there_while_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example_job, "has_gpu", lambda: True)
    begun = run_file(tmp_path)
    freeze(begun, ObjectStore(begun.storage), fence=ALONE)
    assert workers(tmp_path) == (1, 1)
    monkeypatch.setattr(example_job, "has_gpu", lambda: False)
    assert workers(tmp_path) == (2, 0)


def test_what_else_is_set_decides_nothing() -> None:
    assert may_take_gpu(["train.steps=5", "cluster.threads=2"], None, None)
    assert not may_take_gpu(["cluster={workers: 2}"], None, None)


def test_a_machine_that_hides_its_gpus_has_none() -> None:
    assert not has_gpu()  # tests see none


@pytest.mark.gpu
def test_a_gpu_is_found() -> None:
    assert has_gpu()
