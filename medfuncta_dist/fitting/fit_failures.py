"""What becomes of a fit task that failed: its range is divided, or quarantined, or the error is nobody's fault here."""

from __future__ import annotations

from dataclasses import replace

import torch

from medfuncta_dist.errors import DamagedShardError, LeaseLostError, MedfunctaError, WorkerDiedError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.fitting.fit_task import FitTask
from medfuncta_dist.fitting.latent_ledger import Commit, Quarantined
from medfuncta_dist.shards.snapshot import read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard
from medfuncta_dist.task_map import Failed, may_be_the_items_fault

DAMAGED_SHARD = "its shard is damaged or missing"
ENDED_ITS_WORKER = "fitting it ended its worker every time"


def pieces_of(failed: Failed) -> list[FitTask]:
    """Smaller tasks that find the scan to blame; none where no scan may be, or where it is alone.

    LeaseLostError is raised: what other tasks do now will not count either.
    """
    if isinstance(failed.error, LeaseLostError):
        raise failed.error
    task: FitTask = failed.item
    return [replace(task, work=piece) for piece in task.work.divided()] if _of_one_scan(failed.error) else []


class Failures:
    """The final failures of a stage, settled as they come; poison scans at the end, when they are counted."""

    def __init__(self, store: ObjectStore, folder: str, fence: Guard) -> None:
        self._store, self._folder, self._fence = store, folder, fence
        self._poison: list[Failed] = []
        self._errors: list[Exception] = []

    def settle(self, failed: Failed) -> bool:
        """Whether the range counts as done: its scans are, or will be, quarantined."""
        if _of_one_scan(failed.error):
            self._poison.append(failed)
        elif not isinstance(failed.error, DamagedShardError):
            self._errors.append(failed.error)
            return False
        else:
            try:
                self._quarantine(failed.item.work, _reason(failed.error), failed=True)
            except MedfunctaError as error:  # its keys are lost, too
                self._errors.append(error)
                return False
        return True

    def close(self, most: float) -> None:
        """Quarantine up to ``most`` poison scans, then raise the first error that is not about scans, if any.

        WorkerDiedError when they are more, and none is quarantined: then the workers are to blame, and another try, on
        other machines, may go well.
        """
        if len(self._poison) > most:
            raise WorkerDiedError(
                f"workers died, or failed, on {len(self._poison)} scans: {_reason(self._poison[0].error)}",
                where="the fit stage's tasks; none of these scans was quarantined",
                do="look at the workers' logs and memory, then run the fit stage again",
            )
        for failed in self._poison:
            self._quarantine(failed.item.work, _reason(failed.error), failed=False)
        if self._errors:
            raise self._errors[0]

    def _quarantine(self, work: FitWork, reason: str, *, failed: bool) -> None:
        keys = read_index(self._store, work.shard)["key"].to_pylist()[work.start : work.stop]
        quarantined = tuple(Quarantined(key, reason) for key in keys)
        commit = Commit(work.split, work.shard.sha256, work.start, work.stop, 0, None, quarantined, failed=failed)
        latent_ledger.write_commit(self._store, self._folder, work, commit, self._fence)


def _of_one_scan(error: Exception) -> bool:
    return may_be_the_items_fault(error) and not isinstance(error, torch.OutOfMemoryError)


def _reason(error: Exception) -> str:
    if isinstance(error, DamagedShardError):
        return DAMAGED_SHARD
    return ENDED_ITS_WORKER if isinstance(error, WorkerDiedError) else f"fitting it failed: {type(error).__name__}"
