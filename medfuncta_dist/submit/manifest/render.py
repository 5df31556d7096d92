"""Run file and base to RayJob. Pure: the same submission and base make the same manifest.

The resolved run file travels inside, as an environment variable of the job: no ConfigMap, and a dry run shows all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.config.job import JOB_VARIABLE
from medfuncta_dist.config.load import ENVIRONMENT, dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.manifest import job_names
from medfuncta_dist.submit.manifest.base_manifest import merge_patch
from medfuncta_dist.submit.manifest.container_image import choose_image, choose_ray_version
from medfuncta_dist.submit.manifest.manifest_text import to_yaml
from medfuncta_dist.submit.manifest.pod_template import PodSettings, fill_pod_template
from medfuncta_dist.submit.manifest.runtime_env import RUN_FILE_VARIABLE
from medfuncta_dist.submit.manifest.worker_groups import PodGroup, choose_window, make_head_group, make_worker_groups

MAX_RUN_FILE_BYTES = 2**16
"""Bytes as JSON: Linux takes no environment variable over 128 KiB, and Ray's holds this one escaped."""
IDLE_TIMEOUT_S = 300
"""After which the autoscaler gives a worker back: longer than the pause between two stages."""


@dataclass(frozen=True)
class Submission:
    """One attempt at some stages of a run; ``submission`` is its id, the same in every retry."""

    run: RunFile
    stages: tuple[str, ...]
    attempt: int
    submission: str
    commit: str
    idempotency_key: str | None = None


def render(submission: Submission, base: Mapping[str, Any]) -> dict[str, Any]:
    """The RayJob of one submission, on ``base`` (see ``base.load_base``). RunFileError: the run file can not be."""
    run, stages = submission.run, submission.stages
    groups = make_worker_groups(run, stages)
    labels = _build_labels(submission)
    settings = PodSettings(
        run=run,
        image=choose_image(run.kubernetes, gpus=any(group.gpus for group in groups)),
        cache=_choose_cache_path(run),
        labels=labels,
        salt="pack" in stages,
    )
    metadata = {
        "name": job_names.make_rayjob_name(run.name, job_names.join_stages(stages), submission.attempt),
        "namespace": run.kubernetes.namespace,
        "labels": {**labels, **_build_queue_labels(run)},
        "annotations": {job_names.RUN_FILE_DIGEST_LABEL: run.digest(), job_names.COMMIT_LABEL: submission.commit},
    }
    manifest: dict[str, Any] = merge_patch(base, {"metadata": metadata, "spec": _build_job_spec(submission)})
    manifest["spec"]["rayClusterSpec"] = _build_cluster_spec(manifest, groups, settings)
    return manifest


def _build_labels(submission: Submission) -> dict[str, str]:
    run = submission.run
    found = job_names.make_labels(
        run.name,
        job_names.join_stages(submission.stages),
        submission.attempt,
        submission.submission,
        run.digest(),
        submission.commit,
    )
    if submission.idempotency_key is not None:
        found[job_names.IDEMPOTENCY_KEY_LABEL] = job_names.hash_idempotency_key(submission.idempotency_key)
    return found


def _build_queue_labels(run: RunFile) -> dict[str, str]:
    given = {"queue-name": run.kubernetes.queue, "priority-class": run.kubernetes.priority}
    return {f"kueue.x-k8s.io/{key}": value for key, value in given.items() if value is not None}


def _build_job_spec(submission: Submission) -> dict[str, Any]:
    run = submission.run
    variables = {RUN_FILE_VARIABLE: _dump_run_file(submission), JOB_VARIABLE: submission.submission}
    return {
        "entrypoint": f"medfuncta-dist run {ENVIRONMENT}{RUN_FILE_VARIABLE} {' '.join(submission.stages)} --json",
        "runtimeEnvYAML": to_yaml({"env_vars": variables}),
        "metadata": {"run": run.name, "stages": " ".join(submission.stages), "submission": submission.submission},
        "ttlSecondsAfterFinished": run.kubernetes.ttl_seconds,
        "backoffLimit": run.kubernetes.backoff_limit,
    }


def _dump_run_file(submission: Submission) -> str:
    """The run file as the job is to read it: with the cache's folder, tasks for all of its pods, and without GPUs where
    its cluster has none.

    A job that packs keeps its GPUs in the file: it may be the first, and the first one settles chunk sizes by them.
    """
    run = submission.run
    groups = make_worker_groups(run, submission.stages)
    cluster: dict[str, Any] = {"cache": _choose_cache_path(run), "window": choose_window(run, groups)}
    if "pack" not in submission.stages and not any(group.gpus for group in groups):
        cluster["gpus_per_worker"] = 0
    text = dump(run.model_copy(update={"cluster": run.cluster.model_copy(update=cluster)}))
    size = len(json.dumps(text).encode())
    if size > MAX_RUN_FILE_BYTES:
        do = "name folders or patterns in data.source, not single files"
        raise RunFileError(f"the run file has {size} bytes as JSON, a job carries {MAX_RUN_FILE_BYTES}", do=do)
    if "$" in text:
        do = "name the folder above what has the sign in its name"
        raise RunFileError("the run file holds a $, which Ray would take for a variable", do=do)
    return text


def _choose_cache_path(run: RunFile) -> str:
    return run.cluster.cache or run.kubernetes.cache_path


def _build_cluster_spec(
    manifest: Mapping[str, Any], groups: Sequence[PodGroup], settings: PodSettings
) -> dict[str, Any]:
    base = manifest["spec"]["rayClusterSpec"]
    prototypes = {group["groupName"]: group for group in base["workerGroupSpecs"]}
    queued = "kueue.x-k8s.io/queue-name" in manifest["metadata"]["labels"]
    elastic = not queued and any(group.fewest < group.most for group in groups)
    top = base["headGroupSpec"]
    template = fill_pod_template(top["template"], make_head_group(settings.run), settings)
    if elastic:
        template["spec"]["automountServiceAccountToken"] = True  # the autoscaler beside the head asks for pods
    return {
        **base,
        "rayVersion": choose_ray_version(settings.run.kubernetes),
        **(_build_autoscaler_spec(top) if elastic else {}),
        "headGroupSpec": {**top, "template": template},
        "workerGroupSpecs": [
            _build_worker_group_spec(prototypes[g.name], g, settings, elastic=elastic) for g in groups
        ],
    }


def _build_worker_group_spec(
    prototype: Mapping[str, Any], group: PodGroup, settings: PodSettings, *, elastic: bool
) -> dict[str, Any]:
    # Kueue gives a job all of its pods at once, and no autoscaler: there, the most are asked for.
    return {
        **prototype,
        "replicas": group.fewest if elastic else group.most,
        "minReplicas": group.fewest,
        "maxReplicas": group.most,
        "template": fill_pod_template(prototype["template"], group, settings),
    }


def _build_autoscaler_spec(top: Mapping[str, Any]) -> dict[str, Any]:
    options = {
        "version": "v2",
        "idleTimeoutSeconds": IDLE_TIMEOUT_S,
        "securityContext": top["template"]["spec"]["containers"][0].get("securityContext", {}),
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "500m", "memory": "512Mi"}},
    }
    return {"enableInTreeAutoscaling": True, "autoscalerOptions": options}
