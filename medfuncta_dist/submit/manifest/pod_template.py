"""Filling in one pod template of the base: image, resources, environment, volumes, placement. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.kubernetes_section import Kubernetes
from medfuncta_dist.scans.private.private_folder import SALT_VARIABLE
from medfuncta_dist.submit.manifest.base_manifest import merge_patch
from medfuncta_dist.submit.manifest.job_names import SUBMISSION_LABEL
from medfuncta_dist.submit.manifest.pod_disk import SIDECAR_GIB, disk_volumes, ephemeral_gib
from medfuncta_dist.submit.manifest.pod_network import build_ca_mounts, build_ca_volumes, network_variables
from medfuncta_dist.submit.manifest.pod_placement import place_pods
from medfuncta_dist.submit.manifest.quantity import format_cpus, format_gibibytes
from medfuncta_dist.submit.manifest.worker_groups import PodGroup


@dataclass(frozen=True)
class PodSettings:
    """What all pods of a job have in common."""

    run: RunFile
    image: str
    cache_path: str
    labels: Mapping[str, str]
    needs_salt: bool
    """Whether the job packs: its driver, on the head, then computes the scans' keys."""


def fill_pod_template(template: Mapping[str, Any], group: PodGroup, settings: PodSettings) -> dict[str, Any]:
    """The base's pod template with everything that the run file says about pods of this group."""
    base = template["spec"]
    name = base["containers"][0]["name"]
    container = {
        "name": name,
        "image": settings.image,
        "resources": _build_resources(group, settings.run),
        "env": _build_environment(group, settings),
        "volumeMounts": _build_mounts(settings),
    }
    secret = settings.run.kubernetes.storage_secret
    if secret:
        container["envFrom"] = [{"secretRef": {"name": secret}}]
    kubernetes = settings.run.kubernetes
    spec = {
        "serviceAccountName": kubernetes.service_account,
        "containers": [container, *(_build_sidecar(c["name"], settings) for c in base["containers"][1:])],
        "volumes": _build_volumes(group, settings.run),
        **_build_pod_classes(group, kubernetes),
        **place_pods(group, kubernetes, settings.labels[SUBMISSION_LABEL]),
    }
    filled: dict[str, Any] = merge_patch(template, {"metadata": {"labels": dict(settings.labels)}, "spec": spec})
    filled["spec"]["volumes"] = _keep_one_source(filled["spec"]["volumes"])
    return filled


def _build_resources(group: PodGroup, run: RunFile) -> dict[str, Any]:
    # Requests equal limits: such pods are evicted last, and Ray counts what the pod really has.
    amounts = {"cpu": format_cpus(group.cpus), "memory": format_gibibytes(group.memory_gib)}
    disk = ephemeral_gib(run, group.workers)
    if disk is not None:
        amounts["ephemeral-storage"] = format_gibibytes(disk)
    if group.gpus:
        amounts[run.kubernetes.gpu_resource] = str(group.gpus)
    return {"requests": amounts, "limits": dict(amounts)}


def _build_sidecar(name: str, settings: PodSettings) -> dict[str, Any]:
    """What the run file says about a container beside Ray's."""
    sidecar: dict[str, Any] = {"name": name, "image": settings.image}
    if settings.run.kubernetes.ephemeral_storage:
        disk = {"ephemeral-storage": format_gibibytes(SIDECAR_GIB)}
        sidecar["resources"] = {"requests": disk, "limits": dict(disk)}
    return sidecar


def _build_pod_classes(group: PodGroup, kubernetes: Kubernetes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if kubernetes.image_pull_secrets:
        found["imagePullSecrets"] = [{"name": name} for name in kubernetes.image_pull_secrets]
    if group.priority_class is not None:
        found["priorityClassName"] = group.priority_class
    return found


def _build_environment(group: PodGroup, settings: PodSettings) -> list[dict[str, Any]]:
    kubernetes = settings.run.kubernetes
    values = {**network_variables(kubernetes), **kubernetes.environment}
    if group.name != "head":
        values.setdefault("OMP_NUM_THREADS", str(settings.run.cluster.threads))
    variables: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in values.items()]
    if settings.needs_salt and group.name == "head" and kubernetes.salt_secret:
        variables.append(_reference_secret(SALT_VARIABLE, kubernetes.salt_secret))
    if kubernetes.wandb_secret and settings.run.telemetry.wandb != "off":
        variables.append(_reference_secret("WANDB_API_KEY", kubernetes.wandb_secret))
    return variables


def _reference_secret(variable: str, secret: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": variable}}}


def _build_mounts(settings: PodSettings) -> list[dict[str, Any]]:
    kubernetes = settings.run.kubernetes
    claims = [{"name": f"claim-{name}", "mountPath": path} for name, path in kubernetes.claims.items()]
    cache, spill = (("cache", settings.cache_path), ("spill", kubernetes.spill_path))
    mounts = ({"name": name, "mountPath": path} for name, path in (cache, spill))
    return [*mounts, *claims, *build_ca_mounts(kubernetes)]


def _build_volumes(group: PodGroup, run: RunFile) -> list[dict[str, Any]]:
    claims = [{"name": f"claim-{name}", "persistentVolumeClaim": {"claimName": name}} for name in run.kubernetes.claims]
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": format_gibibytes(group.shm_gib)}}
    return [shm, *disk_volumes(run), *claims, *build_ca_volumes(run.kubernetes)]


def _keep_one_source(volumes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # The merge by name leaves the base's emptyDir beside the run file's claim, but a volume has one source.
    return [{k: v for k, v in volume.items() if k != "emptyDir" or "ephemeral" not in volume} for volume in volumes]
