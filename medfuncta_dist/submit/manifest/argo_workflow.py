"""An Argo Workflow of RayJobs, one after the other: a chain of stages that needs nobody's laptop to go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.manifest import job_names
from medfuncta_dist.submit.manifest.manifest_text import to_yaml

SERVICE_ACCOUNT = "medfuncta-workflow"
"""Made by k8s/components/argo."""
SUCCESS_CONDITION = "status.jobDeploymentStatus == Complete, status.jobStatus == SUCCEEDED"
FAILURE_CONDITION = "status.jobDeploymentStatus in (Failed, ValidationFailed), status.jobStatus == STOPPED"
"""Argo takes the comma as `and` in a success, as `or` in a failure. A suspended or retrying job is neither."""


def build_workflow(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The Workflow that applies each RayJob when the one before is done.

    Argo itself drops the privileges of such steps. RunFileError: there is no job, or Argo would change its text.
    """
    if not manifests:
        raise RunFileError("there is no job to put in a workflow", do="name at least one stage")
    found = [manifest["metadata"] for manifest in manifests]
    labels = found[0]["labels"]
    stages = job_names.join_stages([metadata["labels"][job_names.STAGE_LABEL] for metadata in found])
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {
            "name": job_names.make_rayjob_name(
                labels[job_names.RUN_LABEL], stages, int(labels[job_names.ATTEMPT_LABEL])
            ),
            "namespace": found[0]["namespace"],
            "labels": {
                key: value for key, value in labels.items() if key in (job_names.RUN_LABEL, job_names.COMMIT_LABEL)
            },
        },
        "spec": {
            "entrypoint": "stages",
            "serviceAccountName": SERVICE_ACCOUNT,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "templates": [_build_chain(found), *(_build_step(manifest) for manifest in manifests)],
        },
    }


def _build_chain(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    steps = [[{"name": _name_step(metadata), "template": _name_step(metadata)}] for metadata in found]
    return {"name": "stages", "steps": steps}


def _build_step(manifest: Mapping[str, Any]) -> dict[str, Any]:
    text = to_yaml(manifest)
    if "{{" in text:
        raise RunFileError("the run file holds {{, which Argo would fill in", do="write it without, or use --follow")
    return {
        "name": _name_step(manifest["metadata"]),
        # The pod that waits may be evicted, and its successor finds the job there: so `apply`, not `create`.
        "retryStrategy": {"limit": "10", "retryPolicy": "OnError"},
        "resource": {
            "action": "apply",
            "manifest": text,
            "successCondition": SUCCESS_CONDITION,
            "failureCondition": FAILURE_CONDITION,
        },
    }


def _name_step(metadata: Mapping[str, Any]) -> str:
    return str(metadata["labels"][job_names.STAGE_LABEL]).replace(".", "-")
