"""The shape that pack and fit share: a task mapped over items, each ending as ``Done`` or ``Failed``.

Drivers take the fan-out as an argument: ``fanout.ray_fan_out`` on a cluster, ``map_here`` in a unit test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


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


FanOut = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Done | Failed]]


def map_here(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
    """Run every item in this process, in order."""
    for item in items:
        try:
            yield Done(item, task(item))
        except Exception as error:
            yield Failed(item, error)
