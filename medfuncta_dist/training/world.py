"""The ranks of one worker group, and the few values they exchange besides gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """A rank of a worker group. Needs an initialised process group."""

    rank: int
    size: int
    device: torch.device

    host: dist.ProcessGroup | None = None
    """The same ranks, for what is on the host; None where torch's process group itself is one of CPUs."""

    @classmethod
    def from_process_group(cls, device: torch.device, timeout_s: float = 1800.0) -> World:
        """This process's rank in torch's process group. A collective where that is a group of GPUs: what the host
        exchanges then gets a group of CPUs, whose exchanges may take ``timeout_s``. Through the GPUs, each value would
        wait until they have done all that they were given."""
        host = None
        if dist.get_backend() != "gloo":
            host = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        return cls(dist.get_rank(), dist.get_world_size(), device, host)

    @property
    def is_leader(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum over ranks of each number of the host, in double precision."""
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.host)
        found: list[float] = total.tolist()
        return found

    def sum_on_device(self, part: Tensor) -> Tensor:
        """The sum over ranks of a tensor on the device, where it stays; ``part`` is not changed."""
        total = part.clone()
        dist.all_reduce(total)
        return total

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank, in order."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.host)
        return found

    def broadcast_from_leader(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.host, device=CPU)
        return box[0]

    def wait_for_leader(self) -> None:
        """Wait until rank 0 is here, too; rank 0 itself does not wait."""
        self.broadcast_from_leader(None)
