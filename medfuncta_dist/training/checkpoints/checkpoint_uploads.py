"""Uploads checkpoints to storage, in a thread of its own while training goes on.

Every rank uploads its share and submits its file to the exchange; rank 0 waits there for all of them and commits.
Nothing here is a collective, so a slow upload delays no rank until the next checkpoint is due.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass
from typing import Protocol

from medfuncta_dist.errors import IntegrityError, StorageError
from medfuncta_dist.training.checkpoints.checkpoint import Checkpoints, Facts, ShareFile
from medfuncta_dist.training.checkpoints.training_state import State
from medfuncta_dist.training.liveness.heartbeat import SLOW_PHASE_S

POLL_S = 0.1
"""Between queries of the exchange, and between signs of life while waiting."""


class ShareExchange(Protocol):
    """Where ranks submit the files that they uploaded: a `DriverChannel`."""

    def submit_share(self, step: int, rank: int, file: ShareFile | StorageError | IntegrityError) -> None: ...
    def submitted_shares(self, step: int) -> dict[int, ShareFile | StorageError | IntegrityError]: ...


@dataclass(frozen=True)
class UploadOutcome:
    """How the upload of a checkpoint ended. On ranks other than 0: of this rank's share."""

    step: int
    seconds: float
    failure: StorageError | IntegrityError | None = None
    warning: str | None = None
    """What went wrong without harm: old checkpoints that could not be removed."""


class CheckpointUploader:
    """One checkpoint at a time. ``before_commit`` runs in the thread, on rank 0, when all shares are in storage.

    A failure of storage is an outcome; any other error (a lost lease) is raised by the next `poll` or `wait`.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        exchange: ShareExchange,
        rank: int,
        world_size: int,
        before_commit: Callable[[], object],
    ) -> None:
        self._checkpoints, self._exchange, self._before_commit = checkpoints, exchange, before_commit
        self._rank, self._world_size = rank, world_size
        self._in_progress: Future[UploadOutcome] | None = None

    def start(self, facts: Facts, share: State) -> None:
        """Start an upload. ``share`` must be this rank's own copy; the upload before must be over."""
        assert self._in_progress is None
        future: Future[UploadOutcome] = Future()
        self._in_progress = future
        threading.Thread(target=self._run, args=(future, facts, share), name="upload", daemon=True).start()

    @property
    def running(self) -> bool:
        """Whether an upload is running."""
        return self._in_progress is not None and not self._in_progress.done()

    def poll(self) -> UploadOutcome | None:
        """The outcome, once, if the upload is over."""
        return self._take() if self._in_progress is not None and self._in_progress.done() else None

    def wait(self, signal_alive: Callable[[], object]) -> UploadOutcome | None:
        """Wait until it is over, calling ``signal_alive`` now and then; None when no upload was running.

        After `SLOW_PHASE_S` it is no longer called: storage that never answers (a mount without its server) is a hang.
        """
        began = time.monotonic()
        while self._in_progress is not None:
            if time.monotonic() - began < SLOW_PHASE_S:
                signal_alive()
            try:
                self._in_progress.exception(POLL_S)
            except TimeoutError:
                continue
            return self._take()
        return None

    def _take(self) -> UploadOutcome:
        assert self._in_progress is not None
        future = self._in_progress
        self._in_progress = None
        return future.result()

    def _run(self, future: Future[UploadOutcome], facts: Facts, share: State) -> None:
        try:
            future.set_result(self._upload(facts, share))
        except BaseException as error:
            future.set_exception(error)

    def _upload(self, facts: Facts, share: State) -> UploadOutcome:
        began = time.monotonic()
        warning = failure = None
        try:
            self._write(facts.step, share)
            if self._rank == 0:
                warning = self._commit(facts)
        except (StorageError, IntegrityError) as error:
            failure = error
        return UploadOutcome(facts.step, time.monotonic() - began, failure, warning)

    def _write(self, step: int, share: State) -> None:
        try:
            file = self._checkpoints.write_share(step, self._rank, self._world_size, share)
        except (StorageError, IntegrityError) as error:
            self._exchange.submit_share(step, self._rank, error)
            raise
        self._exchange.submit_share(step, self._rank, file)

    def _commit(self, facts: Facts) -> str | None:
        files = self._collect(facts.step)
        self._before_commit()
        self._checkpoints.commit(facts, files)
        try:
            self._checkpoints.retain(facts.step)
        except StorageError as error:
            return f"old checkpoints could not be removed: {error.what}"
        return None

    def _collect(self, step: int) -> list[ShareFile]:
        """Every rank's file, in order. Ends with the process where a rank never submits: its death restarts all."""
        while True:
            found = self._exchange.submitted_shares(step)
            for file in found.values():
                if isinstance(file, Exception):
                    raise file
            if len(found) == self._world_size:
                return [file for _, file in sorted(found.items()) if isinstance(file, ShareFile)]
            time.sleep(POLL_S)
