"""The driver's wait for Ray Train, which a signal interrupts, and what it makes of the workers' messages."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from medfuncta_dist.telemetry.progress_report import ProgressReport
from medfuncta_dist.training.train_driver import TrainDriver, _TrainerThread
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
    assert lines == ["2 workers, from step 20", "slow", "started again, 1 worker, from step 20"]
    assert kinds == [kind for kind, _ in messages]
    assert (driver.attempts, driver.first_step, driver.saved) == (2, 20, 20)
