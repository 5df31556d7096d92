"""The conditions of Kueue's Workloads, of several versions of Kueue."""

from __future__ import annotations

from typing import Any

import pytest

from medfuncta_dist.submit.waiting.queue_reasons import explain_quota_message, explain_workload
from tests.unit.submit.waiting.objects import make_condition, make_workload

POD_SET = "couldn't assign flavors to pod set gpu: "
QUOTA_TEXTS = [
    (
        POD_SET + "insufficient unused quota for nvidia.com/gpu in flavor gpus, 4 more needed",
        "It waits in the queue until 4 nvidia.com/gpu of the flavor gpus are free.",
        "kubernetes.priority",
    ),
    (
        POD_SET + "insufficient quota for nvidia.com/gpu in flavor cpus, previously considered podsets requests (0) + "
        "current podset request (8) > maximum capacity (0), insufficient unused quota for nvidia.com/gpu in flavor "
        "gpus, "
        "4 more needed",
        "It waits in the queue until 4 nvidia.com/gpu of the flavor gpus are free.",
        "wait",
    ),
    (
        POD_SET + "insufficient unused quota in cohort for cpu in flavor on-demand, 20 more needed, insufficient "
        "unused "
        "quota for cpu in flavor spot, 100m more needed. Pending the preemption of 2 workload(s)",
        "It waits until 2 jobs of lower priority that Kueue preempts for it have stopped; it needs 20 cpu of the "
        "flavor "
        "on-demand, or 100m cpu of the flavor spot.",
        "checkpoint",
    ),
    (
        POD_SET + "insufficient quota for nvidia.com/gpu in flavor cpus, previously considered podsets requests (0) + "
        "current podset request (64) > maximum capacity (0), insufficient quota for nvidia.com/gpu in flavor gpus, "
        "previously considered podsets requests (0) + current podset request (64) > maximum capacity (32)",
        "It can never start: it asks for more nvidia.com/gpu than its queue has in all (cpus 0, gpus 32).",
        "cluster.gpus_per_worker",
    ),
    (
        POD_SET + "insufficient quota for nvidia.com/gpu in flavor a100, request > maximum capacity (24 > 16)",
        "It can never start: it asks for more nvidia.com/gpu than its queue has in all (a100 16).",
        "quota raised",
    ),
    (
        POD_SET + "insufficient quota for cpu in flavor default-flavor in ClusterQueue",
        "It can never start: it asks for more cpu than its queue has in all (default-flavor).",
        "quota raised",
    ),
    (
        POD_SET + "resource memory unavailable in ClusterQueue",
        "The ClusterQueue has no quota for memory at all.",
        "coveredResources",
    ),
    (
        POD_SET + "resource ephemeral-storage unavailable in ClusterQueue",
        "The ClusterQueue has no quota for ephemeral-storage at all.",
        "kubernetes.ephemeral_storage: false",
    ),
    (
        POD_SET + "borrowing limit for nvidia.com/gpu in flavor ml.g5.8xlarge exceeded",
        "It needs more nvidia.com/gpu of the flavor ml.g5.8xlarge than its ClusterQueue may borrow.",
        "wait",
    ),
    (
        POD_SET + 'topology "default" doesn\'t allow to fit any of 8 pod(s). Total nodes: 8; excluded: resource '
        '"nvidia.com/gpu": 5',
        "There is quota, but the nodes of the topology default have no place for all of its pods.",
        "kubernetes.gpu.workers",
    ),
    (
        POD_SET + 'topology "default" allows to fit only 2 out of 8 pod(s)',
        "There is quota, but the nodes of the topology default have no place",
        "wait",
    ),
    (
        POD_SET + "untolerated taint {nvidia.com/gpu present NoSchedule <nil>} in flavor gpus",
        "The nodes of the flavor gpus have the taint nvidia.com/gpu, which its pods do not tolerate.",
        "kubernetes.gpu.tolerations",
    ),
    (
        POD_SET + "flavor gpus doesn't match node affinity",
        "Its pods may not run on the nodes of the flavor gpus.",
        "nodeLabels",
    ),
    ("LocalQueue medfuncta doesn't exist", "The namespace ml has no LocalQueue medfuncta.", "k8s/components/kueue"),
    ("LocalQueue medfuncta is inactive", "The LocalQueue medfuncta is stopped or inactive.", "describe localqueue"),
    ("ClusterQueue ml-all doesn't exist", "The ClusterQueue ml-all, which the LocalQueue medfuncta names", "create it"),
    (
        "ClusterQueue ml-all is inactive",
        "The ClusterQueue ml-all is stopped or inactive.",
        "describe clusterqueue ml-all",
    ),
    (
        "Workload namespace doesn't match ClusterQueue selector",
        "The ClusterQueue does not take jobs of the namespace ml.",
        "namespaceSelector",
    ),
    (
        "didn't satisfy LimitRange constraints: spec.podSets[0]: Invalid value",
        "The namespace's LimitRange, or the pods' own limits, do not allow",
        "describe limitrange",
    ),
    (
        "Waiting for all admitted workloads to be in the PodsReady condition",
        "Kueue starts it once the pods of all jobs before it are ready.",
        "get pods",
    ),
    (
        "Workload didn't fit in the remaining quota",
        "Kueue does not start it: Workload didn't fit",
        "describe workloads",
    ),
]


@pytest.mark.parametrize(("text", "told", "do"), QUOTA_TEXTS)
@pytest.mark.parametrize("reason", ["Pending", "Inadmissible", "WaitingForQuota"])
def test_what_a_workload_waits_for(text: str, told: str, do: str, reason: str) -> None:
    found = explain_workload(make_workload(make_condition("QuotaReserved", "False", reason, text)), "ml")
    assert found is not None
    assert found.sentence.startswith(told)
    assert do in found.do


def explain(*conditions: dict[str, Any], **status: Any) -> tuple[str, str]:
    found = explain_workload(make_workload(*conditions, **status), "ml")
    assert found is not None
    return found.sentence, found.do


PREEMPTED = (
    "Preempted to accommodate a workload (UID: 9f54, JobUID: a20d) due to prioritization in the ClusterQueue; "
    "preemptor "
    "path: /a; preemptee path: /a"
)


def test_a_preempted_job_says_so_and_what_it_needs_now() -> None:
    text = POD_SET + "insufficient unused quota for nvidia.com/gpu in flavor gpus, 8 more needed"
    evicted = make_condition("Evicted", "True", "Preempted", PREEMPTED)
    assert explain(make_condition("QuotaReserved", "False", "Pending", text), evicted)[0] == (
        "It was preempted to make room for another job; now: it waits in the queue until 8 nvidia.com/gpu of the "
        "flavor "
        "gpus are free."
    )
    just_now = explain(make_condition("QuotaReserved", "False", "Pending", PREEMPTED), evicted)
    assert just_now[0] == "It was preempted to make room for another job, and waits in the queue medfuncta."
    assert explain_quota_message(PREEMPTED, "medfuncta", "ml") is None


def test_a_job_whose_pods_were_late_says_when_it_is_tried_again() -> None:
    text = "Exceeded the PodsReady timeout ml/rayjob-x-fit-1-1a2b3"
    told, do = explain(
        make_condition("QuotaReserved", "False", "Pending", text),
        make_condition("Evicted", "True", "PodsReadyTimeout", text),
        requeueState={"count": 2, "requeueAt": "2026-11-28T10:04:00Z"},
    )
    assert "its pods were not ready in time" in told
    assert "2026-11-28T10:04:00Z" in told
    assert "kubectl -n ml get events" in do


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("DeactivatedDueToRequeuingLimitExceeded", "its pods were not ready in time, too often"),
        ("DeactivatedDueToAdmissionCheck", "an admission check rejected it"),
        ("DeactivatedDueToMaximumExecutionTimeExceeded", "it ran for longer than kubernetes.max_hours"),
        ("Deactivated", "somebody did it by hand"),
    ],
)
def test_a_deactivated_workload_says_why_and_how_it_is_activated(reason: str, told: str) -> None:
    found, do = explain(make_condition("Evicted", "True", reason, "The workload is deactivated"), active=False)
    assert told in found
    assert """kubectl -n ml patch workload rayjob-x-fit-1-1a2b3 --type merge -p '{"spec":{"active":true}}'""" in do


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("Pending", "It has its quota, and waits for Kueue's admission check provisioning: Waiting for nodes."),
        ("Retry", "Kueue's admission check provisioning has failed, and is tried again: Waiting for nodes."),
        ("Rejected", "Kueue's admission check provisioning has rejected it: Waiting for nodes."),
    ],
)
def test_an_admission_check_is_named_with_its_message(state: str, told: str) -> None:
    checks = [
        {"name": "other", "state": "Ready"},
        {"name": "provisioning", "state": state, "message": "Waiting for nodes."},
    ]
    reserved = make_condition("QuotaReserved", "True", "QuotaReserved", "Quota reserved in ClusterQueue medfuncta")
    assert explain(reserved, admissionChecks=checks)[0] == told


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("ClusterQueueStopped", "It was stopped with its ClusterQueue"),
        ("LocalQueueStopped", "It was stopped with its LocalQueue"),
        ("NodeFailures", "because its nodes failed"),
        ("AdmissionCheck", "took its agreement back"),
    ],
)
def test_every_eviction_is_named(reason: str, told: str) -> None:
    assert told in explain(make_condition("Evicted", "True", reason, "x"))[0]


def test_a_new_workload_and_an_admitted_one() -> None:
    assert explain()[0] == "It is in the queue medfuncta, and Kueue has not tried it yet."
    assert explain_workload(make_workload(make_condition("Admitted", "True")), "ml") is None
    assert explain_workload(make_workload(make_condition("Finished", "True")), "ml") is None
