"""The parts of a RayJob manifest that rules read.

A part that is missing, or of another type, reads as empty: types are checked by the schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Part = Mapping[str, Any]
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def as_mapping(value: Any) -> Part:
    """``value`` if it is a mapping, else an empty mapping."""
    return value if isinstance(value, Mapping) else {}


def as_mappings(value: Any) -> list[Part]:
    """The mappings in a list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def as_int(value: Any) -> int | None:
    """``value`` if it is an integer, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def is_at_least(version: str, least: tuple[int, ...]) -> bool:
    """Whether a version such as ``2.60.0`` is ``least`` or later; False if it is not a version."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", version)
    return bool(found) and tuple(int(n or 0) for n in found.groups()) >= least  # type: ignore[union-attr]


class RayJob:
    """A RayJob manifest, by its parts."""

    def __init__(self, manifest: Part) -> None:
        self.manifest = manifest
        self.metadata = as_mapping(manifest.get("metadata"))
        self.name = str(self.metadata.get("name", ""))
        self.labels = as_mapping(self.metadata.get("labels"))
        self.annotations = as_mapping(self.metadata.get("annotations"))
        self.spec = as_mapping(manifest.get("spec"))
        self.submission_mode = str(self.spec.get("submissionMode", "K8sJobMode"))
        self.removes_cluster = self.spec.get("shutdownAfterJobFinishes") is True
        self.uses_existing_cluster = bool(self.spec.get("clusterSelector"))
        self.cluster = as_mapping(self.spec.get("rayClusterSpec"))
        self.ray_version = str(self.cluster.get("rayVersion", ""))
        self.head = as_mapping(self.cluster.get("headGroupSpec"))
        self.worker_groups = as_mappings(self.cluster.get("workerGroupSpecs"))
        self.auth_options = as_mapping(self.cluster.get("authOptions"))
        self.queue = self.labels.get(QUEUE_LABEL)

    @property
    def autoscaling(self) -> bool:
        """Whether Ray's autoscaler adds and removes workers."""
        return self.cluster.get("enableInTreeAutoscaling") is True

    @property
    def autoscaler_v2(self) -> bool:
        """Whether it is the autoscaler's version 2."""
        version = as_mapping(self.cluster.get("autoscalerOptions")).get("version")
        return self.autoscaling and (version == "v2" or self.head_variable("RAY_enable_autoscaler_v2") in ("1", "true"))

    def all_groups(self) -> Iterator[tuple[str, Part]]:
        """(where, group): the head's group, then the workers'."""
        yield "spec.rayClusterSpec.headGroupSpec", self.head
        for group in self.worker_groups:
            yield f"spec.rayClusterSpec.workerGroupSpecs[{group.get('groupName', '?')}]", group

    def templates(self) -> Iterator[tuple[str, Part]]:
        """(where, pod template) of each group."""
        for where, group in self.all_groups():
            yield f"{where}.template", as_mapping(group.get("template"))

    def pods(self) -> Iterator[tuple[str, Part]]:
        """(where, pod spec) of each group."""
        for where, template in self.templates():
            yield f"{where}.spec", as_mapping(template.get("spec"))

    def containers(self) -> Iterator[tuple[str, Part]]:
        """(where, container) of every container, init containers too."""
        for where, pod in self.pods():
            for kind in ("containers", "initContainers"):
                for container in as_mappings(pod.get(kind)):
                    yield f"{where}.{kind}[{container.get('name', '?')}]", container

    def ray_containers(self) -> Iterator[tuple[str, Part]]:
        """(where, container) of each group's first container, which is Ray's."""
        for where, pod in self.pods():
            for container in as_mappings(pod.get("containers"))[:1]:
                yield f"{where}.containers[{container.get('name', '?')}]", container

    def head_variable(self, name: str) -> str | None:
        """The value of an environment variable of the head; empty if it is a reference, None if it is not set."""
        for _, container in list(self.ray_containers())[:1] if self.head else []:
            return read_variable(container, name)
        return None


def read_variable(container: Part, name: str) -> str | None:
    """The value of a container's environment variable; empty if it is a reference, None if it is not set."""
    values = {item.get("name"): str(item.get("value", "")) for item in as_mappings(container.get("env"))}
    return values.get(name)
