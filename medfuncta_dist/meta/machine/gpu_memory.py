"""What a GPU has free, asked where a run's workers are; and what to do when it was not enough."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.device import granted_device, require_device
from medfuncta_dist.meta.sweeps.chunks import Chunks

SAID = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)
"""By errors of no class of their own: of the host, of CUDA itself (graphs, pinned memory), of libraries' workspaces."""


@dataclass(frozen=True)
class GpuMemory:
    """Of the GPU that a task was granted, or a share of it."""

    name: str
    free: int
    """Bytes, of the task's share."""


def granted_memory(gpus: float) -> GpuMemory | None:
    """A task that was granted so many GPUs tells what it has; None without one. MedfunctaError where torch has none."""
    device = require_device(granted_device(gpus))
    if device.type == "cpu":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return GpuMemory(torch.cuda.get_device_name(device), min(free, int(min(1.0, gpus) * total)))


def too_little(chunks: Chunks, said: str) -> MedfunctaError:
    """What to say where even half the chunks were too much; ``said``: by whoever had no memory."""
    where = f"at most {chunks.points} points of {chunks.scans} scans at once"
    do = "use a GPU with more memory, more workers (each then has fewer scans), or lower train.batch or fit.batch"
    return MedfunctaError(f"out of memory, although chunks were halved already ({said})", where=where, do=do)


def release_memory() -> None:
    """Give back what torch keeps for later: after a failed allocation it is in pieces."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in SAID)


def out_of_memory_behind(error: BaseException | None) -> BaseException | None:
    """The failed allocation that an error is, or that was being handled when it was raised; None where there is none.

    Ending a recording that broke off may raise an error of its own.
    """
    while error is not None and not is_out_of_memory(error):
        error = error.__context__
    return error
