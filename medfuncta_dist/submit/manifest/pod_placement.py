"""Where a job's pods may run: nodes by label and taint, and zones. Pure."""

from __future__ import annotations

from typing import Any

from medfuncta_dist.config.sections.kubernetes_section import Kubernetes
from medfuncta_dist.submit.manifest.job_names import SUBMISSION_LABEL
from medfuncta_dist.submit.manifest.worker_groups import PodGroup


def place_pods(group: PodGroup, kubernetes: Kubernetes, submission: str) -> dict[str, Any]:
    """The keys of a pod's spec that say where it may run; ``submission`` is the value of its label."""
    return {**_choose_nodes(group), **_choose_zones(group, kubernetes, submission)}


def _choose_nodes(group: PodGroup) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if group.nodes.labels:
        found["nodeSelector"] = dict(group.nodes.labels)
    if group.nodes.tolerations:
        found["tolerations"] = [_parse_toleration(taint) for taint in group.nodes.tolerations]
    return found


def _choose_zones(group: PodGroup, kubernetes: Kubernetes, submission: str) -> dict[str, Any]:
    selector, key = {"matchLabels": {SUBMISSION_LABEL: submission}}, kubernetes.zone_label
    if kubernetes.zones == "same":
        # The first pod of a job finds none to join: the scheduler lets a pod pass that meets its own condition.
        term = {"labelSelector": selector, "topologyKey": key}
        return {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}
    if kubernetes.zones == "spread" and group.name != "head":
        # Where possible only: a zone without room must not hold up a job that others could take.
        spread = {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector}
        return {"topologySpreadConstraints": [spread]}
    return {}


def _parse_toleration(taint: str) -> dict[str, str]:
    """``key[=value][:effect]`` as a toleration."""
    rest, _, effect = taint.partition(":")
    key, equals, value = rest.partition("=")
    matched = {"key": key, "operator": "Equal", "value": value} if equals else {"key": key, "operator": "Exists"}
    return {**matched, "effect": effect} if effect else matched
