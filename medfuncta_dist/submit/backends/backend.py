"""The interface of a backend, which runs jobs, and the types that it returns.

Every backend takes the same manifest (a rendered RayJob) and identifies a job by the manifest's name. It reports what
the cluster knows; the progress of a stage is in storage (``job_records.py``), and ``run_status.py`` joins the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, Self

from medfuncta_dist.errors import ClusterError
from medfuncta_dist.submit.manifest.job_names import (
    ATTEMPT_LABEL,
    RUN_FILE_DIGEST_LABEL,
    RUN_LABEL,
    STAGE_LABEL,
    SUBMISSION_LABEL,
)
from medfuncta_dist.submit.waiting.cluster_facts import Explanation


class JobState(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    """Accepted and waiting for resources: suspended by Kueue, or not yet seen by KubeRay."""
    STARTING = "starting"
    """Its cluster is being created."""
    RUNNING = "running"
    RETRYING = "retrying"
    """Its cluster failed, and another is being created."""
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    """It ended with an error and is not retried."""
    CANCELLED = "cancelled"
    """By a user; of a run on a machine: its command was interrupted."""
    LOST = "lost"
    """The cluster does not have it, and its driver never reported an end."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and changes no more by itself."""
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
    """How often its cluster was created again after a failure."""
    message: str = ""
    """The cluster's own message about its state or failure."""

    @property
    def run(self) -> str:
        """The name of its run; empty for a job that this tool did not submit."""
        return self.labels.get(RUN_LABEL, "")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that it runs, in order."""
        return tuple(stage for stage in self.labels.get(STAGE_LABEL, "").split(".") if stage)

    @property
    def attempt(self) -> int:
        """Its number among the submissions of the same run and stages, from 1."""
        return int(self.labels.get(ATTEMPT_LABEL, "0"))

    @property
    def submission_id(self) -> str:
        """Its id in storage, the same in every retry."""
        return self.labels.get(SUBMISSION_LABEL, self.name)


@dataclass(frozen=True)
class LogLine:
    """A line of a job's log; ``time`` (Unix seconds) where the backend reports it."""

    text: str
    time: float | None = None


def require_same_submission(existing: Job, manifest: Mapping[str, Any], where: str) -> Job:
    """The job that the cluster has under a manifest's name. ClusterError if it is another submission, or has ended."""
    labels = manifest["metadata"]["labels"]
    same = all(existing.labels.get(label) == labels[label] for label in (SUBMISSION_LABEL, RUN_FILE_DIGEST_LABEL))
    if same and not existing.state.is_over:
        return existing
    raise ClusterError(
        f"another job already has this name; it is {existing.state}",
        where=where,
        do=f"look at it with `medfuncta-dist status {existing.name}`; remove it with "
        f"`medfuncta-dist cancel {existing.name} --now`",
    )


@dataclass(frozen=True)
class BackendOptions:
    """Where a cluster is. A backend takes what it knows and ignores the rest."""

    address: str | None = None
    """URL of a Ray cluster's dashboard."""
    context: str | None = None
    """A context of the kubeconfig."""
    namespace: str | None = None


class Backend(Protocol):
    """Methods raise ClusterError with an explanation, and JobMissingError for a job that the cluster does not have."""

    name: str
    """As in ``registry.BACKENDS``; recorded with each submission."""
    runs_workflows: bool
    """Whether Argo Workflows run beside its jobs (``submit --workflow``)."""

    @classmethod
    def from_options(cls, options: BackendOptions) -> Self:
        """The client of the cluster that the options name. It does not connect yet."""

    def build_payload(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Exactly what ``submit`` sends for this manifest."""

    def require_valid(self, manifest: Mapping[str, Any]) -> None:
        """RunFileError if this manifest is known not to run here."""

    def submit(self, manifest: Mapping[str, Any]) -> Job:
        """Start the job. If the cluster has the same submission already, return that job."""

    def read_job(self, name: str) -> Job:
        """The job in its present state."""

    def read_logs(self, name: str, *, follow: bool = False) -> Iterator[LogLine]:
        """The lines of its driver, from the first; with ``follow``, new ones until the job ends."""

    def explain(self, job: Job) -> Explanation:
        """Why a job does not run, or ended. It raises nothing: what cannot be read is said in the answer."""

    def watch_job(self, name: str, every_s: float) -> Iterator[Job]:
        """The job now, after each change, and every ``every_s`` seconds without one, until it has ended."""

    def cancel(self, name: str, *, now: bool = False) -> None:
        """Ask the job to save and stop; with ``now``, end it at once.

        A job that has ended keeps its state; with ``now``, a cluster that can delete it does so."""

    def list_jobs(self, run: str | None = None) -> list[Job]:
        """The jobs that this tool submitted, oldest first: those of one run, or all."""
