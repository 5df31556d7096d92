"""What happens after a fit task failed: its range is divided or quarantined, or the error is raised at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from medfuncta_dist.errors import DamagedShardError, LeaseLostError, MedfunctaError, WorkerDiedError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.fitting.fit_task import FitTask
from medfuncta_dist.fitting.latent_ledger import Commit, Quarantined
from medfuncta_dist.fitting.patched.patch_parts import lost_range
from medfuncta_dist.fitting.patched.shard_units import ShardUnits
from medfuncta_dist.shards.snapshot import read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard
from medfuncta_dist.task_map import Failed, may_be_the_items_fault

DAMAGED_SHARD = "its shard is damaged or missing"
ENDED_ITS_WORKER = "fitting it ended its worker every time"


def pieces_of(failed: Failed, one_scan: bool) -> list[FitTask]:
    """Smaller tasks, to find the scan that caused the failure; none if no scan did, or if it is alone already
    (``one_scan``): it is quarantined whole, whichever of its patches it was.

    LeaseLostError is raised at once: the other tasks' commits would be refused, too.
    """
    if isinstance(failed.error, LeaseLostError):
        raise failed.error
    task: FitTask = failed.item
    if one_scan:
        return []
    return [replace(task, work=piece) for piece in task.work.divided()] if _may_be_a_scans_fault(failed.error) else []


class Failures:
    """The final failures of a stage. Scans that always fail are quarantined at the end, when their number is known."""

    def __init__(
        self, store: ObjectStore, folder: str, fence: Guard, units: Mapping[str, ShardUnits] | None = None
    ) -> None:
        """``units``: of each shard, where scans are grids of patches."""
        self._store, self._folder, self._fence, self._units = store, folder, fence, units
        self._fatal: list[Failed] = []
        self._errors: list[Exception] = []

    def settle(self, failed: Failed) -> bool:
        """Whether the range counts as done: its scans are, or will be, quarantined."""
        if _may_be_a_scans_fault(failed.error):
            self._fatal.append(failed)
        elif not isinstance(failed.error, DamagedShardError):
            self._errors.append(failed.error)
            return False
        else:
            try:
                self._quarantine(failed.item.work, _reason(failed.error), failed=True)
            except MedfunctaError as error:  # its index is damaged, too
                self._errors.append(error)
                return False
        return True

    def close(self, most: float) -> None:
        """Quarantine up to ``most`` scans that always failed, then raise the first error that no scan caused.

        WorkerDiedError if there are more, and none is quarantined: then the cause is in the workers, and a retry on
        other machines may succeed.
        """
        fatal = {self._scan_of(failed.item.work) for failed in self._fatal}
        if len(fatal) > most:
            raise WorkerDiedError(
                f"workers died, or failed, on {len(fatal)} scans: {_reason(self._fatal[0].error)}",
                where="the fit stage's tasks; none of these scans was quarantined",
                do="look at the workers' logs and memory, then run the fit stage again",
            )
        for failed in self._fatal:
            self._quarantine(failed.item.work, _reason(failed.error), failed=False)
        if self._errors:
            raise self._errors[0]

    def _quarantine(self, work: FitWork, reason: str, *, failed: bool) -> None:
        keys, shard = read_index(self._store, work.shard)["key"].to_pylist(), work.shard.sha256
        if self._units is None:
            quarantined = tuple(Quarantined(key, reason) for key in keys[work.start : work.stop])
            commit = Commit(work.split, shard, work.start, work.stop, 0, None, quarantined, failed=failed)
        else:
            commit = lost_range(work, keys, self._units[shard], reason, failed=failed)
        latent_ledger.write_commit(self._store, self._folder, work, commit, self._fence)

    def _scan_of(self, work: FitWork) -> tuple[str, int]:
        """A range of one scan as that scan: its shard, and its row there."""
        shard = work.shard.sha256
        return shard, work.start if self._units is None else self._units[shard].scan_of(work.start)


def _may_be_a_scans_fault(error: Exception) -> bool:
    return may_be_the_items_fault(error) and not isinstance(error, torch.OutOfMemoryError)


def _reason(error: Exception) -> str:
    if isinstance(error, DamagedShardError):
        return DAMAGED_SHARD
    return ENDED_ITS_WORKER if isinstance(error, WorkerDiedError) else f"fitting it failed: {type(error).__name__}"
