"""Training through Ray Train and DeepSpeed, whole: real workers, real S3, real kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import InterruptedRunError, RunChangedError, TrainingCollapsedError
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import history, read_events
from medfuncta_dist.training.network import committed_network
from medfuncta_dist.training.trainer import TrainSummary, train
from tests.integration.training_runs import packed, run_file

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]

LONG: dict[str, Any] = {"steps": 120, "checkpoint_steps": 20, "keep_checkpoints": 2}


@pytest.fixture(scope="module")
def storage(s3: Callable[[], str]) -> str:
    return s3()


@pytest.fixture(scope="module")
def snapshot(storage: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return packed(storage, tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def alone(storage: str, snapshot: str) -> list[float]:
    """The losses of one worker."""
    return losses(run_file(storage, "alone", zero_stage=0), snapshot)


@pytest.fixture(scope="module")
def uninterrupted(storage: str, snapshot: str) -> TrainSummary:
    return train(run_file(storage, "uninterrupted", workers=2, **LONG), snapshot)


def losses(run: RunFile, snapshot: str) -> list[float]:
    train(run, snapshot)
    return [loss for _, loss in history(ObjectStore(run.storage), run.name)]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_uneven_workers_at_any_zero_stage_lose_what_one_loses(
    stage: int, storage: str, snapshot: str, alone: list[float]
) -> None:
    found = losses(run_file(storage, f"zero-{stage}", workers=2, zero_stage=stage), snapshot)
    assert len(found) == 5
    assert found == pytest.approx(alone, abs=1e-5)
    assert len(set(found)) == 5


def test_a_seed_gives_the_same_bits_twice(storage: str, snapshot: str, alone: list[float]) -> None:
    store = ObjectStore(storage)
    assert losses(run_file(storage, "again", zero_stage=0), snapshot) == alone
    digests = [committed_network(store, name) for name in ("alone", "again")]
    assert digests[0] is not None
    assert digests[1] is not None
    assert digests[0].digest == digests[1].digest
    assert losses(run_file(storage, "other", zero_stage=0, seed=1), snapshot) != alone


def test_the_network_is_committed_and_reads_back(
    uninterrupted: TrainSummary, storage: str, snapshot: str, capfd: pytest.CaptureFixture[str]
) -> None:
    store, run = ObjectStore(storage), run_file(storage, "uninterrupted", workers=2, **LONG)
    done = committed_network(store, run.name)
    assert done is not None
    network = SharedNetwork.from_files(
        *(store.read(done.files[name]["path"]) for name in sorted(done.files, reverse=True))
    )
    assert network.digest == uninterrupted.network_digest == done.digest
    assert (network.dataset_digest, uninterrupted.steps, uninterrupted.attempts) == (snapshot, 120, 1)
    assert uninterrupted.psnr is not None
    assert uninterrupted.psnr > 14
    again = train(run, snapshot)
    assert (again.first_step, again.attempts, again.network_digest) == (120, 0, done.digest)
    assert capfd.readouterr().out == ""


def test_another_snapshot_is_refused(uninterrupted: TrainSummary, storage: str) -> None:
    with pytest.raises(RunChangedError):
        train(run_file(storage, "uninterrupted", workers=2, **LONG), "0" * 64)


def test_what_is_logged(uninterrupted: TrainSummary, storage: str) -> None:
    lines = list(read_events(ObjectStore(storage), "uninterrupted"))
    logged = [line["values"] for line in lines if line["kind"] == "metrics" and "loss" in line["values"]]
    assert len(logged) == 120
    assert set(logged[0]) == {"loss", "s_per_step", "samples_per_s", "data_wait", "rate", "gradient_norm"}
    assert all(0 <= values["data_wait"] <= 1 and values["gradient_norm"] > 0 for values in logged)
    assert logged[0]["rate"] == 1e-3
    assert logged[-1]["rate"] < 1e-6
    saved = [line["fields"]["step"] for line in lines if line["kind"] == "event" and line["name"] == "checkpoint"]
    assert saved == [20, 40, 60, 80, 100, 120]
    kept = [info.path for info in ObjectStore(storage).list("runs/uninterrupted/checkpoints/commits")]
    assert len(kept) == 2


def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint_and_no_bits(
    uninterrupted: TrainSummary, storage: str, snapshot: str
) -> None:
    pids: list[int] = []

    def kill_once(kind: str, fields: dict[str, Any]) -> None:
        if kind == "started":
            pids.extend(fields["pids"])
        if kind == "checkpoint" and fields["step"] >= 40 and len(pids) == 2:
            os.kill(pids.pop(), signal.SIGKILL)

    run = run_file(storage, "worker-killed", workers=2, **LONG)
    summary = train(run, snapshot, kill_once)
    assert summary.attempts == 2
    assert history(ObjectStore(storage), run.name) == history(ObjectStore(storage), "uninterrupted")
    assert summary.network_digest == uninterrupted.network_digest
    assert started_at(run)[1] >= 40


def started_at(run: RunFile) -> list[int]:
    events = read_events(ObjectStore(run.storage), run.name)
    return [line["fields"]["step"] for line in events if line["kind"] == "event" and line["name"] == "started"]


def test_a_killed_driver_resumes_at_its_last_checkpoint_with_the_same_bits(
    uninterrupted: TrainSummary, storage: str, snapshot: str, tmp_path: Path
) -> None:
    run, store = run_file(storage, "driver-killed", workers=2, **LONG), ObjectStore(storage)
    (tmp_path / "run.json").write_text(run.model_dump_json())
    command = [sys.executable, "-m", "tests.integration.training_runs", str(tmp_path / "run.json"), snapshot]
    with subprocess.Popen(command) as driver:
        while not store.list(f"runs/{run.name}/checkpoints/commits"):
            assert driver.poll() is None, "the driver ended by itself"
            time.sleep(0.05)
        driver.kill()
    assert committed_network(store, run.name) is None, "killed too late to show anything"
    summary = train(run, snapshot)
    assert 20 <= summary.first_step < 120
    assert summary.network_digest == uninterrupted.network_digest


def test_an_interrupted_run_is_saved_and_goes_on_at_another_world_size_and_stage(
    uninterrupted: TrainSummary, storage: str, snapshot: str
) -> None:
    def interrupt(kind: str, fields: dict[str, Any]) -> None:
        if kind == "checkpoint" and fields["step"] == 20:
            raise KeyboardInterrupt

    run = run_file(storage, "interrupted", workers=2, **{**LONG, "steps": 600, "zero_stage": 3})
    with pytest.raises(InterruptedRunError):
        train(run, snapshot, interrupt)
    resumed = run_file(storage, "interrupted", workers=1, **{**LONG, "steps": 600, "zero_stage": 0})
    summary = train(resumed, snapshot)
    assert 20 < summary.first_step < 600
    whole = dict(history(ObjectStore(storage), "interrupted"))
    assert sorted(whole) == list(range(1, 601))


def test_a_loss_that_is_not_finite_ends_the_run_at_once(storage: str, snapshot: str) -> None:
    run = run_file(storage, "collapsed", workers=2)
    run = run.model_copy(update={"meta": run.meta.model_copy(update={"inner_rate": 1e30})})
    attempts: list[str] = []
    with pytest.raises(TrainingCollapsedError, match="outer step 1"):
        train(run, snapshot, lambda kind, fields: attempts.append(kind) if kind == "started" else None)
    assert len(attempts) == 1
