"""Batches copied to the device while it computes: from pinned memory, on a CUDA stream of their own."""

from __future__ import annotations

from collections.abc import Generator, Iterable

import torch
from torch import Tensor

from medfuncta_dist.streaming.prefetch import prefetch
from medfuncta_dist.streaming.stream import Batch

COPIED_AHEAD = 2
"""Batches on the device before they are needed: with one, training would wait for the copying thread."""


def on_device(batches: Iterable[Batch], device: torch.device) -> Generator[tuple[Batch, Tensor]]:
    """Each batch with its values as a tensor (batch, point, channel) on ``device``.

    On CUDA a thread copies ahead during the computation; on CPU the tensor is the batch's own memory.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch, torch.from_numpy(batch.values)
        return
    own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for batch, values, arrived in prefetch((_copied(batch, device, own) for batch in batches), COPIED_AHEAD):
        computing = torch.cuda.current_stream(device)
        computing.wait_event(arrived)
        values.record_stream(computing)  # its memory is reused only after the computation that follows
        yield batch, values


def _copied(batch: Batch, device: torch.device, own: torch.cuda.Stream) -> tuple[Batch, Tensor, torch.cuda.Event]:
    pinned = torch.from_numpy(batch.values).pin_memory()
    with torch.cuda.stream(own):
        values = pinned.to(device, non_blocking=True)
        return batch, values, own.record_event()
