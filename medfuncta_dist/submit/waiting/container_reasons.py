"""Why a container of a pod does not run: image, configuration, memory, a crash. Pure."""

from __future__ import annotations

import re

from medfuncta_dist.submit.waiting.cluster_facts import ClusterFacts, Reason, Thing, as_phrase
from medfuncta_dist.submit.waiting.image_reasons import PULL_STATES, explain_image
from medfuncta_dist.submit.waiting.scheduling_reasons import PodPlace

CONFIG_STATES = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
CRASH = "CrashLoopBackOff"
OUT_OF_MEMORY = "OOMKilled"


def explain_container(status: Thing, pod: Thing, facts: ClusterFacts, place: PodPlace) -> Reason | None:
    """The reason from one container's status; None if it runs, or is only being created."""
    state = status.get("state") or {}
    waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
    reason = str(waiting.get("reason", ""))
    if reason in PULL_STATES:
        return _explain_pull(status, waiting, pod, facts)
    if reason in CONFIG_STATES:
        return _explain_config(status, str(waiting.get("message", "")), place)
    if reason == CRASH or not ended:
        ended = (status.get("lastState") or {}).get("terminated") or {}
    if ended.get("reason") == OUT_OF_MEMORY:
        return _explain_memory(status, pod, place)
    has_failed = ended.get("exitCode", 0) != 0 and (reason == CRASH or "terminated" in state)
    return _explain_exit(status, ended, place) if has_failed else None


def _explain_pull(status: Thing, waiting: Thing, pod: Thing, facts: ClusterFacts) -> Reason:
    """The runtime's own words are in an event; the container's message is often only "Back-off pulling image"."""
    image = str(status.get("image", ""))
    pulls = [str(event.get("message", "")) for event in facts.list_events(pod, "Failed", "InspectFailed")]
    texts = [str(waiting.get("message", "")), *(text for text in pulls if image in text or "pull" in text)]
    return explain_image(image, str(waiting.get("reason")), tuple(texts), facts.namespace)


def _explain_config(status: Thing, message: str, place: PodPlace) -> Reason:
    start = "the pod then starts by itself"
    if found := re.search(r'\b(secret|configmap) "([^"]+)" not found', message):
        create = f"kubectl -n {place.namespace} create {_kubectl_kind(found[1])} {found[2]} --from-literal=KEY=VALUE"
        return Reason(
            f"The pod {place.pod} needs the {_title(found[1])} {found[2]}, which does not exist.",
            f"create it (k8s/README.md lists the keys); {start}: {create}",
        )
    if found := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (?:\S+/)?(\S+)", message):
        return Reason(
            f"The {found[2]} {found[3]}, which the pod {place.pod} needs, has no key {found[1]}.",
            f"add the key to it; {start}",
        )
    if "runAsNonRoot" in message:
        sentence = f"The image of the pod {place.pod} would run as root, which the namespace forbids."
        do = "build the image from cluster/Dockerfile, which has a user of its own, and name it in kubernetes.image"
        return Reason(sentence, do, resubmit=True)
    told = as_phrase(message) or "no reason is given"
    return Reason(
        f"The container {status.get('name')} of the pod {place.pod} cannot be created: {told}.",
        f"correct what it names; kubectl -n {place.namespace} describe pod {place.pod} shows more",
    )


def _explain_memory(status: Thing, pod: Thing, place: PodPlace) -> Reason:
    containers = (pod.get("spec") or {}).get("containers") or ()
    limit = next(
        (
            c.get("resources", {}).get("limits", {}).get("memory")
            for c in containers
            if c.get("name") == status.get("name")
        ),
        "",
    )
    told = f" of {limit}" if limit else ""
    what = f"The container {status.get('name')} of the pod {place.pod}"
    return Reason(
        f"{what} was killed: it used more than its memory limit{told}.",
        f"raise {place.section}.memory_gigabytes in the run file",
        resubmit=True,
    )


def _explain_exit(status: Thing, ended: Thing, place: PodPlace) -> Reason:
    message = as_phrase(str(ended.get("message", "")))
    told = f": {message}" if message else ""
    return Reason(
        f"The container {status.get('name')} of the pod {place.pod} ended with exit code {ended['exitCode']}{told}.",
        f"kubectl -n {place.namespace} logs {place.pod} -c {status.get('name')} --tail=50 shows its last lines",
    )


def _title(kind: str) -> str:
    return "Secret" if kind == "secret" else "ConfigMap"


def _kubectl_kind(kind: str) -> str:
    return "secret generic" if kind == "secret" else "configmap"
