"""Numbers that a step leaves on the device. They are read when the next step is on its way: whoever read them at once
would wait for the step to end, and the device would then wait for the next one to be given to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

T = TypeVar("T")


class DeviceMoment:
    """A point in what the device has been given to do; on the CPU, which has done it already, nothing."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None

    def wait(self) -> None:
        """Until the device has come this far."""
        if self._event is not None:
            self._event.synchronize()


class SentNumbers:
    """Numbers that are being copied from their device, for which nobody waits yet."""

    def __init__(self, numbers: Float[Tensor, " number"]) -> None:
        # Only a copy to pinned memory returns before it is done.
        self._host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=numbers.device.type == "cuda")
        self._host.copy_(numbers, non_blocking=True)
        self._arrived = DeviceMoment(numbers.device)

    def read(self) -> list[float]:
        """The numbers; waits for the device."""
        self._arrived.wait()
        found: list[float] = self._host.tolist()
        return found


@dataclass(frozen=True)
class _Waiting(Generic[T]):
    step: T
    numbers: SentNumbers
    computed: DeviceMoment


class StepNumbers(Generic[T]):
    """The numbers of the last steps, each beside what the host knows of its step.

    ``await_own`` and ``await_others`` are called before waits: for this rank's part of a step, and for what ranks
    compute together after it.
    """

    def __init__(self, await_own: Callable[[T], object], await_others: Callable[[T], object]) -> None:
        self._await_own, self._await_others = await_own, await_others
        self._waiting: deque[_Waiting[T]] = deque()

    def add(self, step: T, numbers: Float[Tensor, " number"], computed: DeviceMoment) -> None:
        """A step was given to the device. ``computed``: after this rank's part of it."""
        self._waiting.append(_Waiting(step, SentNumbers(numbers), computed))

    def read(self, *, all_steps: bool) -> Iterator[tuple[T, list[float]]]:
        """The numbers that were not read yet, in order: of all steps, or of all but the last."""
        while len(self._waiting) > (0 if all_steps else 1):
            one = self._waiting.popleft()
            self._await_own(one.step)
            one.computed.wait()
            self._await_others(one.step)
            yield one.step, one.numbers.read()
