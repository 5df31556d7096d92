"""Why a job does not run: the one reason among all that the cluster's objects tell. Pure.

The order is that in which a job starts: the queue, the creation of its pods, the pods, the hand-over to the head. What
comes first holds up everything after it.
"""

from __future__ import annotations

from dataclasses import replace

from medfuncta_dist.submit.waiting.cluster_facts import ClusterFacts, Reason, Thing, as_phrase, get_name, get_status
from medfuncta_dist.submit.waiting.pod_reasons import explain_pod, is_head, is_ready
from medfuncta_dist.submit.waiting.rayjob_reasons import (
    explain_creation,
    explain_queue,
    explain_rayjob,
    get_deployment_status,
)

RUNNING = ("Running",)
OVER = ("Complete", "Failed", "ValidationFailed")
FLEETING = ("Unhealthy", "FailedGetResourceMetric", "BackOff", "DNSConfigForming")
"""Warnings that come and go while pods start, and explain nothing by themselves."""


def explain_waiting(facts: ClusterFacts) -> Reason | None:
    """Why the job waits, or ended; None if nothing that was read holds it up."""
    deployment = get_deployment_status(facts)
    if deployment in OVER:
        return _explain_end(facts)
    if deployment in RUNNING and get_status(facts.job).get("jobStatus") == "RUNNING":
        return _explain_pods(facts)
    return (
        explain_queue(facts)
        or explain_creation(facts)
        or _explain_pods(facts)
        or _explain_warning(facts)
        or explain_rayjob(facts)
    )


def list_troubled_pods(pods: list[Thing]) -> list[Thing]:
    """The pods that are not ready and have not succeeded, the head first."""
    found = [pod for pod in pods if not is_ready(pod) and get_status(pod).get("phase") != "Succeeded"]
    return sorted(found, key=lambda pod: (not is_head(pod), get_name(pod)))


def _explain_pods(facts: ClusterFacts) -> Reason | None:
    """The first pod that tells a reason; a number of further ones that wait is added."""
    troubled = list_troubled_pods(list(facts.pods))
    reasons = ((pod, explain_pod(pod, facts)) for pod in troubled)
    found = next((reason for _, reason in reasons if reason is not None), None)
    if found is None or len(troubled) == 1:
        return found
    others = len(troubled) - 1
    return replace(found, sentence=f"{found.sentence[:-1]} ({others} more pod{'s' * (others != 1)} not ready).")


def _explain_end(facts: ClusterFacts) -> Reason | None:
    """Of a job that has ended, what its pods still say about why: killed for memory, evicted."""
    failed = [pod for pod in facts.pods if get_status(pod).get("phase") != "Succeeded" and not is_ready(pod)]
    found = (explain_pod(pod, facts) for pod in list_troubled_pods(failed))
    return next((reason for reason in found if reason is not None), None)


def _explain_warning(facts: ClusterFacts) -> Reason | None:
    """The newest warning about the job or its cluster that no other rule explains, in the cluster's own words."""
    about = [thing for thing in (facts.job, facts.cluster) if thing is not None]
    events = [event for thing in about for event in facts.list_events(thing) if event.get("type") == "Warning"]
    telling = [event for event in events if event.get("reason") not in FLEETING]
    if not telling:
        return None
    text = f"{telling[0].get('reason')}: {as_phrase(str(telling[0].get('message', '')))}"
    return Reason(f"The cluster says: {text}.", f"kubectl -n {facts.namespace} describe rayjob {facts.name} shows more")
