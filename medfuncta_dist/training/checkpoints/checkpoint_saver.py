"""When a checkpoint is taken, what it costs, and what follows when storage refuses it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.training.checkpoints.checkpoint import Facts
from medfuncta_dist.training.checkpoints.checkpoint_uploads import CheckpointUploader, UploadOutcome
from medfuncta_dist.training.checkpoints.training_state import State
from medfuncta_dist.training.liveness.heartbeat_sender import HeartbeatSender
from medfuncta_dist.training.reporting.leader import Leader
from medfuncta_dist.training.world import World

FAILED_IN_A_ROW = 3
"""Checkpoints that could not be committed, one after the other: the next steps could only be lost."""


class StateSource(Protocol):
    """What is saved: an `Engine`."""

    def share_of_state(self) -> State: ...


class CheckpointSaver:
    """Takes this rank's part in every checkpoint. ``save`` and ``wait_for_upload`` are called on all ranks alike."""

    def __init__(
        self,
        uploader: CheckpointUploader,
        leader: Leader,
        world: World,
        heartbeat: HeartbeatSender,
        source: StateSource,
        facts: Callable[[int], Facts],
    ) -> None:
        self._uploader, self._leader, self._world, self._heartbeat = uploader, leader, world, heartbeat
        self._source, self._facts = source, facts
        self._stall_s = 0.0
        self._failed = 0
        self.committed: int | None = None
        """The last step whose checkpoint was committed (known on rank 0 only)."""

    @property
    def upload_running(self) -> bool:
        """Whether an upload is running."""
        return self._uploader.running

    def save(self, step: int) -> None:
        """Copy this rank's share of the state, and go on while it is uploaded. Waits for the upload before."""
        began = time.monotonic()
        self.wait_for_upload(step)
        self._heartbeat.set_phase("taking a checkpoint", step, waits_for_others=True)
        self._world.wait_for_leader()  # It has committed the checkpoint before, and removed older ones.
        share = self._source.share_of_state()
        self._uploader.start(self._facts(step), share)
        self._stall_s = time.monotonic() - began
        self._leader.checkpoint_taken()

    def collect_upload(self) -> None:
        """Handle the outcome of an upload that is over, without waiting for one."""
        self._handle(self._uploader.poll())

    def wait_for_upload(self, step: int) -> None:
        """Wait until no upload is running, and handle its outcome."""
        self._heartbeat.set_phase("waiting for an upload", step)
        self._handle(self._uploader.wait(self._heartbeat.signal_alive))

    def _handle(self, outcome: UploadOutcome | None) -> None:
        """Report the outcome. MedfunctaError after too many failures in a row; one alone does not end training."""
        if outcome is None or not self._world.is_leader:
            return
        if outcome.failure is None:
            self._record_commit(outcome)
            return
        self._failed += 1
        where, what = outcome.failure.where, outcome.failure.what
        self._leader.event("checkpoint_failed", step=outcome.step)
        self._leader.notify(f"the checkpoint of step {outcome.step} could not be stored: {what} ({where})")
        if self._failed >= FAILED_IN_A_ROW:
            raise MedfunctaError(
                f"{self._failed} checkpoints in a row could not be stored; the last error:  {what}",
                where=where,
                do="repair the storage (space, permissions, its address), then run the same command again: it resumes",
            )

    def _record_commit(self, outcome: UploadOutcome) -> None:
        self._failed = 0
        self.committed = outcome.step
        cost = {"stall_s": round(self._stall_s, 4), "upload_s": round(outcome.seconds, 4)}
        self._leader.event("checkpoint", step=outcome.step, **cost)
        self._leader.log(outcome.step, **{f"checkpoint_{name}": value for name, value in cost.items()})
        self._leader.update_interval(self._stall_s, outcome.seconds, outcome.step)
        if outcome.warning is not None:
            self._leader.notify(outcome.warning)
