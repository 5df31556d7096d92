"""A stage's progress, shown from its first report on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from medfuncta_dist.telemetry.progress_bar import Progress


@contextmanager
def shown(title: str, read: Callable[[Any], tuple[int, int, dict[str, str]]]) -> Iterator[Callable[[Any], None]]:
    """A callback for a stage's reports; ``read`` turns one into (done, total, notes).

    The bar appears with the first report, when the total is known.
    """
    with ExitStack() as stack:
        bars: list[Progress] = []

        def report(progress: Any) -> None:
            done, total, notes = read(progress)
            if not bars:
                bars.append(stack.enter_context(Progress(title, total)))
            bars[0].at(done, **notes)

        yield report
