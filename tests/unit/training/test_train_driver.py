"""The driver's wait for Ray Train, which a signal interrupts; what it makes of messages, hung workers and failures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError
from ray.train import PreemptionError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import WorkerGroupError

from medfuncta_dist.errors import InterruptedRunError, LimitReachedError, MedfunctaError, StorageError
from medfuncta_dist.telemetry.progress_report import ProgressReport
from medfuncta_dist.training import train_driver
from medfuncta_dist.training.liveness.heartbeat import Heartbeat, HeartbeatMonitor
from medfuncta_dist.training.mailbox import Mailbox
from medfuncta_dist.training.train_driver import TrainDriver, _explained, _TrainerThread
from tests.integration.training_runs import run_file


def test_a_signal_during_the_wait_does_not_make_training_look_over() -> None:
    """Else a driver that is asked to stop leaves at once, and with it its workers, before they have saved."""
    done = threading.Event()

    class Trainer:
        def fit(self) -> None:
            done.wait(10)

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    training = _TrainerThread(Trainer())  # type: ignore[arg-type]
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            training.wait(5)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not training.wait(0.1)
    done.set()
    assert training.wait(5)


def test_the_workers_messages_become_progress_reports_and_lines() -> None:
    reports: list[ProgressReport] = []
    lines: list[str] = []
    kinds: list[str] = []
    run = run_file("/nowhere", "x", steps=100)
    driver = TrainDriver(run, reports.append, lines.append, lambda kind, fields: kinds.append(kind))
    messages: list[tuple[str, dict[str, Any]]] = [
        ("started", {"step": 20, "workers": 2}),
        ("step", {"step": 21, "loss": 0.5}),
        ("validated", {"step": 21, "psnr": 30.0}),
        ("checkpoint", {"step": 20}),
        ("note", {"text": "slow"}),
        ("halved", {"rank": 3, "points": 512, "scans": 24}),
        ("started", {"step": 20, "workers": 1}),
        ("finished", {"step": 100}),
    ]
    driver._handle(messages)
    assert [(r.done, r.workers_started) for r in reports] == [
        (20, True),
        (21, False),
        (21, False),
        (21, False),
        (20, True),
        (100, False),
    ]
    assert reports[1].notes == {"loss": 0.5}
    assert {name: reports[-1].notes[name] for name in ("loss", "psnr")} == {"loss": 0.5, "psnr": 30.0}
    assert "checkpoint" in reports[3].figures
    halved = "rank 3 ran out of memory: it goes on with half the chunks, at most 512 points of 24 scans at once"
    assert lines == ["2 workers, from step 20", "slow", halved, "started again, 1 worker, from step 20"]
    assert kinds == [kind for kind, _ in messages]
    assert (driver.attempts, driver.first_step, driver.saved) == (2, 20, 20)


NODE = "ab" * 28


class Here:
    """A mailbox in this process, called as Ray's actors are. Its ranks were heard of ``now`` seconds ago or less."""

    def __init__(self) -> None:
        self.mailbox, self.now = Mailbox(), 0.0
        self.mailbox._heartbeats = HeartbeatMonitor(lambda: self.now)

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.mailbox, name))


class Nodes:
    """Ray's part in killing: it runs a task on a node, here in this process, unless the node does not answer."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []
        self.answers = True

    def remote(self, **_: Any) -> Callable[[Callable[[int], bool]], Any]:
        return lambda task: SimpleNamespace(options=lambda scheduling_strategy: self._on(task, scheduling_strategy))

    def _on(self, task: Callable[[int], bool], strategy: Any) -> Any:
        def run(pid: int) -> bool | None:
            self.asked.append((strategy.node_id, strategy.soft))
            return task(pid) if self.answers else None

        return SimpleNamespace(remote=run)

    def get(self, answer: Any, timeout: float | None = None) -> Any:
        if answer is None and timeout is not None:
            raise GetTimeoutError("no answer")
        return answer


class Hang:
    """A driver of two ranks: rank 0 waits for rank 1, a process of its own that stays in one phase."""

    def __init__(self, nodes: Nodes, title: str) -> None:
        self.nodes, self.here = nodes, Here()
        self.lines: list[str] = []
        self.messages: list[tuple[str, dict[str, Any]]] = []
        run = run_file("/nowhere", "x", steps=100)
        on_message = lambda kind, fields: self.messages.append((kind, fields))  # noqa: E731
        self.driver = TrainDriver(run, lambda report: None, self.lines.append, on_message)
        self.driver.mailbox = self.here
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", title])
        self.here.mailbox.post("step", {"step": 7})
        self.beat()
        self.here.now = run.train.hang_timeout + 1
        self.beat()

    def beat(self) -> None:
        """Both live; neither gets on."""
        for rank, pid, node, waits in ((0, os.getpid(), "cd" * 28, True), (1, self.process.pid, NODE, False)):
            self.here.mailbox.record_heartbeat(Heartbeat("1", rank, node, pid, 7, "a phase", 1, 0, waits, False))

    def kill(self) -> None:
        self.driver._kill_hung_workers()

    def cause(self) -> str:
        """Why the attempt ended, as the next one is told."""
        end = self.here.mailbox.previous_attempt_end()
        assert end is not None
        return end.cause


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    nodes = Nodes()
    monkeypatch.setattr(train_driver.ray, "remote", nodes.remote)
    monkeypatch.setattr(train_driver.ray, "get", nodes.get)
    return nodes


@pytest.fixture
def hang_of(nodes: Nodes) -> Iterator[Callable[[str], Hang]]:
    made: list[Hang] = []

    def make(title: str) -> Hang:
        made.append(Hang(nodes, title))
        return made[-1]

    yield make
    for hang in made:
        hang.process.kill()
        hang.process.wait()


def test_the_process_that_hangs_is_killed_on_its_node_and_it_is_said(hang_of: Callable[[str], Hang]) -> None:
    hang = hang_of("ray::worker")
    pid = hang.process.pid
    hang.kill()
    assert hang.process.wait(10) == -signal.SIGKILL
    assert hang.nodes.asked == [(NODE, False)]
    where = f"rank 1 (process {pid} on node {NODE[:12]})"
    why = f"a phase (outer step 8) for {hang.here.now:.0f} s"
    assert hang.lines == [f"{where} hangs, {why}: killed, the workers start again"]
    assert hang.messages == [("hung", {"rank": 1, "pid": pid, "node": NODE, "why": why})]
    assert hang.cause() == "hang"
    hang.kill()
    assert len(hang.nodes.asked) == 1, "the attempt has ended: nothing of it is killed twice"


def test_a_rank_that_gets_on_is_not_killed(hang_of: Callable[[str], Hang]) -> None:
    hang = hang_of("ray::worker")
    hang.here.mailbox.record_heartbeat(Heartbeat("1", 1, NODE, hang.process.pid, 8, "a phase", 2, 0, False, False))
    hang.kill()
    assert (hang.nodes.asked, hang.lines, hang.cause()) == ([], [], "failure")


def test_a_process_that_is_no_worker_is_left_alone(hang_of: Callable[[str], Hang]) -> None:
    """The worker is gone, and another process has its number: there is nothing to kill, and nothing to say."""
    hang = hang_of("somebody else's")
    hang.kill()
    assert hang.process.poll() is None
    assert hang.nodes.asked == [(NODE, False)]
    assert (hang.lines, hang.messages, hang.cause()) == ([], [], "hang")


def test_a_node_that_does_not_answer_is_asked_again_later(
    hang_of: Callable[[str], Hang], monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = hang_of("ray::worker")
    hang.nodes.answers = False
    hang.kill()
    hang.kill()
    assert len(hang.nodes.asked) == 1, "each try takes as long as the last: messages must be passed on meanwhile"
    assert (hang.lines, hang.cause()) == ([], "failure")
    hang.nodes.answers = True
    later = time.monotonic() + train_driver.KILL_S + 1
    monkeypatch.setattr(train_driver.time, "monotonic", lambda: later)
    hang.kill()
    assert hang.process.wait(10) == -signal.SIGKILL
    assert hang.cause() == "hang"


def failed(failures: dict[int, Exception]) -> WorkerGroupError:
    return WorkerGroupError("pages of tracebacks", failures)


def wrapped(error: Exception) -> UserExceptionWithTraceback:
    """As Ray Train sends what a worker raised."""
    return UserExceptionWithTraceback(error, "a traceback")


OURS = StorageError("storage refused three checkpoints in a row", where="s3://x", do="see to it")
THEIRS = RuntimeError("Connection closed by peer")


def test_workers_that_die_more_often_than_allowed_are_explained_by_the_last_failure() -> None:
    run = run_file("/nowhere", "x", max_failures=2)
    reason = RuntimeError("Traceback\n  somewhere\n\nthe worker died: out of memory\n\n")
    error = _explained(failed({3: wrapped(reason), 4: THEIRS}), run)
    assert error.what == (
        "workers failed more than train.max_failures = 2 times; the last failure: the worker died: out of memory"
    )
    assert error.where == "worker 3"
    assert "run the same command again" in error.do
    assert error.exit_code == 1
    assert _explained(failed({0: KeyError()}), run).what.endswith("the last failure: KeyError")
    assert _explained(ValueError("no worker at all"), run).what.endswith("the last failure: no worker at all")


def test_too_many_preemptions_are_an_interruption() -> None:
    run = run_file("/nowhere", "x", max_preemptions=4)
    error = _explained(PreemptionError.__new__(PreemptionError), run)
    assert isinstance(error, InterruptedRunError)
    assert error.what == "nodes were preempted more than train.max_preemptions = 4 times"
    assert error.exit_code == 5


@pytest.mark.parametrize("failures", [{0: wrapped(OURS)}, {0: wrapped(THEIRS), 1: wrapped(OURS)}, {0: OURS}])
def test_an_error_of_ours_is_the_cause_whatever_else_failed_with_it(failures: dict[int, Exception]) -> None:
    assert _explained(failed(failures), run_file("/nowhere", "x")) is OURS


@pytest.mark.parametrize("reported", [None, InterruptedRunError("a worker said so")])
def test_a_run_whose_training_fails_ends_with_the_reason(nodes: Nodes, reported: MedfunctaError | None) -> None:
    """What a worker has put into the mailbox comes first; else what Ray Train raised, explained."""

    class Trainer:
        def fit(self) -> None:
            raise failed({0: wrapped(THEIRS), 1: wrapped(OURS)})

    driver = TrainDriver(run_file("/nowhere", "x"), lambda report: None, print, None)
    here = driver.mailbox = Here()
    if reported is not None:
        here.mailbox.fail(reported)
    with pytest.raises(MedfunctaError) as caught:
        driver.follow(Trainer())  # type: ignore[arg-type]
    assert caught.value is (reported or OURS)


class Saving:
    """A trainer whose workers take steps until they are asked to stop, and then save."""

    def __init__(self, here: Here, *, begins: bool = True) -> None:
        self.here, self.begins, self.over = here, begins, threading.Event()

    def fit(self) -> None:
        if not self.begins:
            self.over.wait(10)
            return
        self.here.mailbox.post("started", {"step": 0, "workers": 1})
        while not self.here.mailbox.stop_requested():
            time.sleep(0.01)
        self.here.mailbox.post("checkpoint", {"step": 30})


def test_at_the_limit_the_workers_are_asked_to_save_and_the_driver_knows_with_what_to_end(nodes: Nodes) -> None:
    lines: list[str] = []
    reports: list[ProgressReport] = []
    used = LimitReachedError("2 of 2 hours", do="raise it")
    asked: list[int] = []

    def reached() -> LimitReachedError | None:
        asked.append(driver.attempts)
        return used if len(asked) > 2 else None

    driver = TrainDriver(run_file("/nowhere", "x", steps=100), reports.append, lines.append, None, reached)
    here = driver.mailbox = Here()
    driver.follow(Saving(here))  # type: ignore[arg-type]
    assert (driver.limit, driver.saved) == (used, 30)
    assert reports[-1].done == 30, "a step that is saved is done, whether it was reported or not"
    assert lines[-1] == "stopping: 2 of 2 hours; saving a checkpoint first"


def test_workers_that_never_begin_are_not_long_waited_for_at_the_limit(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_driver, "STOP_S", 0.1)
    used = LimitReachedError("2 of 2 hours", do="raise it")
    driver = TrainDriver(run_file("/nowhere", "x"), lambda report: None, print, None, lambda: used)
    here = driver.mailbox = Here()
    trainer = Saving(here, begins=False)
    began = time.monotonic()
    driver.follow(trainer)  # type: ignore[arg-type]
    trainer.over.set()
    assert time.monotonic() - began < 5
    assert driver.limit is used
    with pytest.raises(LimitReachedError):
        driver.require_within_limit()
