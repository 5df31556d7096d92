"""What a learner sums over the ranks of a worker group, with heartbeats that say who waits for whom."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medfuncta_dist.meta.learner import Ranks
from medfuncta_dist.training.liveness.heartbeat_sender import HeartbeatSender
from medfuncta_dist.training.world import World


@dataclass(frozen=True)
class RankSums(Ranks):
    """The ranks of a process group, to a learner."""

    world: World
    heartbeat: HeartbeatSender | None = None

    @property
    def rank(self) -> int:
        """This one."""
        return self.world.rank

    @property
    def size(self) -> int:
        """How many there are."""
        return self.world.size

    def sum(self, part: Tensor) -> Tensor:
        """The sum over ranks, the same on each; ``part`` is not changed."""
        if self.heartbeat is None:
            return self.world.sum_on_device(part)
        with self.heartbeat.waiting("summing over ranks"):
            return self.world.sum_on_device(part)

    def alive(self) -> None:
        """A sign of life, within the present phase."""
        if self.heartbeat is not None:
            self.heartbeat.signal_alive()
