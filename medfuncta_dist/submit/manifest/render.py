"""Rendering a RayJob from a run file and the base manifest. Pure: equal inputs give equal manifests.

The resolved run file is inside, as an environment variable of the job, so there is no ConfigMap to keep in step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.config.load import ENVIRONMENT, dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.kubernetes_section import DEFAULT_GPU_RESOURCE
from medfuncta_dist.config.submission_id import JOB_VARIABLE
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.manifest import job_names
from medfuncta_dist.submit.manifest.base_manifest import merge_patch
from medfuncta_dist.submit.manifest.container_image import choose_image, choose_ray_version
from medfuncta_dist.submit.manifest.manifest_text import to_yaml
from medfuncta_dist.submit.manifest.pod_template import PodSettings, fill_pod_template
from medfuncta_dist.submit.manifest.runtime_env import RUN_FILE_VARIABLE
from medfuncta_dist.submit.manifest.worker_groups import PodGroup, choose_window, make_head_group, make_worker_groups

MAX_RUN_FILE_BYTES = 2**16
"""As JSON: Linux allows at most 128 KiB per environment variable, and Ray stores this one escaped."""
IDLE_TIMEOUT_S = 300
"""Idle seconds after which the autoscaler removes a worker: longer than the pause between two stages."""


@dataclass(frozen=True)
class Submission:
    """One attempt at some stages of a run. ``id`` stays the same in every retry."""

    run: RunFile
    stages: tuple[str, ...]
    attempt: int
    id: str
    commit: str
    idempotency_key: str | None = None
    queue_seconds: int | None = None
    """After so many seconds of running, Kueue ends the job, where it is queued. None: the run has no limit."""


def render(submission: Submission, base: Mapping[str, Any]) -> dict[str, Any]:
    """The RayJob of a submission, from ``base`` (see ``load_base``). RunFileError if the run file allows none."""
    run, stages = submission.run, submission.stages
    groups = make_worker_groups(run, stages)
    labels = _build_labels(submission)
    settings = PodSettings(
        run=run,
        image=choose_image(run.kubernetes, gpus=any(group.gpus for group in groups)),
        cache_path=_choose_cache_path(run),
        labels=labels,
        needs_salt="pack" in stages,
    )
    metadata = {
        "name": job_names.make_rayjob_name(run.name, job_names.join_stages(stages), submission.attempt),
        "namespace": run.kubernetes.namespace,
        "labels": {**labels, **_build_queue_labels(run)},
        "annotations": {job_names.RUN_FILE_DIGEST_LABEL: run.digest(), job_names.COMMIT_LABEL: submission.commit},
    }
    manifest: dict[str, Any] = merge_patch(base, {"metadata": metadata, "spec": _build_job_spec(submission)})
    if submission.queue_seconds is not None and job_names.QUEUE_LABEL in manifest["metadata"]["labels"]:
        manifest["metadata"]["labels"][job_names.MAX_TIME_LABEL] = str(submission.queue_seconds)
    manifest["spec"]["rayClusterSpec"] = _build_cluster_spec(manifest, groups, settings)
    return manifest


def _build_labels(submission: Submission) -> dict[str, str]:
    run = submission.run
    labels = job_names.make_labels(
        run.name,
        job_names.join_stages(submission.stages),
        submission.attempt,
        submission.id,
        run.digest(),
        submission.commit,
    )
    if submission.idempotency_key is not None:
        labels[job_names.IDEMPOTENCY_KEY_LABEL] = job_names.hash_idempotency_key(submission.idempotency_key)
    return labels


def _build_queue_labels(run: RunFile) -> dict[str, str]:
    given = {"queue-name": run.kubernetes.queue, "priority-class": run.kubernetes.priority}
    return {f"kueue.x-k8s.io/{key}": value for key, value in given.items() if value is not None}


def _build_job_spec(submission: Submission) -> dict[str, Any]:
    run = submission.run
    variables = {RUN_FILE_VARIABLE: _dump_run_file(submission), JOB_VARIABLE: submission.id}
    return {
        "entrypoint": f"medfuncta-dist run {ENVIRONMENT}{RUN_FILE_VARIABLE} {' '.join(submission.stages)} --json",
        "runtimeEnvYAML": to_yaml({"env_vars": variables}),
        "metadata": {"run": run.name, "stages": " ".join(submission.stages), "submission": submission.id},
        "ttlSecondsAfterFinished": run.kubernetes.ttl_seconds,
        "backoffLimit": run.kubernetes.backoff_limit,
    }


def _dump_run_file(submission: Submission) -> str:
    """The run file for the job: with the cache's folder and the window of its pods, and without GPUs if its pods have
    none.

    A job that packs keeps the GPUs of training in its file: it may be the first job, and the first one derives chunk
    sizes from them.
    """
    run = submission.run
    groups = make_worker_groups(run, submission.stages)
    cluster: dict[str, Any] = {"cache": _choose_cache_path(run), "window": choose_window(run, groups)}
    fit: dict[str, Any] = {}
    if not any(group.gpus for group in groups):
        fit = {"gpus_per_task": 0.0}
        cluster |= {} if "pack" in submission.stages else {"gpus_per_worker": 0.0}
    sections = {"cluster": run.cluster.model_copy(update=cluster), "fit": run.fit.model_copy(update=fit)}
    text = dump(run.model_copy(update=sections))
    size = len(json.dumps(text).encode())
    if size > MAX_RUN_FILE_BYTES:
        do = "in data.source, name folders or patterns instead of single files"
        raise RunFileError(f"the run file has {size} bytes as JSON, but a job can carry {MAX_RUN_FILE_BYTES}", do=do)
    if "$" in text:
        do = "if a file's name has a $, name its folder instead"
        raise RunFileError("the run file contains a $, which Ray would read as a variable", do=do)
    return text


def _choose_cache_path(run: RunFile) -> str:
    return run.cluster.cache or run.kubernetes.cache_path


def _build_cluster_spec(
    manifest: Mapping[str, Any], groups: Sequence[PodGroup], settings: PodSettings
) -> dict[str, Any]:
    base = manifest["spec"]["rayClusterSpec"]
    prototypes = {group["groupName"]: group for group in base["workerGroupSpecs"]}
    queued = job_names.QUEUE_LABEL in manifest["metadata"]["labels"]
    elastic = not queued and any(group.min_pods < group.max_pods for group in groups)
    head = base["headGroupSpec"]
    template = fill_pod_template(head["template"], make_head_group(settings.run), settings)
    if elastic:
        template["spec"]["automountServiceAccountToken"] = True  # the autoscaler, in the head's pod, creates pods
    return {
        **base,
        "rayVersion": choose_ray_version(settings.run.kubernetes),
        **(_build_autoscaler_spec(head) if elastic else {}),
        "headGroupSpec": {
            **head,
            "rayStartParams": _build_start_params(head, make_head_group(settings.run), settings.run),
            "template": template,
        },
        "workerGroupSpecs": [
            _build_worker_group_spec(prototypes[g.name], g, settings, elastic=elastic) for g in groups
        ],
    }


def _build_worker_group_spec(
    prototype: Mapping[str, Any], group: PodGroup, settings: PodSettings, *, elastic: bool
) -> dict[str, Any]:
    # Kueue admits a job with all of its pods, without an autoscaler: in a queue, the job requests the most pods.
    return {
        **prototype,
        "replicas": group.min_pods if elastic else group.max_pods,
        "minReplicas": group.min_pods,
        "maxReplicas": group.max_pods,
        "rayStartParams": _build_start_params(prototype, group, settings.run),
        "template": fill_pod_template(prototype["template"], group, settings),
    }


def _build_start_params(prototype: Mapping[str, Any], group: PodGroup, run: RunFile) -> dict[str, str]:
    """How Ray starts in the group's pods."""
    found = {**(prototype.get("rayStartParams") or {}), "object-spilling-directory": run.kubernetes.spill_path}
    if group.gpus and run.kubernetes.gpu_resource != DEFAULT_GPU_RESOURCE:
        # KubeRay reads the number from resources whose names it knows, and Ray counts whole NVIDIA GPUs.
        found["num-gpus"] = str(group.gpus)
    return found


def _build_autoscaler_spec(head: Mapping[str, Any]) -> dict[str, Any]:
    options = {
        "version": "v2",
        "idleTimeoutSeconds": IDLE_TIMEOUT_S,
        "securityContext": head["template"]["spec"]["containers"][0].get("securityContext", {}),
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "500m", "memory": "512Mi"}},
    }
    return {"enableInTreeAutoscaling": True, "autoscalerOptions": options}
