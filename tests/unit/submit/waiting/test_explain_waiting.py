"""Of all that the cluster's objects tell, the one reason."""

from __future__ import annotations

from typing import Any

import pytest

from medfuncta_dist.submit.waiting.cluster_facts import Reason
from medfuncta_dist.submit.waiting.explain_waiting import explain_waiting
from tests.unit.submit.waiting.objects import (
    CLUSTER,
    HEAD,
    WORKER,
    make_cluster,
    make_condition,
    make_container,
    make_event,
    make_facts,
    make_job,
    make_pod,
    make_workload,
)

NO_CPU = make_condition("PodScheduled", "False", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu.")
READY = [make_condition("PodScheduled", "True"), make_condition("Ready", "True")]
QUEUE = {"kueue.x-k8s.io/queue-name": "medfuncta"}


def explain(**known: Any) -> Reason:
    found = explain_waiting(make_facts(**known))
    assert found is not None
    return found


def test_the_queue_holds_up_everything_after_it() -> None:
    job = make_job("Suspended", spec={"suspend": True}, labels=QUEUE)
    old = make_event("x-fit-1", "FailedToCreateRayCluster", "an hour ago")
    reason = explain(job=job, cluster=None, workloads=[make_workload()], events=[old])
    assert reason.sentence == "It is in the queue medfuncta, and Kueue has not tried it yet."


def test_a_suspended_job_without_a_workload_points_at_kueue_or_at_whoever_suspended_it() -> None:
    queued = explain(job=make_job("Suspended", spec={"suspend": True}, labels=QUEUE), cluster=None)
    assert queued.sentence == "It names the queue medfuncta, and Kueue has made no Workload for it."
    assert "ray.io/rayjob" in queued.do
    by_hand = explain(job=make_job("Suspended", spec={"suspend": True}), cluster=None)
    assert "suspended it by hand" in by_hand.sentence
    assert by_hand.do == """kubectl -n ml patch rayjob x-fit-1 --type merge -p '{"spec":{"suspend":false}}'"""
    admitted = make_workload(make_condition("Admitted", "True"))
    starts = explain(
        job=make_job("Suspended", spec={"suspend": True}, labels=QUEUE), workloads=[admitted], cluster=None
    )
    assert "is about to start it" in starts.sentence


QUOTA = 'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=20, limited: pods=20'


@pytest.mark.parametrize(
    "known",
    [
        {"cluster": make_cluster(conditions=[make_condition("ReplicaFailure", "True", "FailedCreateHeadPod", QUOTA)])},
        {"cluster": make_cluster(state="failed", reason=QUOTA)},
        {"events": [make_event(CLUSTER, "FailedToCreateHeadPod", f"Failed to create head Pod ml/x-head-, {QUOTA}")]},
        {"cluster": None, "events": [make_event("x-fit-1", "FailedToCreateRayCluster", f"Failed to create: {QUOTA}")]},
    ],
    ids=["condition", "status", "event of the cluster", "event of the job"],
)
def test_a_refusal_is_found_wherever_kuberay_writes_it(known: dict[str, Any]) -> None:
    told = "The ResourceQuota q does not allow another pod: 1 pods requested, 20 of 20 used."
    assert explain(**known).sentence == told


def test_an_old_refusal_does_not_count_once_there_are_pods() -> None:
    event = make_event(CLUSTER, "FailedToCreateHeadPod", QUOTA)
    assert "too little free cpu" in explain(events=[event], pods=[make_pod(conditions=[NO_CPU])]).sentence


def test_the_head_is_told_first_and_the_others_are_counted() -> None:
    pods = [make_pod(f"{WORKER}{n}", conditions=[NO_CPU]) for n in range(3)] + [make_pod(HEAD, conditions=[NO_CPU])]
    reason = explain(pods=pods)
    assert reason.sentence.startswith(f"No node can take the pod {HEAD}: ")
    assert reason.sentence.endswith(" (3 more pods not ready).")
    assert reason.resubmit


def test_a_running_job_tells_only_of_pods_that_are_not_ready_now() -> None:
    job = make_job("Running", status={"jobStatus": "RUNNING"})
    old = make_event("x-fit-1", "FailedToCreateRayCluster", "an hour ago")
    ready = make_pod(HEAD, "Running", node="n", conditions=READY)
    assert explain_waiting(make_facts(job=job, pods=[ready], events=[old])) is None
    late = make_pod(WORKER, conditions=[NO_CPU])
    assert WORKER in explain(job=job, pods=[ready, late]).sentence


def test_a_failed_job_tells_what_its_pods_still_show_and_nothing_else() -> None:
    job = make_job("Failed", status={"reason": "AppFailed"})
    killed = make_container(terminated={"reason": "OOMKilled", "exitCode": 137})
    assert (
        "memory limit"
        in explain(job=job, pods=[make_pod(HEAD, "Failed", node="n", containerStatuses=[killed])]).sentence
    )
    assert explain_waiting(make_facts(job=job, events=[make_event("x-fit-1", "Any", "thing")])) is None


@pytest.mark.parametrize(
    ("known", "told", "do"),
    [
        ({"job": make_job(""), "cluster": None}, "KubeRay has not taken the job up yet.", "kuberay-operator"),
        ({"cluster": None}, "KubeRay is creating its Ray cluster.", "wait"),
        ({}, f"KubeRay is creating the pods of {CLUSTER}.", "wait"),
        ({"job": make_job("Suspending")}, "The job is suspended, and its pods are being removed.", "wait"),
        (
            {"job": make_job("Retrying", status={"failed": 1}, spec={"backoffLimit": 3})},
            "Its Ray cluster failed (failure 1 of 4 allowed), and KubeRay is creating another.",
            "wait",
        ),
        (
            {"pods": [make_pod(HEAD, "Running", node="n", conditions=READY)]},
            "Its pods are ready, and KubeRay is handing the job to the dashboard of the head.",
            "operator-to-head",
        ),
        (
            {
                "job": make_job("Running", status={"jobStatus": "PENDING"}),
                "pods": [make_pod(HEAD, "Running", node="n", conditions=READY)],
            },
            "Its pods are ready, and KubeRay is handing the job to the dashboard of the head.",
            "8265",
        ),
    ],
)
def test_otherwise_it_is_told_how_far_kuberay_is(known: dict[str, Any], told: str, do: str) -> None:
    reason = explain(**known)
    assert reason.sentence == told
    assert do in reason.do


def test_a_warning_that_nothing_else_explains_is_repeated_and_fleeting_ones_are_not() -> None:
    odd = make_event("x-fit-1", "InvalidRayJobSpec", "The RayJob spec is invalid x: suspend with backoffLimit")
    assert explain(events=[odd]).sentence == (
        "The cluster says: InvalidRayJobSpec: The RayJob spec is invalid x: suspend with backoffLimit."
    )
    fleeting = make_event(CLUSTER, "Unhealthy", "Readiness probe failed")
    assert "is creating the pods" in explain(events=[fleeting]).sentence
