"""Showing a changing status on stderr: in place on a terminal, else as new lines when state or reason change."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live as RichLive
from rich.text import Text

from medfuncta_dist.submit.backends.backend import JobState
from medfuncta_dist.submit.status.run_status import RunStatus
from medfuncta_dist.submit.status.status_text import render_status

REPEAT_S = 30.0
"""Without a terminal, the status is printed again after so long without a change."""
EXIT_CODES = {JobState.DONE: 0, JobState.FAILED: 1, JobState.CANCELLED: 5, JobState.LOST: 5}


def choose_exit_code(status: RunStatus) -> int:
    """The exit code of a command that watched a job until it ended: the job's. 0 for one that has not ended."""
    return status.exit_code or EXIT_CODES.get(status.state, 0)


class LiveStatus:
    """``with Live() as live: live.show(status)``."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._live = RichLive(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._last_state: tuple[str, ...] | None = None
        self._printed_at = float("-inf")

    def __enter__(self) -> LiveStatus:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, status: RunStatus) -> None:
        """Show the present status."""
        state = (status.name, str(status.state), status.waiting)
        if self._live is not None:
            self._live.update(Text("\n".join(render_status(status))), refresh=True)
        elif state != self._last_state or time.monotonic() - self._printed_at >= REPEAT_S:
            self._last_state = state
            self._printed_at = time.monotonic()
            self.print_line("\n".join(render_status(status)))

    def print_line(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False, highlight=False)

    def final_answer(self, status: RunStatus) -> dict[str, Any]:
        """The answer of a command that watched a job until it ended; its exit code is the job's."""
        return {
            **status.as_dict(),
            "exit_code": choose_exit_code(status),
            "said": render_status(status),
        }
