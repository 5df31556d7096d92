"""Checkpoints on their way to storage, in a thread of their own while training goes on.

Every rank uploads its share and hands its file in at the desk; rank 0 waits there for all of them and commits. Nothing
here is a collective, so a slow upload delays nobody until the next checkpoint is due.
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
from medfuncta_dist.training.liveness.heartbeat import PATIENT_S

LOOK_S = 0.1
"""Between looks at the desk, and between signs of life while waiting."""


class Desk(Protocol):
    """Where ranks hand in what they uploaded: ``trainer`` has an actor for it."""

    def hand_in(self, step: int, rank: int, file: ShareFile | StorageError | IntegrityError) -> None: ...
    def handed_in(self, step: int) -> dict[int, ShareFile | StorageError | IntegrityError]: ...


@dataclass(frozen=True)
class Uploaded:
    """What became of a checkpoint. On ranks other than 0: of this rank's share."""

    step: int
    seconds: float
    failure: StorageError | IntegrityError | None = None
    remark: str | None = None
    """What went wrong without harm: old checkpoints that could not be removed."""


class Uploads:
    """One checkpoint at a time. ``before_commit`` runs in the thread, on rank 0, when all shares are in storage.

    A failure of storage is an outcome; any other error (a lost lease) is raised by the next `done` or `wait`.
    """

    def __init__(
        self, checkpoints: Checkpoints, desk: Desk, rank: int, world_size: int, before_commit: Callable[[], object]
    ) -> None:
        self._checkpoints, self._desk, self._before_commit = checkpoints, desk, before_commit
        self._rank, self._world_size = rank, world_size
        self._flying: Future[Uploaded] | None = None

    def start(self, facts: Facts, share: State) -> None:
        """Begin. ``share`` must be this rank's own copy; the one before must be over."""
        assert self._flying is None
        future: Future[Uploaded] = Future()
        self._flying = future
        threading.Thread(target=self._run, args=(future, facts, share), name="upload", daemon=True).start()

    @property
    def flying(self) -> bool:
        """Whether one is under way."""
        return self._flying is not None and not self._flying.done()

    def done(self) -> Uploaded | None:
        """What became of it, once, if it is over."""
        return self._take() if self._flying is not None and self._flying.done() else None

    def wait(self, alive: Callable[[], object]) -> Uploaded | None:
        """Wait until it is over, calling ``alive`` now and then; None when nothing was under way.

        After `PATIENT_S` it is called no more: a storage that never answers (a mount whose server is gone) is a hang.
        """
        began = time.monotonic()
        while self._flying is not None:
            if time.monotonic() - began < PATIENT_S:
                alive()
            try:
                self._flying.exception(LOOK_S)
            except TimeoutError:
                continue
            return self._take()
        return None

    def _take(self) -> Uploaded:
        assert self._flying is not None
        future, self._flying = self._flying, None
        return future.result()

    def _run(self, future: Future[Uploaded], facts: Facts, share: State) -> None:
        try:
            future.set_result(self._upload(facts, share))
        except BaseException as error:
            future.set_exception(error)

    def _upload(self, facts: Facts, share: State) -> Uploaded:
        began, remark, failure = time.monotonic(), None, None
        try:
            self._write(facts.step, share)
            if self._rank == 0:
                remark = self._commit(facts)
        except (StorageError, IntegrityError) as error:
            failure = error
        return Uploaded(facts.step, time.monotonic() - began, failure, remark)

    def _write(self, step: int, share: State) -> None:
        try:
            file = self._checkpoints.write_share(step, self._rank, self._world_size, share)
        except (StorageError, IntegrityError) as error:
            self._desk.hand_in(step, self._rank, error)
            raise
        self._desk.hand_in(step, self._rank, file)

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
        """Every rank's file, in order. Ends with the process where a rank never hands in: its death restarts all."""
        while True:
            found = self._desk.handed_in(step)
            for file in found.values():
                if isinstance(file, Exception):
                    raise file
            if len(found) == self._world_size:
                return [file for _, file in sorted(found.items()) if isinstance(file, ShareFile)]
            time.sleep(LOOK_S)
