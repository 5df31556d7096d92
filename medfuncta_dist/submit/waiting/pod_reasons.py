"""Why one pod is not running and ready: its phase, conditions, containers and events. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from medfuncta_dist.submit.waiting.cluster_facts import (
    ClusterFacts,
    Reason,
    Thing,
    as_phrase,
    find_condition,
    get_name,
    get_status,
    has_condition,
)
from medfuncta_dist.submit.waiting.container_reasons import explain_container
from medfuncta_dist.submit.waiting.disruption_reasons import explain_disruption
from medfuncta_dist.submit.waiting.scheduling_reasons import PodPlace, explain_autoscaler, explain_scheduling

GCS_INIT = "wait-gcs-ready"
"""The init container that KubeRay gives to workers: it ends when the head answers."""
SCALE_EVENTS = ("TriggeredScaleUp", "NotTriggerScaleUp", "Nominated")
VOLUME_EVENTS = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")


def is_head(pod: Thing) -> bool:
    """Whether this is the pod of Ray's head."""
    return _get_labels(pod).get("ray.io/node-type") == "head"


def is_ready(pod: Thing) -> bool:
    """Whether the pod runs, and all of its containers are ready."""
    return get_status(pod).get("phase") == "Running" and has_condition(pod, "Ready")


def explain_pod(pod: Thing, facts: ClusterFacts) -> Reason | None:
    """Why a pod is not ready; None if nothing is known against it."""
    place = find_place(pod, facts.namespace)
    return (
        explain_disruption(pod, facts, place)
        or _explain_unscheduled(pod, facts, place)
        or _explain_containers(pod, facts, place)
        or _explain_volumes(pod, facts, place)
        or _explain_sandbox(pod, facts, place)
        or _explain_gcs(pod, facts, place)
        or _explain_readiness(pod, facts, place)
        or _explain_pull_in_progress(pod, facts)
    )


def find_place(pod: Thing, namespace: str) -> PodPlace:
    """The pod's name, and the section of the run file that describes it."""
    group = "head" if is_head(pod) else _get_labels(pod).get("ray.io/group", "cpu")
    return PodPlace(get_name(pod), f"kubernetes.{group}", namespace)


def _get_labels(pod: Thing) -> Thing:
    labels: Thing = pod.get("metadata", {}).get("labels") or {}
    return labels


def _explain_unscheduled(pod: Thing, facts: ClusterFacts, place: PodPlace) -> Reason | None:
    condition = find_condition(pod, "PodScheduled") or {}
    text = str(condition.get("message", "")) or facts.find_message(pod, "FailedScheduling")
    if condition.get("status") == "True" or (pod.get("spec") or {}).get("nodeName"):
        return None
    if condition.get("reason") == "SchedulingGated":
        gates = ", ".join(str(gate.get("name")) for gate in pod.get("spec", {}).get("schedulingGates", []))
        do = "whoever set the gate removes it; for kueue.x-k8s.io/ gates look at Kueue's Workload"
        return Reason(f"The pod {place.pod} is held back by a scheduling gate ({gates}).", do)
    if not text:
        return None
    events = [(str(e.get("reason")), str(e.get("message", ""))) for e in facts.list_events(pod, *SCALE_EVENTS)]
    return explain_autoscaler(explain_scheduling(text, place), events)


def _explain_containers(pod: Thing, facts: ClusterFacts, place: PodPlace) -> Reason | None:
    found = (explain_container(container, pod, facts, place) for container in _list_containers(pod))
    return next((reason for reason in found if reason is not None), None)


def _list_containers(pod: Thing) -> Iterator[Thing]:
    """The statuses of a pod's containers: init containers first, as they come first."""
    yield from get_status(pod).get("initContainerStatuses") or ()
    yield from get_status(pod).get("containerStatuses") or ()


def _explain_volumes(pod: Thing, facts: ClusterFacts, place: PodPlace) -> Reason | None:
    text = "" if get_status(pod).get("phase") == "Running" else facts.find_message(pod, *VOLUME_EVENTS)
    if not text:
        return None
    if found := re.search(r'\b(secret|configmap) "([^"]+)" not found', text):
        sentence = f"The pod {place.pod} needs the {found[1]} {found[2]}, which does not exist."
        return Reason(sentence, f"create it in the namespace {place.namespace}; the pod then starts by itself")
    if found := re.search(r'persistentvolumeclaim "([^"]+)" not found', text):
        sentence = f"The pod {place.pod} needs the PersistentVolumeClaim {found[1]}, which does not exist."
        do = f"create it in the namespace {place.namespace}, or correct kubernetes.claims in the run file"
        return Reason(sentence, do, resubmit=True)
    if "Multi-Attach" in text:
        do = "wait until the other pod has ended, or use a volume that several nodes can attach (ReadWriteMany)"
        return Reason(f"A volume of the pod {place.pod} is still attached to another node.", do)
    told = as_phrase(text)
    do = f"`kubectl -n {place.namespace} describe pod {place.pod}`; whoever runs the storage must mend it"
    return Reason(f"A volume of the pod {place.pod} cannot be mounted: {told}.", do)


def _explain_sandbox(pod: Thing, facts: ClusterFacts, place: PodPlace) -> Reason | None:
    text = "" if get_status(pod).get("phase") == "Running" else facts.find_message(pod, "FailedCreatePodSandBox")
    if not text:
        return None
    node = (pod.get("spec") or {}).get("nodeName", "")
    if re.search(r"no IPs? |assign an IP|IP address", text):
        what, do = "the network has no address left for it", "enlarge the subnet or the nodes' range of pod addresses"
    else:
        what, do = as_phrase(text), "whoever runs the cluster must mend the node's network"
    return Reason(f"The pod {place.pod} does not start on the node {node}: {what}.", do)


def _explain_gcs(pod: Thing, facts: ClusterFacts, place: PodPlace) -> Reason | None:
    """A worker that waits for a head which is ready: only the network can be between them."""
    statuses = get_status(pod).get("initContainerStatuses") or ()
    waits = any(s.get("name") == GCS_INIT and "running" in (s.get("state") or {}) for s in statuses)
    if not waits or not any(is_head(other) and is_ready(other) for other in facts.pods):
        return None
    return Reason(
        f"The worker pod {place.pod} does not reach the head, although the head is ready.",
        f"if it lasts longer than a minute, a NetworkPolicy keeps them apart: k8s/base allows it with ray-internal "
        f"(kubectl -n {place.namespace} get networkpolicies)",
    )


def _explain_readiness(pod: Thing, facts: ClusterFacts, place: PodPlace) -> Reason | None:
    if get_status(pod).get("phase") != "Running" or is_ready(pod):
        return None
    text = facts.find_message(pod, "Unhealthy")
    told = f" ({as_phrase(text)})" if text else ""
    return Reason(
        f"The pod {place.pod} runs, but is not ready{told}.",
        f"if it lasts: kubectl -n {place.namespace} logs {place.pod} --all-containers --tail=50",
    )


def _explain_pull_in_progress(pod: Thing, facts: ClusterFacts) -> Reason | None:
    newest = next(iter(facts.list_events(pod, "Pulling", "Pulled", "Failed", "Started")), None)
    if newest is None or newest.get("reason") != "Pulling":
        return None
    image = re.search(r'"([^"]+)"', str(newest.get("message", "")))
    return Reason(
        f"A node is pulling the image {image[1] if image else ''} for the pod {get_name(pod)}.",
        "wait: the first pull of an image on a node takes minutes",
    )
