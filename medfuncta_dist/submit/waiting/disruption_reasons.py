"""Why a pod was ended from outside, or its node is gone: eviction, preemption, a node that is not ready. Pure."""

from __future__ import annotations

import re

from medfuncta_dist.submit.waiting.cluster_facts import (
    ClusterFacts,
    Reason,
    Thing,
    as_phrase,
    find_condition,
    get_name,
    get_status,
)
from medfuncta_dist.submit.waiting.scheduling_reasons import PodPlace

AGAIN = "KubeRay makes another pod, and the run continues by itself from its last checkpoint"
DISRUPTIONS = {
    "PreemptionByScheduler": ("made room for a pod with a higher PriorityClass", AGAIN),
    "DeletionByTaintManager": ("had to leave its node, which got a taint (often: it is not ready, or drained)", AGAIN),
    "EvictionByEvictionAPI": ("was evicted, as when its node is drained", AGAIN),
    "DeletionByPodGC": ("was lost with its node", AGAIN),
}
"""Reasons of the condition DisruptionTarget; at TerminationByKubelet, the pod's status says more."""
VOLUME_KEYS = {"ray-logs": "kubernetes.logs_gigabytes", "spill": "kubernetes.spill_gigabytes"}
"""The run-file keys of the volumes that have one. The cache keeps to its own limit, below its volume's."""
NO_ROOM = ("OutOfcpu", "OutOfmemory", "OutOfpods", "UnexpectedAdmissionError", "NodeAffinity")
"""Reasons of the kubelet when it refuses a pod that the scheduler sent."""


def explain_disruption(pod: Thing, facts: ClusterFacts, place: PodPlace) -> Reason | None:
    """The reason, if something outside the pod ended it or its node fails; else None."""
    status = get_status(pod)
    reason, message = str(status.get("reason", "")), str(status.get("message", ""))
    if reason == "Evicted":
        return explain_eviction(message, place)
    if reason in NO_ROOM or reason.startswith("OutOf"):
        told = message.rstrip(".") or reason
        do = "KubeRay creates another pod by itself; if it happens again, look at the node's device plugin and kubelet"
        return Reason(f"The node refused the pod {place.pod}: {told}.", do)
    condition = find_condition(pod, "DisruptionTarget") or {}
    if condition.get("status") == "True" and condition.get("reason") in DISRUPTIONS:
        what, do = DISRUPTIONS[condition["reason"]]
        return Reason(f"The pod {place.pod} {what}.", do)
    if reason in ("NodeShutdown", "Terminated", "Shutdown"):
        return Reason(f"The node of the pod {place.pod} was shut down.", AGAIN)
    return _explain_node(pod, facts, place)


def explain_eviction(message: str, place: PodPlace) -> Reason:
    """Of a pod that the kubelet evicted."""
    if re.search(r"ephemeral.storage|local storage|EmptyDir|DiskPressure|inodes|disk", message):
        volume = re.search(r'EmptyDir volume "([^"]+)" exceeds the limit "([^"]+)"', message)
        full = "it wrote more to the disk than its limit" if "limit" in message else "the node's disk was full"
        what = f"its volume {volume[1]} grew beyond {volume[2]}" if volume else full
        return Reason(f"The pod {place.pod} was evicted: {what}.", _advise_disk(volume, message), resubmit=True)
    if "memory" in message:
        do = f"raise {place.section}.memory_gigabytes in the run file, so that fewer pods share a node"
        return Reason(f"The pod {place.pod} was evicted: the node's memory was full.", do, resubmit=True)
    return Reason(f"The pod {place.pod} was evicted: {message.strip().rstrip('.') or 'no reason is given'}.", AGAIN)


def _advise_disk(volume: re.Match[str] | None, message: str) -> str:
    """What the run file can do about a full disk: more for what outgrew its limit, else less of the largest part."""
    if volume is not None and volume[1] in VOLUME_KEYS:
        return f"raise {VOLUME_KEYS[volume[1]]} in the run file"
    if volume is None and "limit" in message:
        return "raise kubernetes.scratch_gigabytes (temporary files) or logs_gigabytes in the run file"
    return "lower cluster.cache_gigabytes, or give the cache a volume of its own (kubernetes.cache_storage_class)"


def _explain_node(pod: Thing, facts: ClusterFacts, place: PodPlace) -> Reason | None:
    name = (pod.get("spec") or {}).get("nodeName", "")
    node = next((node for node in facts.nodes if get_name(node) == name), None) if name else None
    ready = find_condition(node, "Ready") if node is not None else None
    if ready is not None and ready.get("status") != "True":
        why = as_phrase(str(ready.get("message", "")))
    elif ready is None and get_status(pod).get("phase") == "Running":
        why = facts.find_message(pod, "NodeNotReady").strip().rstrip(".") if not _is_ready(pod) else ""
    else:
        why = ""
    if not why:
        return None
    return Reason(
        f"The node {name} of the pod {place.pod} is not ready: {why}.",
        f"wait: after five minutes Kubernetes moves the pod; `kubectl describe node {name}` shows the node's state",
    )


def _is_ready(pod: Thing) -> bool:
    return (find_condition(pod, "Ready") or {}).get("status") == "True"
