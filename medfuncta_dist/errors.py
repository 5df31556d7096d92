"""The errors a user can meet.

    MedfunctaError                 1   anything else that went wrong, in words
    ├── RunFileError               2   the run file (or a command's argument) is invalid
    │   ├── RunChangedError        2   the run file differs from the one this run was started with
    │   └── StageOrderError        2   a stage was started before the one it reads from is complete
    ├── StorageError               1   an object could not be read or written
    │   ├── ObjectMissingError     1   ... because it is not there
    │   ├── DeadlineError          1   ... within its deadline
    │   ├── DiskFullError          1   ... because a disk of this machine is full
    │   └── CredentialsError       5   ... because the credentials have expired; with new ones the same command resumes
    ├── IntegrityError             4   bytes are not what their record says
    │   ├── FormatVersionError     4   a file's format_version is not one this version reads
    │   └── DamagedShardError      4   a shard, or its index, is missing or not the one that was packed
    ├── QuarantineLimitError       4   more scans were quarantined than the run file allows
    ├── InterruptedRunError        5   preempted or interrupted; the same command resumes
    │   └── LeaseLostError         5   another driver has taken this run over: this one stops before its next commit
    ├── RunHeldError               1   another driver, alive, holds the run (or the data set)
    ├── TrainingCollapsedError     1   the loss is not finite, or stuck
    ├── ClusterError               1   the cluster (Kubernetes, Ray Jobs) refused, or did not answer
    │   └── JobMissingError        1   ... because it has no such job
    ├── WorkerDiedError            1   a task's worker died again and again: the system's end, not the task's error
    └── ScanError                  -   one scan is unusable: it is quarantined, the run goes on

The number is the exit code. Every error says what happened, where, and what to do next; none of the three may hold a
file name, path, UID, date or other text taken from a scan (those could name a patient).
"""

from __future__ import annotations

from typing import ClassVar


class MedfunctaError(Exception):
    """What happened, where, and what to do next; ``exit_code`` is what the command line returns."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.do = what, where, do

    def __str__(self) -> str:
        where = f"\n  where: {self.where}" if self.where else ""
        do = f"\n  do:    {self.do}" if self.do else ""
        return f"{self.what}{where}{do}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive Exception's own pickling, and errors cross Ray's process borders.
        return _rebuild, (type(self), self.what, self.where, self.do)


def _rebuild(kind: type[MedfunctaError], what: str, where: str, do: str) -> MedfunctaError:
    return kind(what, where=where, do=do)


class RunFileError(MedfunctaError):
    """The run file, or an argument of a command, is invalid."""

    exit_code = 2


class RunChangedError(RunFileError):
    """The run file differs, where it matters, from the one this run was started with."""


class StageOrderError(RunFileError):
    """A stage was started before the one that it reads from is complete."""


class StorageError(MedfunctaError):
    """An object could not be read, written or listed."""


class ObjectMissingError(StorageError):
    """An object that should exist does not."""


class DeadlineError(StorageError):
    """A storage request, retries included, did not finish within its deadline."""


class DiskFullError(StorageError):
    """A disk of this machine has no room for what was to be written."""


class CredentialsError(StorageError):
    """The storage's credentials have expired, and no others are to be had. With new ones the same command resumes."""

    exit_code = 5


class IntegrityError(MedfunctaError):
    """Bytes, or counts, are not what their record says."""

    exit_code = 4


class FormatVersionError(IntegrityError):
    """A file has a ``format_version`` that this version of the tool does not read."""


class DamagedShardError(IntegrityError):
    """A shard, or its index, is missing or not the one that was packed: none of its scans can be used."""


class QuarantineLimitError(MedfunctaError):
    """More scans were quarantined than the run file allows."""

    exit_code = 4


class InterruptedRunError(MedfunctaError):
    """The run was preempted or interrupted and can be resumed with the same command."""

    exit_code = 5


class LeaseLostError(InterruptedRunError):
    """This driver can no longer prove that the run (or data set) is its own; it commits nothing more."""


class RunHeldError(MedfunctaError):
    """Another driver, which is alive, holds the run or its data set. Says who, and until when."""


class TrainingCollapsedError(MedfunctaError):
    """Training can not go on: the loss is not finite."""


class ClusterError(MedfunctaError):
    """The API of Kubernetes or of Ray Jobs refused a request, or did not answer."""


class JobMissingError(ClusterError):
    """The cluster has no such job."""


class WorkerDiedError(MedfunctaError):
    """Worker processes died every time a task was tried: killed, out of memory, or crashed by what they read."""


class ScanError(MedfunctaError):
    """One scan can not be used. ``what`` is its quarantine reason: fixed words and numbers only."""
