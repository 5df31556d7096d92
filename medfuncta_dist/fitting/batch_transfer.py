"""A batch's way to the device and its results' way back, both while the device computes.

On CUDA both pass through pinned memory, and nobody waits for the device but who needs the results. On a CPU nothing is
copied, and nothing waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

T = TypeVar("T")


class Arriving:
    """Values on their way to a device: sent by one thread, taken by the one that computes."""

    def __init__(self, values: Tensor, sent: torch.cuda.Event | None = None) -> None:
        self._values, self._sent = values, sent

    def take(self) -> Tensor:
        """The values, for what the calling thread computes from now on. It does not wait for them; the device does."""
        if self._sent is not None:
            computing = torch.cuda.current_stream(self._values.device)
            computing.wait_event(self._sent)
            self._values.record_stream(computing)  # its memory is reused only after the computation that follows
        return self._values


@dataclass(frozen=True)
class Sender:
    """Sends batches to a device, on CUDA with a stream of its own, from whichever thread."""

    stream: torch.cuda.Stream | None

    @classmethod
    def to(cls, device: torch.device) -> Sender:
        """Called in the thread that computes: ``cuda`` without a number is its device, not another thread's."""
        if device.type != "cuda":
            return cls(None)
        index = torch.cuda.current_device() if device.index is None else device.index
        return cls(torch.cuda.Stream(torch.device("cuda", index)))  # type: ignore[no-untyped-call]

    def send(self, values: Float[np.ndarray, "batch point *channel"]) -> Arriving:
        """On a CPU the tensor is the array's own memory."""
        if self.stream is None:
            return Arriving(torch.from_numpy(values))
        # The device is a thread's own: without this, memory would be pinned for the first one.
        with torch.cuda.device(self.stream.device), torch.cuda.stream(self.stream):
            pinned = torch.from_numpy(values).pin_memory()
            return Arriving(pinned.to(self.stream.device, non_blocking=True), self.stream.record_event())


class Returning:
    """Tensors on their way to the host: their copies start as soon as they are computed, before what is asked of the
    device later."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._here = [_on_host(tensor) for tensor in tensors]
        device = next((tensor.device for tensor in tensors if tensor.is_cuda), None)
        self._copied = None if device is None else torch.cuda.current_stream(device).record_event()

    def wait(self) -> list[np.ndarray]:
        """As arrays, when they have arrived. The only place where fitting waits for the device."""
        if self._copied is not None:
            self._copied.synchronize()
        return [tensor.numpy() for tensor in self._here]


def _on_host(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)


def one_behind(items: Iterable[T]) -> Iterator[T]:
    """The same items in the same order, each when the next one has been made: at most two exist."""
    held: list[T] = []
    for item in items:
        yield from held
        held = [item]
    yield from held
