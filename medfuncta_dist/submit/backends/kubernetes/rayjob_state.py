"""A RayJob of the API server as a ``Job``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from medfuncta_dist.submit.backends.backend import Job, JobState
from medfuncta_dist.submit.manifest.runtime_env import read_run_file

STATE_BY_DEPLOYMENT_STATUS = {
    "": JobState.QUEUED,
    "Initializing": JobState.STARTING,
    "Waiting": JobState.STARTING,
    "Running": JobState.RUNNING,
    "Suspending": JobState.QUEUED,
    "Suspended": JobState.QUEUED,
    "Retrying": JobState.RETRYING,
    "Failed": JobState.FAILED,
    "ValidationFailed": JobState.FAILED,
}
"""For KubeRay 1.7's ``status.jobDeploymentStatus``; at Complete, ``jobStatus`` decides."""
STATE_BY_JOB_STATUS = {"SUCCEEDED": JobState.DONE, "STOPPED": JobState.CANCELLED, "FAILED": JobState.FAILED}
"""For Ray's own job status, once the deployment is Complete."""
REASONS = {
    "JobStatusCheckTimeoutExceeded": "the head of its Ray cluster was lost for too long, and KubeRay gave up",
    "DeadlineExceeded": "it ran longer than activeDeadlineSeconds",
    "SubmissionFailed": "its Ray cluster did not accept the job",
    "JobDeploymentStatusTransitionGracePeriodExceeded": "Ray reported its end, but KubeRay did not record it",
    "ValidationFailed": "KubeRay refused its manifest",
}
"""Explanations of ``status.reason``. Of other reasons (AppFailed), ``status.message`` says more."""


def to_job(rayjob: Mapping[str, Any]) -> Job:
    """The job with its state and times; fields that the object lacks stay empty."""
    meta, status = rayjob.get("metadata", {}), rayjob.get("status") or {}
    return Job(
        name=meta.get("name", ""),
        state=derive_state(rayjob),
        labels={**meta.get("annotations", {}), **meta.get("labels", {})},
        run_file=read_run_file(rayjob),
        submitted=_parse_time(meta.get("creationTimestamp")),
        started=_parse_time(status.get("startTime")),
        ended=_parse_time(status.get("endTime")),
        restarts=int(status.get("failed") or 0),
        message=_read_message(status),
    )


def derive_state(rayjob: Mapping[str, Any]) -> JobState:
    """Its state in this project's terms."""
    status = rayjob.get("status") or {}
    deployment = status.get("jobDeploymentStatus", "")
    if rayjob.get("metadata", {}).get("deletionTimestamp"):
        return JobState.STOPPING
    if deployment == "Complete":
        return STATE_BY_JOB_STATUS.get(status.get("jobStatus", ""), JobState.DONE)
    if deployment == "Running" and status.get("jobStatus", "") in ("", "PENDING"):
        return JobState.STARTING
    return STATE_BY_DEPLOYMENT_STATUS.get(deployment, JobState.STARTING)


def _read_message(status: Mapping[str, Any]) -> str:
    reason, message = str(status.get("reason", "")), str(status.get("message", ""))
    return REASONS.get(reason, message or reason)


def _parse_time(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None
