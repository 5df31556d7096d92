"""Filling in one pod template of the base: image, resources, environment, volumes, node selection. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.scans.private.private_folder import SALT_VARIABLE
from medfuncta_dist.submit.manifest.base_manifest import merge_patch
from medfuncta_dist.submit.manifest.pod_network import build_ca_mounts, build_ca_volumes, network_variables
from medfuncta_dist.submit.manifest.worker_groups import PodGroup

CACHE_HEADROOM = 1.1
"""The volume's size relative to the cache's: a pod whose volume overflows is evicted, a new shard is downloaded before
an old one is deleted, and compiled code lies there, too (some ten MB)."""


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
        "resources": _build_resources(group),
        "env": _build_environment(group, settings),
        "volumeMounts": [
            {"name": "cache", "mountPath": settings.cache_path},
            *_build_claim_mounts(settings.run),
            *build_ca_mounts(settings.run.kubernetes),
        ],
    }
    secret = settings.run.kubernetes.storage_secret
    if secret:
        container["envFrom"] = [{"secretRef": {"name": secret}}]
    spec = {
        "serviceAccountName": settings.run.kubernetes.service_account,
        "containers": [container, *({"name": c["name"], "image": settings.image} for c in base["containers"][1:])],
        "volumes": _build_volumes(group, settings.run),
        **_build_node_placement(group),
    }
    filled: dict[str, Any] = merge_patch(template, {"metadata": {"labels": dict(settings.labels)}, "spec": spec})
    filled["spec"]["volumes"] = _keep_one_source(filled["spec"]["volumes"])
    return filled


def format_cpus(value: float) -> str:
    """A number of CPUs as a Kubernetes quantity: ``4``, ``1500m``."""
    return str(int(value)) if float(value).is_integer() else f"{math.ceil(value * 1000)}m"


def format_gibibytes(value: float) -> str:
    """A size in GiB as a Kubernetes quantity: ``16Gi``, ``6554Mi``."""
    return f"{int(value)}Gi" if float(value).is_integer() else f"{math.ceil(value * 1024)}Mi"


def _build_resources(group: PodGroup) -> dict[str, Any]:
    # Requests equal limits: such pods are evicted last, and Ray counts what the pod really has.
    amounts = {"cpu": format_cpus(group.cpus), "memory": format_gibibytes(group.memory_gib)}
    if group.gpus:
        amounts["nvidia.com/gpu"] = str(group.gpus)
    return {"requests": amounts, "limits": dict(amounts)}


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


def _build_claim_mounts(run: RunFile) -> list[dict[str, Any]]:
    return [{"name": f"claim-{name}", "mountPath": path} for name, path in run.kubernetes.claims.items()]


def _build_volumes(group: PodGroup, run: RunFile) -> list[dict[str, Any]]:
    size = format_gibibytes(math.ceil(CACHE_HEADROOM * run.cluster.cache_gigabytes))
    claims = [{"name": f"claim-{name}", "persistentVolumeClaim": {"claimName": name}} for name in run.kubernetes.claims]
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": format_gibibytes(group.shm_gib)}}
    return [
        shm,
        {"name": "cache", **_build_cache_source(size, run.kubernetes.cache_storage_class)},
        *claims,
        *build_ca_volumes(run.kubernetes),
    ]


def _build_cache_source(size: str, storage_class: str | None) -> dict[str, Any]:
    if storage_class is None:
        return {"emptyDir": {"sizeLimit": size}}
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": storage_class,
        "resources": {"requests": {"storage": size}},
    }
    return {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}


def _keep_one_source(volumes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # The merge by name leaves the base's emptyDir beside the run file's claim, but a volume has one source.
    return [{k: v for k, v in volume.items() if k != "emptyDir" or "ephemeral" not in volume} for volume in volumes]


def _build_node_placement(group: PodGroup) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if group.nodes.labels:
        found["nodeSelector"] = dict(group.nodes.labels)
    if group.nodes.tolerations:
        found["tolerations"] = [_parse_toleration(taint) for taint in group.nodes.tolerations]
    return found


def _parse_toleration(taint: str) -> dict[str, str]:
    """``key[=value][:effect]`` as a toleration."""
    rest, _, effect = taint.partition(":")
    key, equals, value = rest.partition("=")
    matched = {"key": key, "operator": "Equal", "value": value} if equals else {"key": key, "operator": "Exists"}
    return {**matched, "effect": effect} if effect else matched
