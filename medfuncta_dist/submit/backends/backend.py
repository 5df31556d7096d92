"""What every place that runs jobs must do, and the words it must use for it.

A backend takes the same manifest (a RayJob, as rendered) and knows jobs by its name. It tells the cluster's truth only;
how far a stage is stands in storage (``job_records.py``), and ``run_status.py`` joins the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from medfuncta_dist.errors import ClusterError
from medfuncta_dist.submit.manifest.job_names import (
    ATTEMPT_LABEL,
    RUN_FILE_DIGEST_LABEL,
    RUN_LABEL,
    STAGE_LABEL,
    SUBMISSION_LABEL,
)


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    """Accepted, and waiting for room: suspended by Kueue, or not looked at yet."""
    STARTING = "starting"
    """Its cluster is being made."""
    RUNNING = "running"
    RETRYING = "retrying"
    """Its cluster failed, and another is being made."""
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    """It ended, and nobody tries it again."""
    CANCELLED = "cancelled"
    LOST = "lost"
    """It is not on the cluster, and never said that it ended."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.LOST)


@dataclass(frozen=True)
class Job:
    """A job as the cluster sees it. Times are Unix seconds."""

    name: str
    state: JobState
    labels: Mapping[str, str]
    run_file: str = ""
    """The resolved run file that it was submitted with, as YAML."""
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    restarts: int = 0
    """How often its cluster was made anew after a failure."""
    message: str = ""
    """The cluster's own words about how it stands, or how it failed."""

    @property
    def run(self) -> str:
        """Name of its run; empty for a job that this tool did not submit."""
        return self.labels.get(RUN_LABEL, "")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that it runs, in order."""
        return tuple(stage for stage in self.labels.get(STAGE_LABEL, "").split(".") if stage)

    @property
    def attempt(self) -> int:
        """Number of the submission among those of the same run and stages."""
        return int(self.labels.get(ATTEMPT_LABEL, "0"))

    @property
    def submission(self) -> str:
        """Its id in storage."""
        return self.labels.get(SUBMISSION_LABEL, self.name)


@dataclass(frozen=True)
class LogLine:
    """A line of a job's log; ``time`` (Unix seconds) where the backend tells it."""

    text: str
    time: float | None = None


def require_same_submission(there: Job, manifest: Mapping[str, Any], where: str) -> Job:
    """The job that a cluster has under a manifest's name, if it is that submission and at work; else ClusterError."""
    labels = manifest["metadata"]["labels"]
    same = all(there.labels.get(label) == labels[label] for label in (SUBMISSION_LABEL, RUN_FILE_DIGEST_LABEL))
    if same and not there.state.over:
        return there
    raise ClusterError(
        f"another job has this name, and it is {there.state}",
        where=where,
        do=f"see `medfuncta-dist status {there.name}`; `medfuncta-dist cancel {there.name} --now` removes it",
    )


class Backend(Protocol):
    """Each method raises ClusterError in words, and JobMissingError for a job that is not there."""

    name: str

    def outgoing(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Exactly what ``submit`` sends for this manifest."""

    def require_valid(self, manifest: Mapping[str, Any]) -> None:
        """RunFileError when it is known beforehand that this manifest would not run here."""

    def submit(self, manifest: Mapping[str, Any]) -> Job:
        """Start the job. The same submission again is no second job: the first is returned."""

    def status(self, name: str) -> Job:
        """The job as it is now."""

    def logs(self, name: str, *, follow: bool = False) -> Iterator[LogLine]:
        """Its lines from the first on; with ``follow`` until it is over."""

    def changes(self, name: str, every_s: float) -> Iterator[Job]:
        """The job now, after each change, and every ``every_s`` seconds without one; ends with one that is over."""

    def cancel(self, name: str, *, now: bool = False) -> None:
        """Ask it to save and stop; ``now``: end it at once. A job that is over is left as it is; with ``now`` a
        cluster that can forget it does."""

    def jobs(self, run: str | None = None) -> list[Job]:
        """The jobs that this tool submitted, oldest first; of one run, or all."""
