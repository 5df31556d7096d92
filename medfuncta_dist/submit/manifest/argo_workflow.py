"""An Argo Workflow of RayJobs, one after the other, which continues without the submitter's machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.manifest import job_names
from medfuncta_dist.submit.manifest.manifest_text import to_yaml

SERVICE_ACCOUNT = "medfuncta-workflow"
"""Created by k8s/components/argo."""
SUCCESS_CONDITION = "status.jobDeploymentStatus == Complete, status.jobStatus == SUCCEEDED"
FAILURE_CONDITION = "status.jobDeploymentStatus in (Failed, ValidationFailed), status.jobStatus == STOPPED"
"""To Argo, a comma means `and` in a success condition, `or` in a failure condition. A suspended or retrying job meets
neither."""


def build_workflow(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The Workflow that applies each RayJob when the one before is done.

    RunFileError when there is no job, or Argo would change the manifest's text.
    """
    if not manifests:
        raise RunFileError("there is no job to put in a workflow", do="name at least one stage")
    metadata = [manifest["metadata"] for manifest in manifests]
    labels = metadata[0]["labels"]
    stages = job_names.join_stages([each["labels"][job_names.STAGE_LABEL] for each in metadata])
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {
            "name": job_names.make_rayjob_name(
                labels[job_names.RUN_LABEL], stages, int(labels[job_names.ATTEMPT_LABEL])
            ),
            "namespace": metadata[0]["namespace"],
            "labels": {
                key: value for key, value in labels.items() if key in (job_names.RUN_LABEL, job_names.COMMIT_LABEL)
            },
        },
        "spec": {
            "entrypoint": "stages",
            "serviceAccountName": SERVICE_ACCOUNT,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "templates": [_build_chain(metadata), *(_build_step(manifest) for manifest in manifests)],
        },
    }


def _build_chain(metadata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    steps = [[{"name": _name_step(each), "template": _name_step(each)}] for each in metadata]
    return {"name": "stages", "steps": steps}


def _build_step(manifest: Mapping[str, Any]) -> dict[str, Any]:
    text = to_yaml(manifest)
    if "{{" in text:
        raise RunFileError("the run file contains {{, which Argo would replace", do="remove it, or use --follow")
    return {
        "name": _name_step(manifest["metadata"]),
        # `apply`, not `create`: the waiting pod may be evicted, and the pod after it finds the job already there.
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
