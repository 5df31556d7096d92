"""The driver's wait for Ray Train, which a signal interrupts."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from medfuncta_dist.training.train_driver import _Outcome


def test_a_signal_during_the_wait_does_not_make_training_look_over() -> None:
    """Else a driver that is asked to stop leaves at once, and with it its workers, before they have saved."""
    done = threading.Event()

    class Trainer:
        def fit(self) -> None:
            done.wait(10)

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    outcome = _Outcome(Trainer())  # type: ignore[arg-type]
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            outcome.over(5)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not outcome.over(0.1)
    done.set()
    assert outcome.over(5)
