"""The shape that pack and fit share: a task mapped over items, each ending as ``Done`` or ``Failed``.

Drivers take the fan-out as an argument: ``fanout.ray_fan_out`` on a cluster, ``map_here`` in a unit test. A task
that fails because of an item is divided until that item is alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.errors import MedfunctaError, WorkerDiedError

MAX_FIRST_FAILURES = 32
"""Failed tasks before any succeeds: then the items are not to blame, and dividing them all would take days."""


@dataclass(frozen=True)
class Done:
    """An item whose task returned."""

    item: Any
    result: Any


@dataclass(frozen=True)
class Failed:
    """An item whose task raised, or whose worker died, after ``attempts`` tries."""

    item: Any
    error: Exception
    attempts: int = 1


FanOut = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Done | Failed]]
"""Items are taken as tasks start, so that they need not all be there."""


def map_here(task: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Done | Failed]:
    """Run every item in this process, in order."""
    for item in items:
        try:
            yield Done(item, task(item))
        except Exception as error:
            yield Failed(item, error)


def limited(fan_out: FanOut, reached: Callable[[], MedfunctaError | None]) -> FanOut:
    """A fan-out that starts no further item once ``reached`` answers with an error.

    Items that run are finished, and their outcomes yielded, so that nothing that was begun is lost; then that error is
    raised. Items that wait for room in the cluster, while none runs, are not waited for.
    """

    def fan_out_within(task: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Done | Failed]:
        count = len(items) if isinstance(items, Sized) else None
        error = reached() if count else None
        if error is not None:
            raise error  # before any worker is started
        within = Within(items, reached) if count is None else CountedWithin(items, reached, count)
        yield from fan_out(task, within)
        if within.error is not None:
            raise reached() or within.error  # what is done by now

    return fan_out_within


class Within:
    """Items whose iteration ends where a limit is reached.

    A fan-out asks ``is_over`` while it can run none of them: they may wait for a node that never comes.
    """

    def __init__(self, items: Iterable[Any], reached: Callable[[], MedfunctaError | None]) -> None:
        self._items, self._reached = items, reached
        self.error: MedfunctaError | None = None

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            if self.is_over():
                return
            yield item

    def is_over(self) -> bool:
        """Whether the limit is reached."""
        self.error = self._reached()
        return self.error is not None


class CountedWithin(Within):
    """The same of items whose number is known: no more workers are started than there are items."""

    def __init__(self, items: Iterable[Any], reached: Callable[[], MedfunctaError | None], count: int) -> None:
        super().__init__(items, reached)
        self._count = count

    def __len__(self) -> int:
        return self._count


def map_divided(
    fan_out: FanOut,
    task: Callable[[Any], Any],
    items: Sequence[Any],
    divide: Callable[[Failed], Sequence[Any]],
) -> Iterator[Done | Failed]:
    """Map items, then the pieces that ``divide`` makes of failed ones, and so on; a failure without pieces is final.

    Raises the last failure's error when ``MAX_FIRST_FAILURES`` items have failed and none has succeeded.
    """
    succeeded = divided = 0
    while items:
        pieces: list[Any] = []
        for outcome in fan_out(task, items):
            smaller = divide(outcome) if isinstance(outcome, Failed) else ()
            succeeded += isinstance(outcome, Done)
            divided += bool(smaller)
            if isinstance(outcome, Failed) and divided >= MAX_FIRST_FAILURES and not succeeded:
                raise outcome.error
            if smaller:
                pieces += smaller
            else:
                yield outcome
        items = pieces


def may_be_the_items_fault(error: Exception) -> bool:
    """Whether the item may be to blame: its worker died, or raised an unforeseen error.

    Errors of storage, disk, memory and run file are not: quarantining an item would hide what needs to be fixed.
    """
    if isinstance(error, WorkerDiedError):
        return True
    return not isinstance(error, MedfunctaError | OSError | MemoryError)
