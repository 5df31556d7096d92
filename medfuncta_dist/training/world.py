"""The ranks of one worker group, and the few values they exchange besides gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """A rank of a worker group. Needs an initialised process group."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def from_process_group(cls, device: torch.device) -> World:
        """This process's rank in torch's process group."""
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def is_leader(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum over ranks of each number, in double precision."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank, in order."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def broadcast_from_leader(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def wait_for_leader(self) -> None:
        """Wait until rank 0 is here, too; rank 0 itself does not wait."""
        self.broadcast_from_leader(None)
