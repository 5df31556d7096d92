"""A step's input on its device before it is needed: made, and on a GPU copied there, by a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from medfuncta_dist.streaming.prefetch import prefetch
from medfuncta_dist.streaming.stream import Batch

COPIED_AHEAD = 2
"""Batches on the device before they are needed: with one, training would wait for the thread."""

Contexts = Sequence[Int[Tensor, " context"]]
DrawContexts = Callable[[Tensor, int], Contexts]
"""From a batch's values (batch, point, channel) and its outer step to the context sets of that step, on the CPU and of
equal size."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A batch whose ``targets`` (batch, point, channel) and ``contexts`` are on the device that computes with them."""

    batch: Batch
    targets: Tensor
    contexts: Contexts


def no_contexts(values: Tensor, step: int) -> Contexts:
    """For batches of no outer step."""
    return ()


def on_device(
    batches: Iterable[Batch], device: torch.device, draw: DrawContexts = no_contexts
) -> Generator[Placed, None, None]:
    """Each batch on ``device``, with what ``draw`` makes for it; a thread works ahead, also on the draws.

    On CUDA it copies from pinned memory, on a stream of its own; on the CPU the values are the batch's own memory.
    """
    on_gpu = device.type == "cuda"
    drawn = _drawn(batches, draw)
    ahead = prefetch(_copied(drawn, device) if on_gpu else _here(drawn), COPIED_AHEAD)
    try:
        for placed, copied, arrived in ahead:
            if arrived is not None:
                _await_copies(copied, arrived, torch.cuda.current_stream(device))
            yield placed
    finally:
        ahead.leave()  # without waiting for its thread, which may wait for storage


Copied = tuple[Placed, Sequence[Tensor], torch.cuda.Event | None]
"""A batch in place, what of it was copied, and the event after the copies."""


def _here(drawn: Iterable[Placed]) -> Iterator[Copied]:
    return ((placed, (), None) for placed in drawn)


def _await_copies(copied: Sequence[Tensor], arrived: torch.cuda.Event, computing: torch.cuda.Stream) -> None:
    """What ``computing`` does from now on comes after the copies; the host does not wait."""
    computing.wait_event(arrived)
    for tensor in copied:
        tensor.record_stream(computing)  # its memory is reused only after the computation that follows


def _drawn(batches: Iterable[Batch], draw: DrawContexts) -> Iterator[Placed]:
    for batch in batches:
        values = torch.from_numpy(batch.values)
        yield Placed(batch, values, draw(values, batch.step))


def _copied(drawn: Iterable[Placed], device: torch.device) -> Iterator[Copied]:
    """The same on the device. Runs in a thread, which begins on device 0, whichever its process computes on: pinning
    there would take memory on that GPU, too."""
    torch.cuda.set_device(device)
    own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for placed in drawn:
        # One copy for all context sets: they are of equal size.
        host = [placed.targets, *([torch.stack(list(placed.contexts))] if placed.contexts else [])]
        pinned = [tensor.pin_memory() for tensor in host]
        with torch.cuda.stream(own):
            targets, *contexts = copied = [tensor.to(device, non_blocking=True) for tensor in pinned]
            arrived = own.record_event()
        yield Placed(placed.batch, targets, contexts[0].unbind() if contexts else ()), copied, arrived
