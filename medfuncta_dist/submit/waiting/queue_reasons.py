"""Why Kueue holds a job back, from the conditions of its Workload. Pure.

couldn't assign flavors to pod set gpu: insufficient unused quota for nvidia.com/gpu in flavor gpus, 4 more needed
"""

from __future__ import annotations

import re

from medfuncta_dist.submit.waiting.cluster_facts import (
    Reason,
    Thing,
    as_phrase,
    find_condition,
    get_name,
    get_status,
    has_condition,
)

MORE_NEEDED = re.compile(r"insufficient unused quota (?:in cohort )?for (\S+) in flavor ([^,\s]+), (\S+) more needed")
NEVER_FITS = re.compile(
    r"insufficient quota for (\S+) in flavor ([^,\s]+)"
    r"(?:(?!insufficient)[^>])*(?:> maximum capacity \((?:\S+ > )?([^)]+)\))?"
)
PREEMPTING = re.compile(r"Pending the preemption of (\d+) workload")
DEACTIVATED = {
    "RequeuingLimitExceeded": "its pods were not ready in time, too often",
    "AdmissionCheck": "an admission check rejected it",
    "RejectedChecks": "an admission check rejected it",
    "MaximumExecutionTimeExceeded": "it ran for longer than kubernetes.max_hours or max_cost allow",
}
"""Endings of the reasons with which Kueue deactivates a Workload, and what they mean."""
EVICTIONS = {
    "Preempted": "It was preempted to make room for another job",
    "PodsReadyTimeout": "It was sent back to the queue, because its pods were not ready in time",
    "AdmissionCheck": "It was sent back to the queue, because an admission check took its agreement back",
    "ClusterQueueStopped": "It was stopped with its ClusterQueue",
    "LocalQueueStopped": "It was stopped with its LocalQueue",
    "NodeFailures": "It was sent back to the queue, because its nodes failed",
}
"""Reasons of the condition Evicted."""


def explain_workload(workload: Thing, namespace: str) -> Reason | None:
    """Why a Workload is not admitted; None if it is, or has finished."""
    if has_condition(workload, "Finished"):
        return None
    if (workload.get("spec") or {}).get("active") is False:
        return _explain_deactivated(workload, namespace)
    if has_condition(workload, "Admitted"):
        return None
    if has_condition(workload, "QuotaReserved"):
        return _explain_checks(workload)
    return _explain_queued(workload, namespace)


def _explain_deactivated(workload: Thing, namespace: str) -> Reason:
    conditions = (find_condition(workload, kind) or {} for kind in ("Evicted", "DeactivationTarget"))
    reasons = [str(condition.get("reason", "")) for condition in conditions]
    why = next(
        (text for end, text in DEACTIVATED.items() for r in reasons if r.endswith(end)), "somebody did it by hand"
    )
    return Reason(
        f"Kueue's Workload {get_name(workload)} is deactivated: {why}.",
        f"mend the cause, then: kubectl -n {namespace} patch workload {get_name(workload)} "
        """--type merge -p '{"spec":{"active":true}}'""",
    )


def _explain_checks(workload: Thing) -> Reason:
    checks = get_status(workload).get("admissionChecks") or ()
    open_checks = [check for check in checks if check.get("state") != "Ready"]
    if not open_checks:
        return Reason("Kueue has reserved its quota, and is about to start it.", "wait a moment")
    check = next((c for c in open_checks if c.get("state") in ("Rejected", "Retry")), open_checks[0])
    name, message = check.get("name"), as_phrase(str(check.get("message", "")))
    told = f": {message}" if message else ""
    if check.get("state") == "Rejected":
        return Reason(
            f"Kueue's admission check {name} has rejected it{told}.", f"kubectl describe admissioncheck {name}"
        )
    if check.get("state") == "Retry":
        return Reason(f"Kueue's admission check {name} has failed, and is tried again{told}.", "wait")
    return Reason(
        f"It has its quota, and waits for Kueue's admission check {name}{told}.",
        f"wait (a check that provisions nodes takes minutes); kubectl describe admissioncheck {name}",
    )


def _explain_queued(workload: Thing, namespace: str) -> Reason:
    """Of a Workload without quota: why it was sent back, if it was, and what it needs now."""
    queue = str((workload.get("spec") or {}).get("queueName", ""))
    condition = find_condition(workload, "QuotaReserved") or {}
    needed = explain_quota_message(str(condition.get("message", "")), queue, namespace)
    evicted = find_condition(workload, "Evicted") or {}
    start = EVICTIONS.get(str(evicted.get("reason"))) if evicted.get("status") == "True" else None
    again = (get_status(workload).get("requeueState") or {}).get("requeueAt")
    if again and start:
        do = "wait; if it goes back again and again, its pods do not start: look at `kubectl -n {} get events`"
        return Reason(f"{start}, and is not tried again before {again}.", do.format(namespace))
    if start and needed is not None:
        return Reason(f"{start}; now: {needed.sentence[0].lower()}{needed.sentence[1:]}", needed.do)
    if start:
        return Reason(f"{start}, and waits in the queue {queue}.", _advise_wait(namespace))
    return needed or Reason(f"It is in the queue {queue}, and Kueue has not tried it yet.", _advise_wait(namespace))


def explain_quota_message(text: str, queue: str, namespace: str) -> Reason | None:
    """The reason in the message of the condition QuotaReserved; None if it says nothing of quota or queues."""
    if needed := MORE_NEEDED.findall(text):
        return _explain_more_needed(needed, text, namespace)
    if never := NEVER_FITS.findall(text):
        return _explain_never(never)
    for pattern, reason in KNOWN:
        if found := re.search(pattern, text):
            names = {name: as_phrase(value or "") for name, value in found.groupdict().items()}
            return reason.fill(queue=queue, namespace=namespace, **names)
    if not text or EVICTED_TEXT.search(text):
        return None
    return Reason(
        f"Kueue does not start it: {as_phrase(text)}.", f"kubectl -n {namespace} describe workloads shows more"
    )


EVICTED_TEXT = re.compile(r"^(Preempted to accommodate|Exceeded the PodsReady timeout|The workload is deactivated)")
"""After an eviction the condition repeats the eviction's message, until Kueue tries the Workload again."""


def _explain_more_needed(needed: list[tuple[str, str, str]], text: str, namespace: str) -> Reason:
    told = ", or ".join(dict.fromkeys(f"{more} {resource} of the flavor {flavor}" for resource, flavor, more in needed))
    if preempting := PREEMPTING.search(text):
        number = int(preempting[1])
        return Reason(
            f"It waits until {number} job{'s' * (number != 1)} of lower priority that Kueue preempts for it "
            f"{'has' if number == 1 else 'have'} stopped; it needs {told}.",
            "wait: preempted runs save a checkpoint first",
        )
    return Reason(f"It waits in the queue until {told} are free.", _advise_wait(namespace))


def _explain_never(never: list[tuple[str, str, str]]) -> Reason:
    told = ", ".join(flavor + (f" {limit}" if limit else "") for _, flavor, limit in never)
    return Reason(
        f"It can never start: it asks for more {never[0][0]} than its queue has in all ({told}).",
        "have the ClusterQueue's quota raised, or ask for less (cluster.workers, cluster.gpus_per_worker)",
        resubmit=True,
    )


def _advise_wait(namespace: str) -> str:
    return (
        "wait, or cancel it and resume it with a higher kubernetes.priority or fewer cluster.workers "
        f"(kubectl -n {namespace} get workloads shows who is before it)"
    )


KNOWN = (
    (
        r"LocalQueue (?P<name>\S*) doesn't exist",
        Reason(
            "The namespace {namespace} has no LocalQueue {name}.",
            "create it (k8s/components/kueue; the job then starts by itself), or correct kubernetes.queue",
            resubmit=True,
        ),
    ),
    (
        r"ClusterQueue (?P<name>\S*) doesn't exist",
        Reason(
            "The ClusterQueue {name}, which the LocalQueue {queue} names, does not exist.",
            "create it (k8s/components/kueue), or correct the LocalQueue; the job then starts by itself",
        ),
    ),
    (
        r"LocalQueue (?P<name>\S*) ?is (?:inactive|stopped)",
        Reason(
            "The LocalQueue {queue} is stopped or inactive.",
            "kubectl -n {namespace} describe localqueue {queue} shows why; whoever stopped it starts it again",
        ),
    ),
    (
        r"ClusterQueue (?P<name>\S*) ?is (?:inactive|stopped)",
        Reason(
            "The ClusterQueue {name} is stopped or inactive.",
            "kubectl describe clusterqueue {name} shows why: a missing flavor or check, or stopPolicy",
        ),
    ),
    (
        r"namespace doesn't match ClusterQueue selector",
        Reason(
            "The ClusterQueue does not take jobs of the namespace {namespace}.",
            "add the namespace to the ClusterQueue's namespaceSelector; the job then starts by itself",
        ),
    ),
    (
        r"resource (?P<what>ephemeral-storage) unavailable in ClusterQueue",
        Reason(
            "The ClusterQueue has no quota for {what} at all.",
            "add {what} to the ClusterQueue's coveredResources, or set kubernetes.ephemeral_storage: false",
            resubmit=True,
        ),
    ),
    (
        r"resource (?P<what>\S+) unavailable in ClusterQueue",
        Reason(
            "The ClusterQueue has no quota for {what} at all.",
            "add {what} to the ClusterQueue's coveredResources, with a quota in each flavor",
        ),
    ),
    (
        r"borrowing limit for (?P<what>\S+) in flavor (?P<flavor>\S+) exceeded",
        Reason(
            "It needs more {what} of the flavor {flavor} than its ClusterQueue may borrow.",
            "wait until runs of the same queue end, or ask for less in the run file",
        ),
    ),
    (
        r'topology "(?P<name>[^"]+)" (?:doesn\'t allow to fit any of|allows to fit only)',
        Reason(
            "There is quota, but the nodes of the topology {name} have no place for all of its pods.",
            "wait until other pods end, or ask for fewer or smaller pods (cluster.workers, kubernetes.gpu.workers)",
        ),
    ),
    (
        r"untolerated taint \{(?P<what>\S+) [^}]*\} in flavor (?P<flavor>[^,\s]+)",
        Reason(
            "The nodes of the flavor {flavor} have the taint {what}, which its pods do not tolerate.",
            "add {what} to kubernetes.gpu.tolerations in the run file, or gpu to kubernetes.overlays",
            resubmit=True,
        ),
    ),
    (
        r"flavor (?P<flavor>\S+) doesn't match node affinity",
        Reason(
            "Its pods may not run on the nodes of the flavor {flavor}.",
            "correct kubernetes.gpu.labels and kubernetes.head.labels in the run file, or the flavor's nodeLabels",
            resubmit=True,
        ),
    ),
    (
        r"LimitRange|resources? validation failed|exceed it'?s limits",
        Reason(
            "The namespace's LimitRange, or the pods' own limits, do not allow what it asks for.",
            "change what the run file asks for; kubectl -n {namespace} describe limitrange shows what is allowed",
            resubmit=True,
        ),
    ),
    (
        r"[Ww]aiting for all admitted workloads",
        Reason(
            "Kueue starts it once the pods of all jobs before it are ready.",
            "wait; kubectl -n {namespace} get pods shows which are not",
        ),
    ),
)
"""Patterns with named groups, and the reasons in which these are filled in."""
