"""The scheduler's texts, of several versions of Kubernetes."""

from __future__ import annotations

import pytest

from medfuncta_dist.submit.waiting.cluster_facts import Reason
from medfuncta_dist.submit.waiting.scheduling_reasons import PodPlace, explain_autoscaler, explain_scheduling

GPU_POD = PodPlace("p", "kubernetes.gpu", "ml")
TEXTS = [
    (
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available: 1 No preemption "
        "victims found for incoming pod..",
        "of 1 node, 1 has too little free nvidia.com/gpu",
        "cluster.gpus_per_worker",
    ),
    (
        "0/5 nodes are available: 1 Insufficient memory, 4 Insufficient cpu.",
        "of 5 nodes, 1 has too little free memory, 4 have too little free cpu",
        "kubernetes.gpu.memory_gigabytes",
    ),
    (
        "0/4 nodes are available: 4 Insufficient ephemeral-storage. no new claims to deallocate, preemption: 0/4 nodes "
        "are available: 4 Preemption is not helpful for scheduling.",
        "of 4 nodes, 4 have too little free ephemeral-storage",
        "cluster.cache_gigabytes",
    ),
    (
        "0/6 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 2 node(s) "
        "had untolerated taint {dedicated: infra}, 3 Insufficient nvidia.com/gpu. preemption: not helpful",
        "of 6 nodes, 1 has the taint node-role.kubernetes.io/control-plane, which keeps jobs away, 2 have the taint "
        "dedicated=infra, which it does not tolerate, 3 have too little free nvidia.com/gpu",
        "add dedicated=infra to kubernetes.gpu.tolerations",
    ),
    (
        "0/2 nodes are available: 2 node(s) had untolerated taint {nvidia.com/gpu: present}.",
        "of 2 nodes, 2 have the taint nvidia.com/gpu=present, which it does not tolerate",
        "add gpu to kubernetes.overlays",
    ),
    (
        "0/4 nodes are available: 1 node(s) had volume node affinity conflict, 3 node(s) had taint "
        "{eks.amazonaws.com/compute-type: fargate}, that the pod didn't tolerate.",
        "of 4 nodes, 1 has no access to its volume, which is in another zone or on another node, 3 have the taint "
        "eks.amazonaws.com/compute-type=fargate",
        "get pvc",
    ),
    (
        "0/1 nodes are available: 1 node(s) had untolerated taint(s). no new claims to deallocate, preemption: none",
        "of 1 node, 1 has a taint that it does not tolerate",
        "kubectl describe nodes",
    ),
    (
        "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }. preemption: 0/1 "
        "nodes are available: 1 Preemption is not helpful for scheduling.",
        "of 1 node, 1 has the taint node.kubernetes.io/unreachable, a sign that it is not well",
        "wait until the nodes are ready",
    ),
    (
        "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
        "of 3 nodes, 3 have other labels than it asks for",
        "compare kubernetes.gpu.labels",
    ),
    (
        "0/3 nodes are available: 3 pod has unbound immediate PersistentVolumeClaims. preemption: 0/3 nodes are "
        "available",
        "of 3 nodes, 3 have a PersistentVolumeClaim that no volume is bound to",
        "kubectl -n ml get pvc",
    ),
    (
        "pod has unbound immediate PersistentVolumeClaims",
        "pod has unbound immediate PersistentVolumeClaims",
        "kubectl -n ml get pvc",
    ),
    (
        'persistentvolumeclaim "archive" not found',
        'persistentvolumeclaim "archive" not found',
        "kubernetes.claims",
    ),
    (
        "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were "
        "unschedulable.",
        "of 2 nodes, 1 has no place left by topologySpreadConstraints, 1 has been cordoned",
        "kubectl -n ml describe pod p",
    ),
    (
        "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.",
        "of 2 nodes, 2 have pods beside which it must not run",
        "describe pod p",
    ),
    (
        "0/6 nodes are available: 3 Insufficient cpu, 3 node(s) had disk pressure",
        "of 6 nodes, 3 have too little free cpu, 3 have no disk or memory to spare",
        "cluster.cpus_per_worker",
    ),
    (
        "0/9 nodes are available: 9 Too many pods.",
        "of 9 nodes, 9 have as many pods as they can have",
        "cluster.workers",
    ),
    ("no nodes available to schedule pods", "no nodes available to schedule pods", "describe pod p"),
]


@pytest.mark.parametrize(("text", "told", "do"), TEXTS)
def test_each_obstacle_is_told_with_its_number_of_nodes(text: str, told: str, do: str) -> None:
    reason = explain_scheduling(text, GPU_POD)
    assert reason.sentence.startswith(f"No node can take the pod p: {told}")
    assert do in reason.do


def test_where_some_nodes_are_full_and_a_taint_keeps_others_away_both_ways_are_told() -> None:
    text = "0/4 nodes are available: 1 node(s) had untolerated taint {dedicated: ml}, 3 Insufficient nvidia.com/gpu."
    do = explain_scheduling(text, GPU_POD).do
    assert do.startswith("wait until other pods end")
    assert do.endswith("add dedicated=ml to kubernetes.gpu.tolerations in the run file")


def test_the_head_has_keys_of_its_own() -> None:
    head = PodPlace("p", "kubernetes.head", "ml")
    assert "kubernetes.head.cpus" in explain_scheduling("0/1 nodes are available: 1 Insufficient cpu.", head).do


NO_ROOM = explain_scheduling("0/2 nodes are available: 2 Insufficient nvidia.com/gpu.", GPU_POD)


def test_an_autoscaler_that_adds_a_node_is_waited_for() -> None:
    events = [("TriggeredScaleUp", "pod triggered scale-up: [{gpu 1->2 (max: 5)}]"), ("NotTriggerScaleUp", "old")]
    reason = explain_autoscaler(NO_ROOM, events)
    assert reason.sentence.endswith("too little free nvidia.com/gpu; the autoscaler is adding one.")
    assert (reason.do, reason.resubmit) == ("wait until the new node is ready", False)
    assert (
        "adding one" in explain_autoscaler(NO_ROOM, [("Nominated", "Pod should schedule on: nodeclaim/gpu-x")]).sentence
    )


def test_an_autoscaler_that_adds_none_is_told_with_its_reason() -> None:
    text = "pod didn't trigger scale-up: 1 max node group size reached, 2 node(s) didn't match Pod's node "
    "affinity/selector"
    reason = explain_autoscaler(NO_ROOM, [("NotTriggerScaleUp", text)])
    assert "; the autoscaler adds none (1 max node group size reached, 2 node(s) didn't match" in reason.sentence
    assert reason.do.startswith("raise the node group's maximum size")
    other = explain_autoscaler(NO_ROOM, [("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 Insufficient cpu")])
    assert other.do == NO_ROOM.do


def test_without_an_autoscaler_the_reason_stays() -> None:
    assert explain_autoscaler(NO_ROOM, []) == NO_ROOM
    assert isinstance(NO_ROOM, Reason)
