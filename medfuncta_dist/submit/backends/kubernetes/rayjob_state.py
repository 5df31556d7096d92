"""A RayJob, as the API server tells it, as a ``Job``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from medfuncta_dist.submit.backends.backend import Job, State
from medfuncta_dist.submit.manifest.runtime_env import run_file_of

DEPLOYMENT = {
    "": State.QUEUED,
    "Initializing": State.STARTING,
    "Waiting": State.STARTING,
    "Running": State.RUNNING,
    "Suspending": State.QUEUED,
    "Suspended": State.QUEUED,
    "Retrying": State.RETRYING,
    "Failed": State.FAILED,
    "ValidationFailed": State.FAILED,
}
"""KubeRay 1.7's ``status.jobDeploymentStatus``; Complete is told by ``jobStatus``."""
ENDED = {"SUCCEEDED": State.DONE, "STOPPED": State.CANCELLED, "FAILED": State.FAILED}
"""Ray's own job status, once the deployment is Complete."""
REASONS = {
    "JobStatusCheckTimeoutExceeded": "the head of its Ray cluster was gone for too long, and KubeRay gave up",
    "DeadlineExceeded": "it ran longer than activeDeadlineSeconds",
    "SubmissionFailed": "its Ray cluster did not take the job",
    "JobDeploymentStatusTransitionGracePeriodExceeded": "Ray said that it ended, KubeRay did not follow",
    "ValidationFailed": "KubeRay refused its manifest",
}
"""``status.reason`` in words; others (AppFailed) say less than ``status.message``."""


def job_of(rayjob: Mapping[str, Any]) -> Job:
    """The job, its state and times; what the object lacks stays empty."""
    meta, status = rayjob.get("metadata", {}), rayjob.get("status") or {}
    return Job(
        name=meta.get("name", ""),
        state=state_of(rayjob),
        labels={**meta.get("annotations", {}), **meta.get("labels", {})},
        run_file=run_file_of(rayjob),
        submitted=_moment(meta.get("creationTimestamp")),
        started=_moment(status.get("startTime")),
        ended=_moment(status.get("endTime")),
        restarts=int(status.get("failed") or 0),
        message=_message(status),
    )


def state_of(rayjob: Mapping[str, Any]) -> State:
    """Its state in this project's words."""
    status = rayjob.get("status") or {}
    deployment = status.get("jobDeploymentStatus", "")
    if rayjob.get("metadata", {}).get("deletionTimestamp"):
        return State.STOPPING
    if deployment == "Complete":
        return ENDED.get(status.get("jobStatus", ""), State.DONE)
    if deployment == "Running" and status.get("jobStatus", "") in ("", "PENDING"):
        return State.STARTING
    return DEPLOYMENT.get(deployment, State.STARTING)


def _message(status: Mapping[str, Any]) -> str:
    reason, message = str(status.get("reason", "")), str(status.get("message", ""))
    return REASONS.get(reason, message or reason)


def _moment(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None
