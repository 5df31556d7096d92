"""runs/<name>/submissions/<key digest>.json: the request of a command with an idempotency key, and its answer.

The same key again gets the recorded answer, and nothing is done twice. The key itself is not stored: a user chose it,
and it may hold anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import ObjectMissingError, RunChangedError
from medfuncta_dist.storage.commit_record import read_as
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import NewRecord, publish

KIND = "submission"


@dataclass(frozen=True)
class _Answered:
    """A record's body."""

    run_digest: str
    stages: list[str]
    answer: dict[str, Any] | None


@dataclass(frozen=True)
class Submission:
    """One idempotency key, and what it stands for: these stages of this run file."""

    path: str
    request: dict[str, Any]

    @classmethod
    def of(cls, run: RunFile, stages: Sequence[str], key: str) -> Submission:
        """A key's place in its run."""
        request = {"run_digest": run.digest(), "stages": list(stages)}
        return cls(f"runs/{run.name}/submissions/{sha256_bytes(key.encode())[:32]}.json", request)

    def answer(self, store: ObjectStore) -> dict[str, Any] | None:
        """The recorded answer; None before it has finished. RunChangedError when the key stood for something else."""
        try:
            body = read_as(_Answered, store, self.path, KIND)
        except ObjectMissingError:
            return None
        if {"run_digest": body.run_digest, "stages": body.stages} != self.request:
            raise RunChangedError(
                "this idempotency key was used before, with another run file or other stages",
                where=store.uri(self.path),
                do="use a new key for a new request; the same key repeats exactly the same one",
            )
        return body.answer

    def record(self, store: ObjectStore, fence: Fence, answer: dict[str, Any] | None) -> None:
        """Record the request (``answer`` None, when it starts) or what it has answered."""
        publish(store, fence, NewRecord(self.path, KIND, {**self.request, "answer": answer}, fence.token))
