"""Training through Ray Train and DeepSpeed, whole: real workers, real S3, real kills."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import (
    InterruptedRunError,
    MedfunctaError,
    RunChangedError,
    StageOrderError,
    TrainingCollapsedError,
)
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.network.committed_network import committed_network
from medfuncta_dist.network.start_network import take_start
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.telemetry.event_log import history, read_events
from medfuncta_dist.training.trainer import TrainSummary, train
from tests.integration.training_runs import packed, run_file
from tests.kinds import KINDS

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]

STEPS, SAVE = 300, 50
LONG: dict[str, Any] = {"steps": STEPS, "checkpoint_steps": SAVE, "keep_checkpoints": 2}
HANG_S, KILLED_WITHIN_S = 8.0, 20.0
"""The second: for a task to start on the node, whatever else the machine does."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Of the field: every test is of both, unless it names one."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def storage(kind: str, s3: Callable[[], str]) -> str:
    """Another for each kind: their runs have the same names."""
    return s3()


@pytest.fixture(scope="module")
def snapshot(storage: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return packed(storage, tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def alone(kind: str, storage: str, snapshot: str) -> list[float]:
    """The losses of one worker."""
    return losses(run_file(storage, "alone", kind=kind, zero_stage=0, **LONG), snapshot)


@pytest.fixture(scope="module")
def uninterrupted(kind: str, storage: str, snapshot: str) -> TrainSummary:
    """Two workers, three scans and two of each global batch, ZeRO 1."""
    return train(run_file(storage, "uninterrupted", kind=kind, workers=2, **LONG), snapshot)


def losses(run: RunFile, snapshot: str) -> list[float]:
    train(run, snapshot)
    return losses_of(run.storage, run.name)


def losses_of(storage: str, name: str) -> list[float]:
    return [loss for _, loss in history(ObjectStore(storage), name)]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2])
def test_two_uneven_workers_lose_what_one_loses(
    kind: str, stage: int, storage: str, snapshot: str, alone: list[float]
) -> None:
    found = losses(run_file(storage, f"zero-{stage}", kind=kind, workers=2, zero_stage=stage), snapshot)
    assert found == pytest.approx(alone[:5], abs=1e-5)
    assert len(set(found)) == 5


@pytest.mark.slow
def test_two_uneven_workers_lose_what_one_loses_at_zero_1(
    uninterrupted: TrainSummary, storage: str, alone: list[float]
) -> None:
    assert losses_of(storage, "uninterrupted")[:5] == pytest.approx(alone[:5], abs=1e-5)


def test_the_network_is_committed_and_reads_back(
    kind: str, uninterrupted: TrainSummary, storage: str, snapshot: str, capfd: pytest.CaptureFixture[str]
) -> None:
    store, run = ObjectStore(storage), run_file(storage, "uninterrupted", kind=kind, workers=2, **LONG)
    done = committed_network(store, run.name)
    assert done is not None
    network = SharedNetwork.from_files(
        *(store.read(done.files[name]["path"]) for name in sorted(done.files, reverse=True))
    )
    assert network.digest == uninterrupted.network_digest == done.digest
    assert (network.dataset_digest, uninterrupted.steps, uninterrupted.attempts) == (snapshot, STEPS, 1)
    assert uninterrupted.psnr is not None
    assert uninterrupted.psnr > 14
    again = train(run, snapshot)
    assert (again.first_step, again.attempts, again.network_digest) == (STEPS, 0, done.digest)
    assert capfd.readouterr().out == ""


def test_another_snapshot_is_refused(kind: str, uninterrupted: TrainSummary, storage: str) -> None:
    with pytest.raises(RunChangedError):
        train(run_file(storage, "uninterrupted", kind=kind, workers=2, **LONG), "0" * 64)


def test_what_is_logged(kind: str, uninterrupted: TrainSummary, storage: str) -> None:
    lines = list(read_events(ObjectStore(storage), "uninterrupted"))
    logged = [line["values"] for line in lines if line["kind"] == "metrics" and "loss" in line["values"]]
    assert len(logged) == STEPS
    names = {"loss", "s_per_step", "samples_per_s", "data_wait", "goodput", "rate", "gradient_norm"}
    assert set(logged[0]) == names | ({"condition", "ridge"} if kind == "basis" else set())
    assert all(0 <= values["data_wait"] <= 1 and values["gradient_norm"] > 0 for values in logged)
    assert [values["rate"] for values in logged[:4]] == [5e-4, 1e-3, 1e-3, 1e-3]
    saved = [line["fields"]["step"] for line in lines if line["kind"] == "event" and line["name"] == "checkpoint"]
    assert saved == list(range(SAVE, STEPS + 1, SAVE))
    kept = [info.path for info in ObjectStore(storage).list("runs/uninterrupted/checkpoints/commits")]
    assert len(kept) == 2


def test_killed_workers_cost_the_steps_since_the_last_checkpoint_and_no_bits(
    kind: str, uninterrupted: TrainSummary, storage: str, snapshot: str
) -> None:
    """First a rank that only computes, then rank 0, which also logs and commits; each in the middle of an interval."""
    pids: list[int] = []
    victims = [1, 0]

    def kill(kind: str, fields: dict[str, Any]) -> None:
        if kind == "started":
            pids[:] = fields["pids"]
        if kind == "checkpoint" and victims and fields["step"] >= (6 - 2 * len(victims)) * SAVE:
            os.kill(pids[victims.pop(0)], signal.SIGKILL)

    run = run_file(storage, "worker-killed", kind=kind, workers=2, **LONG)
    summary = train(run, snapshot, kill)
    assert (summary.attempts, victims) == (3, [])
    assert history(ObjectStore(storage), run.name) == history(ObjectStore(storage), "uninterrupted")
    assert summary.network_digest == uninterrupted.network_digest
    assert [step >= at * SAVE for step, at in zip(started_at(run), (0, 2, 4), strict=True)] == [True] * 3
    figures = summary.goodput
    assert (figures.attempts, figures.recoveries, figures.steps) == (3, 2, STEPS)
    assert figures.redone_steps <= 2 * SAVE
    assert figures.recovery_median_s is not None
    assert figures.goodput is not None
    assert 0 < figures.goodput < 1
    assert figures.s_per_step is not None
    assert figures.wall_s > figures.recovery_median_s + STEPS * figures.s_per_step


@pytest.mark.slow
def test_a_stopped_worker_is_named_and_killed_within_the_hang_timeout(
    kind: str, uninterrupted: TrainSummary, storage: str, snapshot: str
) -> None:
    stopped: list[tuple[int, float]] = []
    named: list[tuple[dict[str, Any], float]] = []
    pids: list[int] = []

    def stop_once(kind: str, fields: dict[str, Any]) -> None:
        if kind == "started":
            pids[:] = fields["pids"]
        if kind == "checkpoint" and fields["step"] >= 2 * SAVE and not stopped:
            os.kill(pids[1], signal.SIGSTOP)
            stopped.append((pids[1], time.monotonic()))
        if kind == "hung":
            named.append((fields, time.monotonic()))

    summary = train(
        run_file(storage, "stopped", kind=kind, workers=2, hang_timeout=HANG_S, **LONG), snapshot, stop_once
    )
    [(pid, since)], [(fields, when)] = stopped, named
    assert (fields["rank"], fields["pid"]) == (1, pid)
    silence = re.match(r"silent for (\d+) s", fields["why"])
    assert silence is not None
    assert HANG_S <= float(silence[1]) <= HANG_S + 2
    assert when - since < HANG_S + KILLED_WITHIN_S
    assert summary.attempts == 2
    assert summary.network_digest == uninterrupted.network_digest
    causes = [line["fields"]["cause"] for line in events_of(storage, "stopped") if line["name"] == "recovered"]
    assert causes == ["hang"]


@pytest.mark.slow
def test_storage_that_refuses_checkpoints_is_said_and_ends_the_run_only_when_it_goes_on(
    kind: str, snapshot: str, storage: str, tmp_path: Path
) -> None:
    """A file where the checkpoints' folder should be: events are stored, checkpoints cannot."""
    store = ObjectStore(str(tmp_path / "store"))
    for info in ObjectStore(storage).list("datasets"):
        store.write(info.path, ObjectStore(storage).read(info.path))
    run = run_file(store.root, "refused", kind=kind, steps=STEPS, checkpoint_steps=20)
    store.write("runs/refused/checkpoints", b"in the way")
    notes: list[str] = []
    began: list[int] = []

    def listen(kind: str, fields: dict[str, Any]) -> None:
        if kind == "note":
            notes.append(fields["text"])
        if kind == "started":
            began.append(fields["step"])

    with pytest.raises(MedfunctaError, match="3 checkpoints in a row could not be stored") as ended:
        train(run, snapshot, listen)
    assert "resumes" in ended.value.do
    assert [note for note in notes if "step 20 could not be stored" in note]
    assert began == [0], "started again, although no restart heals it"
    store.delete("runs/refused/checkpoints")
    summary = train(run, snapshot)
    assert (summary.first_step, summary.steps) == (0, STEPS)


@pytest.mark.slow
def test_workers_that_die_more_often_than_allowed_end_the_run_in_words(kind: str, storage: str, snapshot: str) -> None:
    def kill(kind: str, fields: dict[str, Any]) -> None:
        if kind == "started":
            os.kill(fields["pids"][0], signal.SIGKILL)

    with pytest.raises(MedfunctaError, match="max_failures = 0 times") as ended:
        train(run_file(storage, "hopeless", kind=kind, steps=100_000, max_failures=0), snapshot, kill)
    assert "resumes" in ended.value.do


def started_at(run: RunFile) -> list[int]:
    return [line["fields"]["step"] for line in events_of(run.storage, run.name) if line["name"] == "started"]


def events_of(storage: str, name: str) -> list[dict[str, Any]]:
    return [line for line in read_events(ObjectStore(storage), name) if line["kind"] == "event"]


@pytest.mark.slow
def test_a_killed_driver_resumes_at_its_last_checkpoint_with_the_same_bits(
    kind: str, uninterrupted: TrainSummary, storage: str, snapshot: str, tmp_path: Path
) -> None:
    run, store = run_file(storage, "driver-killed", kind=kind, workers=2, **LONG), ObjectStore(storage)
    (tmp_path / "run.json").write_text(run.model_dump_json())
    command = [sys.executable, "-m", "tests.integration.training_runs", str(tmp_path / "run.json"), snapshot]
    with subprocess.Popen(command) as driver:
        while not store.list(f"runs/{run.name}/checkpoints/commits"):
            assert driver.poll() is None, "the driver ended by itself"
            time.sleep(0.05)
        driver.kill()
    assert committed_network(store, run.name) is None, "killed too late to show anything"
    summary = train(run, snapshot)
    assert SAVE <= summary.first_step < STEPS
    assert summary.network_digest == uninterrupted.network_digest


@pytest.mark.slow
def test_an_interrupted_zero_3_run_is_saved_and_goes_on_alone_at_zero_0(
    kind: str, storage: str, snapshot: str, alone: list[float]
) -> None:
    def interrupt(kind: str, fields: dict[str, Any]) -> None:
        if kind == "checkpoint" and fields["step"] == SAVE:
            raise KeyboardInterrupt

    longer = {**LONG, "steps": 4 * STEPS}
    with pytest.raises(InterruptedRunError, match="saved up to step") as stopped:
        train(run_file(storage, "interrupted", kind=kind, workers=2, zero_stage=3, **longer), snapshot, interrupt)
    assert stopped.value.exit_code == 5
    assert losses_of(storage, "interrupted")[:5] == pytest.approx(alone[:5], abs=1e-5)
    summary = train(run_file(storage, "interrupted", kind=kind, workers=1, zero_stage=0, **longer), snapshot)
    assert SAVE < summary.first_step < 4 * STEPS
    assert [step for step, _ in history(ObjectStore(storage), "interrupted")] == list(range(1, 4 * STEPS + 1))
    assert losses_of(storage, "interrupted")[:STEPS] == pytest.approx(alone, abs=1e-4)


@pytest.mark.slow
def test_a_run_with_muon_trains_and_goes_on_with_no_other_optimizer(kind: str, storage: str, snapshot: str) -> None:
    """The network loses its record, as if the run had ended just before it."""
    assert train(run_file(storage, "muon", kind=kind, optimizer="muon"), snapshot).attempts == 1
    ObjectStore(storage).delete("runs/muon/network/commit.json")
    with pytest.raises(RunChangedError, match="another optimizer") as caught:
        train(run_file(storage, "muon", kind=kind, optimizer="adamw"), snapshot)
    assert "train.optimizer: muon" in caught.value.do
    assert committed_network(ObjectStore(storage), "muon") is None


def test_a_loss_that_is_not_finite_ends_the_run_at_once(kind: str, storage: str, snapshot: str) -> None:
    run = run_file(storage, "collapsed", kind=kind, workers=2)
    spoiled = {"meta": run.meta.model_copy(update={"inner_rate": 1e30})}
    if kind == "basis":  # which is well at its first step, whatever the rates
        spoiled = {"train": run.train.model_copy(update={"rate": 1e30})}
    run = run.model_copy(update=spoiled)
    attempts: list[str] = []
    with pytest.raises(TrainingCollapsedError, match="outer step 1" if kind == "siren" else "outer step 2"):
        train(run, snapshot, lambda kind, fields: attempts.append(kind) if kind == "started" else None)
    assert len(attempts) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["siren"], indirect=True)
def test_a_run_that_learns_nothing_is_said_to_be_stuck_and_goes_on(kind: str, storage: str, snapshot: str) -> None:
    run = run_file(storage, "stuck", kind=kind, workers=2, steps=30, rate=1e-12)
    meta = run.meta.model_copy(update={"inner_rate": 1e-9, "rate_policy": "learned"})
    run = run.model_copy(update={"meta": meta})
    notes: list[str] = []
    train(run, snapshot, lambda kind, fields: notes.append(fields["text"]) if kind == "note" else None)
    events = [line for line in read_events(ObjectStore(storage), "stuck") if line["kind"] == "event"]
    assert [line["fields"] for line in events if line["name"] == "collapse"] == [{"step": 25, "finding": "stuck"}]
    assert any("outer step 25" in note and "train.rate_by_omega" in note for note in notes)
    done = committed_network(ObjectStore(storage), "stuck")
    assert done is not None
    files = [ObjectStore(storage).read(done.files[f"network.{kind}"]["path"]) for kind in ("safetensors", "json")]
    kept = SharedNetwork.from_files(*files).extras["inner.rates"]
    assert kept.shape == (3, 8)
    assert kept.flatten().tolist() == pytest.approx([1e-9] * 24, rel=1e-3)


def test_a_run_that_gets_more_steps_is_one_that_had_them_from_the_beginning_to_the_bit(
    kind: str, storage: str, snapshot: str
) -> None:
    """The first driver ends with the network of 4 steps; the second takes only those that are left."""

    def to(name: str, steps: int, said: Callable[[str], None] = print) -> TrainSummary:
        schedule = {"schedule": "cosine", "schedule_steps": 8}
        return train(run_file(storage, name, kind=kind, steps=steps, **schedule), snapshot, notify=said)

    whole, first, more = to("whole", 7), to("raised", 4), to("raised", 7)
    assert (first.steps, more.first_step, more.steps) == (4, 4, 7)
    assert more.network_digest == whole.network_digest != first.network_digest
    assert losses_of(storage, "raised") == losses_of(storage, "whole")
    assert not [line for line in events_of(storage, "raised") if line["name"] == "recovered"]
    assert more.goodput.recoveries == 0
    assert to("raised", 7).attempts == 0

    said: list[str] = []
    end, beyond = to("raised", 8), to("raised", 10, said.append)
    assert (beyond.first_step, beyond.steps, beyond.network_digest) == (8, 10, end.network_digest)
    assert "the last 2 of 10 outer steps change nothing" in "".join(said)


def test_a_run_starts_from_the_network_of_another_and_needs_it_only_once(
    kind: str, storage: str, snapshot: str
) -> None:
    """The other run is deleted when the second has taken its copy, and before its first checkpoint."""
    store = ObjectStore(storage)
    source = train(run_file(storage, "source", kind=kind, steps=40), snapshot)

    def start(name: str, start_from: str, act: Callable[[str, dict[str, Any]], None] | None = None) -> TrainSummary:
        run = run_file(storage, name, kind=kind, steps=4, start_from=start_from, checkpoint_steps=2, workers=2)
        return train(run, snapshot, act)

    whole = start("warm", "source")
    assert whole.started_from == source.network_digest
    cold = losses(run_file(storage, "cold", kind=kind, steps=4, workers=2), snapshot)
    assert losses_of(storage, "warm")[0] < 0.9 * cold[0]
    done = committed_network(store, "warm")
    assert done is not None
    assert done.started_from == source.network_digest
    assert start("by-folder", f"{storage}/runs/source").network_digest == whole.network_digest

    take_start(run_file(storage, "orphan", kind=kind, start_from="source"), store, ALONE)
    for info in store.list("runs/source"):
        store.delete(info.path)
    assert start("orphan", "source").network_digest == whole.network_digest
    with pytest.raises(StageOrderError, match=r"train\.start_from is source"):
        start("late", "source")
