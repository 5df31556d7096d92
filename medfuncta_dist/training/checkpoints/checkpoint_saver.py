"""When a checkpoint is taken, what it costs, and what follows when storage refuses it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.training.checkpoints.checkpoint import Facts
from medfuncta_dist.training.checkpoints.checkpoint_uploads import Uploaded, Uploads
from medfuncta_dist.training.checkpoints.training_state import State
from medfuncta_dist.training.liveness.heartbeat_sender import Pulse
from medfuncta_dist.training.reporting.leader import Leader
from medfuncta_dist.training.world import World

FAILED_IN_A_ROW = 3
"""Checkpoints that could not be committed, one after the other: the next steps could only be lost."""


class Source(Protocol):
    """What is saved: an `Engine`."""

    def share_of_state(self) -> State: ...


class Saver:
    """Takes this rank's part in every checkpoint. ``save`` and ``settle`` are called on all ranks alike."""

    def __init__(
        self,
        uploads: Uploads,
        leader: Leader,
        world: World,
        pulse: Pulse,
        source: Source,
        facts: Callable[[int], Facts],
    ) -> None:
        self._uploads, self._leader, self._world, self._pulse = uploads, leader, world, pulse
        self._source, self._facts = source, facts
        self._stall_s, self._failed = 0.0, 0
        self.committed: int | None = None
        """The last step whose checkpoint was committed (known on rank 0 only)."""

    @property
    def busy(self) -> bool:
        """Whether an upload is under way."""
        return self._uploads.flying

    def save(self, step: int) -> None:
        """Copy this rank's share of the state, and go on while it is uploaded. Waits for the upload before."""
        began = time.monotonic()
        self.settle(step)
        self._pulse.at("taking a checkpoint", step, waits=True)
        self._world.from_leader(None)  # Rank 0 has committed the one before, and removed what nobody needs any more.
        share = self._source.share_of_state()
        self._uploads.start(self._facts(step), share)
        self._stall_s = time.monotonic() - began
        self._leader.saving()

    def look(self) -> None:
        """Take note of an upload that is over, without waiting for one."""
        self._note(self._uploads.done())

    def settle(self, step: int) -> None:
        """Wait until nothing is under way."""
        self._pulse.at("waiting for an upload", step)
        self._note(self._uploads.wait(self._pulse.alive))

    def _note(self, outcome: Uploaded | None) -> None:
        """MedfunctaError after too many failures in a row; a failed upload alone does not end training."""
        if outcome is None or not self._world.leads:
            return
        if outcome.failure is None:
            self._committed(outcome)
            return
        self._failed += 1
        where, what = outcome.failure.where, outcome.failure.what
        self._leader.event("checkpoint_failed", step=outcome.step)
        self._leader.say(f"the checkpoint of step {outcome.step} could not be stored: {what} ({where})")
        if self._failed >= FAILED_IN_A_ROW:
            raise MedfunctaError(
                f"{self._failed} checkpoints in a row could not be stored, at last with: {what}",
                where=where,
                do="mend the storage (space, permissions, its address), then run the same command again: it resumes",
            )

    def _committed(self, outcome: Uploaded) -> None:
        self._failed, self.committed = 0, outcome.step
        cost = {"stall_s": round(self._stall_s, 4), "upload_s": round(outcome.seconds, 4)}
        self._leader.event("checkpoint", step=outcome.step, **cost)
        self._leader.log(outcome.step, **{f"checkpoint_{name}": value for name, value in cost.items()})
        self._leader.costs(self._stall_s, outcome.seconds, outcome.step)
        if outcome.remark is not None:
            self._leader.say(outcome.remark)
