"""The errors that a user can get.

    MedfunctaError                 1   any other error
    ├── RunFileError               2   the run file (or a command's argument) is invalid
    │   ├── RunChangedError        2   the run file differs from the one this run was started with
    │   ├── StageOrderError        2   a stage was started before the one it reads from is complete
    │   └── NothingPackedError     2   not one scan of the archive could be packed
    ├── StorageError               1   an object could not be read or written
    │   ├── ObjectMissingError     1   ... because it is not there
    │   ├── DeadlineError          1   ... within its deadline
    │   ├── UnreachableError       1   ... because of a certificate, a name, a port or a proxy
    │   ├── DiskFullError          1   ... because a disk of this machine is full
    │   └── CredentialsError       5   ... because the credentials have expired; with new ones the same command resumes
    ├── IntegrityError             4   bytes or counts do not match their record
    │   ├── FormatVersionError     4   a file's format_version is not one this version reads
    │   ├── DamagedShardError      4   a shard, or its index, is missing or not the one that was packed
    │   └── LostObjectError        4   an object that a record names is not there; an ObjectMissingError, too
    ├── QuarantineLimitError       4   more scans were quarantined than the run file allows
    ├── InterruptedRunError        5   preempted or interrupted; the same command resumes
    │   ├── LimitReachedError      5   the run has used the hours or the money that its run file allows
    │   └── LeaseLostError         5   another driver has taken the run over: this one stops before its next commit
    ├── RunHeldError               1   another running driver holds the run (or the data set)
    ├── TrainingCollapsedError     1   the loss is not finite
    ├── ClusterError               1   the cluster (Kubernetes, Ray Jobs) refused, or did not answer
    │   └── JobMissingError        1   ... because it has no such job
    ├── WorkerDiedError            1   the workers of a task died in every attempt
    └── ScanError                  -   one scan is unusable: it is quarantined, the run goes on

The number is the exit code. Every error says what happened, where, and what to do next. None of the three may contain a
file name, path, UID, date or other text taken from a scan: it could name a patient.
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
        # Exception's own pickling drops keyword-only arguments, and errors are sent between Ray's processes.
        return _rebuild, (type(self), self.what, self.where, self.do)


def _rebuild(kind: type[MedfunctaError], what: str, where: str, do: str) -> MedfunctaError:
    return kind(what, where=where, do=do)


class RunFileError(MedfunctaError):
    """The run file, or an argument of a command, is invalid."""

    exit_code = 2


class RunChangedError(RunFileError):
    """The run file differs, where it matters, from the one this run was started with."""


class StageOrderError(RunFileError):
    """A stage was started before the stage that it reads from is complete."""


class NothingPackedError(RunFileError):
    """Not one scan of the archive could be packed. The data set has no snapshot, and may be begun anew."""


class StorageError(MedfunctaError):
    """An object could not be read, written or listed."""


class ObjectMissingError(StorageError):
    """An object that should exist does not."""


class DeadlineError(StorageError):
    """A storage request, retries included, did not finish within its deadline."""


class UnreachableError(StorageError):
    """The storage cannot be reached as this machine is set up: certificate, name, port or proxy."""

    passing: bool = False
    """Whether it may be over in a moment: a name or a port can be missing while a server starts again."""


class DiskFullError(StorageError):
    """A disk of this machine has no room for what was to be written."""


class CredentialsError(StorageError):
    """The storage's credentials have expired, and there are no others. With new ones the same command resumes."""

    exit_code = 5


class IntegrityError(MedfunctaError):
    """Bytes or counts do not match their record."""

    exit_code = 4


class FormatVersionError(IntegrityError):
    """A file has a ``format_version`` that this version of the tool does not read."""


class DamagedShardError(IntegrityError):
    """A shard, or its index, is missing or not the one that was packed: none of its scans can be used."""


class LostObjectError(IntegrityError, ObjectMissingError):
    """An object that a record names is not there: what was committed has been damaged."""


class QuarantineLimitError(MedfunctaError):
    """More scans were quarantined than the run file allows."""

    exit_code = 4


class InterruptedRunError(MedfunctaError):
    """The run was preempted or interrupted and can be resumed with the same command."""

    exit_code = 5


class LimitReachedError(InterruptedRunError):
    """The run has used the hours, or the money, that its run file allows; with a higher limit the same command goes
    on."""


class LeaseLostError(InterruptedRunError):
    """This driver can no longer prove that it holds the run (or data set); it commits nothing more."""


class RunHeldError(MedfunctaError):
    """Another running driver holds the run or its data set. The message says which, and until when."""


class TrainingCollapsedError(MedfunctaError):
    """Training cannot continue: the loss is not finite."""


class ClusterError(MedfunctaError):
    """The API of Kubernetes or of Ray Jobs refused a request, or did not answer."""


class JobMissingError(ClusterError):
    """The cluster has no such job."""


class WorkerDiedError(MedfunctaError):
    """Worker processes died in every attempt of a task: killed, out of memory, or crashed by the data they read."""


class ScanError(MedfunctaError):
    """One scan cannot be used. ``what`` is its quarantine reason: fixed words and numbers only."""
