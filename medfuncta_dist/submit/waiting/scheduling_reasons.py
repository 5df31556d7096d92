"""The scheduler's reasons for leaving a pod pending, from its text. Pure.

0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) had untolerated taint {dedicated: ml}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from medfuncta_dist.submit.waiting.cluster_facts import Reason

SUMMARY = re.compile(r"^\d+/(\d+) nodes are available: (.*)", re.DOTALL)
TAIL = re.compile(r"\s*(preemption:|no new claims to deallocate).*", re.DOTALL)
"""What the scheduler says of preemption repeats the same counts."""
CLAUSE = re.compile(r"(\d+) ((?:[^,.{]|\{[^}]*\}|\.(?=\w))+)")
TAINT = re.compile(r"taint(?:\(s\))?(?: \{([^:}]*):? ?([^}]*)\})?")
UNHEALTHY = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")
"""Prefixes of taints that Kubernetes itself puts on nodes which are not well, or not ready yet."""
CONTROL_PLANE = ("node-role.kubernetes.io/",)
GPU_TAINT = "nvidia.com/gpu"
ADVICE_ORDER = ("volume", "taint", "resource", "selector", "spread", "unhealthy", "other")
"""Of several obstacles, the advice is about the first: what keeps a pod away for good before what passes."""


@dataclass(frozen=True)
class Obstacle:
    """Why some nodes cannot take a pod. ``nodes`` is 0 where the scheduler gives no number."""

    kind: str
    nodes: int
    text: str
    """What those nodes have or lack, after "has" or "have"."""
    subject: str = ""
    """The resource or the taint."""


@dataclass(frozen=True)
class PodPlace:
    """Which keys of the run file describe a pod: ``kubernetes.head``, ``kubernetes.cpu`` or ``kubernetes.gpu``."""

    pod: str
    section: str
    namespace: str


def explain_scheduling(text: str, place: PodPlace) -> Reason:
    """The reason in the scheduler's text. A text of another form is repeated."""
    summary = SUMMARY.match(text)
    total = int(summary[1]) if summary else 0
    found = parse_obstacles(summary[2] if summary else text)
    if not total or not all(obstacle.nodes for obstacle in found):
        told = TAIL.sub("", summary[2] if summary else text).strip().rstrip(".")
    else:
        told = f"of {total} node{'s' * (total != 1)}, {', '.join(_tell(obstacle) for obstacle in found)}"
    return Reason(f"No node can take the pod {place.pod}: {told}.", *_advise(found, place))


def _advise(found: Sequence[Obstacle], place: PodPlace) -> Advice:
    """Of the worst obstacle; where resources lack on some nodes and a taint keeps others away, of both."""
    by_kind = {obstacle.kind: obstacle.subject for obstacle in reversed(found)}
    worst = min(by_kind, key=ADVICE_ORDER.index)
    do, resubmit = ADVICE[worst](by_kind[worst], place)
    if worst == "taint" and "resource" in by_kind:
        return f"{_advise_resource(by_kind['resource'], place)[0]}; {do}", True
    return do, resubmit


def parse_obstacles(text: str) -> list[Obstacle]:
    """The obstacles that a text names, in its order; at least one."""
    body = TAIL.sub("", text).strip().rstrip(".")
    numbered = CLAUSE.findall(body)
    return [_classify(int(number), clause.strip()) for number, clause in numbered] or [_classify(0, body)]


def _classify(nodes: int, clause: str) -> Obstacle:
    if found := re.search(r"Insufficient (\S+)", clause):
        return Obstacle("resource", nodes, f"too little free {found[1]}", found[1])
    if found := TAINT.search(clause):
        return _classify_taint(nodes, found[1] or "", found[2] or "")
    for pattern, kind, text in PATTERNS:
        if found := re.search(pattern, clause):
            return Obstacle(kind, nodes, text, next((group for group in found.groups() if group), ""))
    return Obstacle("other", nodes, f"this against it: {clause}", clause)


PATTERNS = (
    (r'persistentvolumeclaim "([^"]+)" not found', "volume", "no PersistentVolumeClaim of that name"),
    (r"unbound immediate PersistentVolumeClaims", "volume", "a PersistentVolumeClaim that no volume is bound to"),
    (r"persistent volumes to bind|non-existent persistentvolume", "volume", "no volume for a PersistentVolumeClaim"),
    (
        r"volume node affinity conflict",
        "volume",
        "no access to its volume, which is in another zone or on another node",
    ),
    (r"exceed max volume count", "other", "as many volumes attached as they can have"),
    (r"Too many pods", "resource", "as many pods as they can have"),
    (r"node affinity|node selector", "selector", "other labels than it asks for"),
    (r"topology spread constraints", "spread", "no place left by topologySpreadConstraints"),
    (r"affinity", "spread", "pods beside which it must not run, or lack those it must run beside"),
    (r"unschedulable", "unhealthy", "been cordoned"),
    (r"(disk|memory|PID) pressure", "unhealthy", "no disk or memory to spare"),
    (r"not ready|unreachable|network unavailable", "unhealthy", "not become ready"),
)


def _classify_taint(nodes: int, key: str, value: str) -> Obstacle:
    taint = f"{key}={value}" if value else key
    if not key:
        return Obstacle("taint", nodes, "a taint that it does not tolerate")
    if key.startswith(CONTROL_PLANE):
        return Obstacle("other", nodes, f"the taint {taint}, which keeps jobs away", taint)
    if key.startswith(UNHEALTHY):
        return Obstacle("unhealthy", nodes, f"the taint {taint}, a sign that it is not well", taint)
    return Obstacle("taint", nodes, f"the taint {taint}, which it does not tolerate", taint)


def _tell(obstacle: Obstacle) -> str:
    return f"{obstacle.nodes} {'has' if obstacle.nodes == 1 else 'have'} {obstacle.text}"


def _advise_resource(resource: str, place: PodPlace) -> Advice:
    if "gpu" in resource:
        keys = "cluster.workers, cluster.gpus_per_worker"
    elif resource == "memory":
        keys = f"{place.section}.memory_gigabytes"
    elif resource == "ephemeral-storage":
        keys = "cluster.cache_gigabytes"
    elif resource == "cpu":
        keys = f"{place.section}.cpus" if place.section.endswith("head") else "cluster.cpus_per_worker"
    else:
        keys = "cluster.workers"
    return f"wait until other pods end, or add nodes, or ask for less in the run file ({keys})", True


def _advise_taint(taint: str, place: PodPlace) -> Advice:
    if taint.startswith(GPU_TAINT):
        return "add gpu to kubernetes.overlays in the run file: the overlay tolerates this taint", True
    named = taint or "the taint (kubectl describe nodes)"
    return f"if its pods may run there, add {named} to {place.section}.tolerations in the run file", True


def _advise_selector(_subject: str, place: PodPlace) -> Advice:
    do = f"compare {place.section}.labels in the run file with `kubectl get nodes --show-labels`, and correct one"
    return do, True


def _advise_volume(_subject: str, place: PodPlace) -> Advice:
    do = "shows which is missing or not bound; the run file names them in kubernetes.claims and "
    return f"`kubectl -n {place.namespace} get pvc` {do}kubernetes.cache_storage_class", False


def _advise_unhealthy(_subject: str, _place: PodPlace) -> Advice:
    return "wait until the nodes are ready, or repair them: `kubectl get nodes`", False


def _advise_other(_subject: str, place: PodPlace) -> Advice:
    return f"`kubectl -n {place.namespace} describe pod {place.pod}` shows all that the scheduler says", False


Advice = tuple[str, bool]
"""What to do, and whether the job must be submitted again for it."""
ADVICE: dict[str, Callable[[str, PodPlace], Advice]] = {
    "resource": _advise_resource,
    "taint": _advise_taint,
    "selector": _advise_selector,
    "volume": _advise_volume,
    "unhealthy": _advise_unhealthy,
    "spread": _advise_other,
    "other": _advise_other,
}


def explain_autoscaler(reason: Reason, events: Sequence[tuple[str, str]]) -> Reason:
    """The reason with what an autoscaler does about it: ``events`` are (reason, message), newest first."""
    for kind, message in events:
        if kind in ("TriggeredScaleUp", "Nominated"):
            return Reason(f"{reason.sentence[:-1]}; the autoscaler is adding one.", "wait until the new node is ready")
        if kind == "NotTriggerScaleUp":
            why = message.partition("scale-up")[2].lstrip(": ").rstrip(".") or "it gives no reason"
            return _explain_no_scale_up(reason, why)
    return reason


def _explain_no_scale_up(reason: Reason, why: str) -> Reason:
    sentence = f"{reason.sentence[:-1]}; the autoscaler adds none ({why})."
    if "max node group size reached" in why:
        return Reason(sentence, "raise the node group's maximum size, or wait until other pods end")
    return replace(reason, sentence=sentence)
