"""Pods with the states, conditions and events that Kubernetes gives them."""

from __future__ import annotations

from typing import Any

import pytest

from medfuncta_dist.submit.waiting.cluster_facts import Reason
from medfuncta_dist.submit.waiting.pod_reasons import explain_pod
from tests.unit.submit.waiting.objects import (
    HEAD,
    WORKER,
    make_condition,
    make_container,
    make_event,
    make_facts,
    make_pod,
)

IMAGE = "registry.example/medfuncta-dist:1"
READY = [make_condition("PodScheduled", "True"), make_condition("Ready", "True")]
UNREADY = [make_condition("PodScheduled", "True"), make_condition("Ready", "False")]


def explain(pod: dict[str, Any], *events: dict[str, Any], **known: Any) -> Reason:
    found = explain_pod(pod, make_facts(pods=[pod, *known.pop("others", [])], events=events, **known))
    assert found is not None
    return found


def waiting(reason: str, message: str = "", name: str = HEAD) -> dict[str, Any]:
    container = make_container(waiting={"reason": reason, "message": message})
    return make_pod(name, node="n1", conditions=UNREADY, containerStatuses=[container])


def ended(reason: str, code: int, message: str = "") -> dict[str, Any]:
    container = make_container(terminated={"reason": reason, "exitCode": code, "message": message})
    return make_pod(HEAD, "Failed", node="n1", conditions=UNREADY, containerStatuses=[container])


def test_the_condition_tells_why_a_pod_is_not_scheduled_and_else_the_newest_event() -> None:
    text = "0/1 nodes are available: 1 Insufficient cpu."
    condition = make_condition("PodScheduled", "False", "Unschedulable", text)
    assert "too little free cpu" in explain(make_pod(conditions=[condition])).sentence
    old = make_event(HEAD, "FailedScheduling", text, time="09:00:00")
    new = make_event(HEAD, "FailedScheduling", "0/1 nodes are available: 1 Insufficient memory.")
    reason = explain(make_pod(), old, new)
    assert "too little free memory" in reason.sentence
    assert "kubernetes.head.memory_gigabytes" in reason.do
    assert (
        "kubernetes.gpu.memory_gigabytes"
        in explain(make_pod(WORKER), make_event(WORKER, "FailedScheduling", text.replace("cpu", "memory"))).do
    )


def test_a_gated_pod_names_its_gate() -> None:
    pod = make_pod(conditions=[make_condition("PodScheduled", "False", "SchedulingGated", "Scheduling is blocked")])
    pod["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/topology"}]
    assert "(kueue.x-k8s.io/topology)" in explain(pod).sentence


def test_an_image_is_explained_by_the_runtimes_event() -> None:
    pull = make_event(HEAD, "Failed", f'Failed to pull image "{IMAGE}": rpc error: manifest unknown')
    again = make_event(HEAD, "Failed", "Error: ImagePullBackOff", time="10:01:00")
    reason = explain(waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"'), pull, again)
    assert reason.sentence == f"The image {IMAGE} cannot be pulled: the registry has no such image or tag."


@pytest.mark.parametrize(
    ("message", "told", "do"),
    [
        (
            'secret "medfuncta-salt" not found',
            f"The pod {HEAD} needs the Secret medfuncta-salt, which does not exist.",
            "kubectl -n ml create secret generic medfuncta-salt",
        ),
        ('configmap "ca" not found', "needs the ConfigMap ca, which does not exist.", "create configmap ca"),
        (
            "couldn't find key MEDFUNCTA_SALT in Secret ml/medfuncta-salt",
            f"The Secret medfuncta-salt, which the pod {HEAD} needs, has no key MEDFUNCTA_SALT.",
            "add the key",
        ),
        (
            "container has runAsNonRoot and image will run as root",
            "would run as root, which the namespace forbids",
            "cluster/Dockerfile",
        ),
        (
            "failed to prepare subPath for volumeMount",
            f"The container ray-head of the pod {HEAD} cannot be created: failed to prepare subPath",
            f"kubectl -n ml describe pod {HEAD}",
        ),
    ],
)
def test_a_container_that_cannot_be_configured(message: str, told: str, do: str) -> None:
    reason = explain(waiting("CreateContainerConfigError", message))
    assert told in reason.sentence
    assert do in reason.do


def test_a_container_killed_for_memory_names_its_limit_and_the_key() -> None:
    told = f"The container ray-head of the pod {HEAD} was killed: it used more than its memory limit of 16Gi."
    killed = explain(ended("OOMKilled", 137))
    assert (killed.sentence, killed.do) == (told, "raise kubernetes.head.memory_gigabytes in the run file")
    assert killed.resubmit
    crash = waiting("CrashLoopBackOff", "back-off 5m0s restarting failed container")
    crash["status"]["containerStatuses"][0]["lastState"] = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    assert explain(crash).sentence == told


def test_a_container_that_ends_with_an_error_names_its_exit_code_and_where_its_log_is() -> None:
    reason = explain(ended("Error", 2, "usage: ray start"))
    assert reason.sentence == f"The container ray-head of the pod {HEAD} ended with exit code 2: usage: ray start."
    assert reason.do.startswith(f"kubectl -n ml logs {HEAD} -c ray-head")


def test_an_init_container_that_fails_is_told_before_the_others() -> None:
    failed = make_container("wait-gcs-ready", terminated={"reason": "Error", "exitCode": 1})
    later = make_container("ray-worker", waiting={"reason": "PodInitializing"})
    pod = make_pod(WORKER, node="n1", conditions=UNREADY, initContainerStatuses=[failed], containerStatuses=[later])
    assert "The container wait-gcs-ready" in explain(pod).sentence


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            'MountVolume.SetUp failed for volume "ca" : configmap "hospital-ca" not found',
            "needs the configmap hospital-ca, which does not exist",
        ),
        ('persistentvolumeclaim "archive" not found', "needs the PersistentVolumeClaim archive, which does not exist"),
        (
            'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) other',
            f"A volume of the pod {HEAD} is still attached to another node.",
        ),
        (
            "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[]: timed out",
            f"A volume of the pod {HEAD} cannot be mounted: Unable to attach",
        ),
    ],
)
def test_volumes_that_cannot_be_mounted(message: str, told: str) -> None:
    assert told in explain(waiting("ContainerCreating"), make_event(HEAD, "FailedMount", message)).sentence


def test_a_pod_without_a_network_says_so() -> None:
    text = "Failed to create pod sandbox: rpc error: plugin type aws-cni failed: failed to assign an IP address to "
    "container"
    reason = explain(waiting("ContainerCreating"), make_event(HEAD, "FailedCreatePodSandBox", text))
    assert reason.sentence == f"The pod {HEAD} does not start on the node n1: the network has no address left for it."


@pytest.mark.parametrize(
    ("message", "told", "do"),
    [
        (
            "The node was low on resource: ephemeral-storage. Threshold quantity: 5Gi, available: 4Gi.",
            "evicted: the node's disk was full.",
            "cluster.cache_gigabytes",
        ),
        (
            'Usage of EmptyDir volume "cache" exceeds the limit "100Gi". ',
            "its volume cache grew beyond 100Gi.",
            "cache",
        ),
        ('Usage of EmptyDir volume "spill" exceeds the limit "5Gi". ', "beyond 5Gi.", "kubernetes.spill_gigabytes"),
        ('Usage of EmptyDir volume "ray-logs" exceeds the limit "5Gi". ', "beyond 5Gi.", "kubernetes.logs_gigabytes"),
        ("Pod ephemeral local storage usage exceeds the total limit of containers 10Gi. ", "than its limit", "scratch"),
        ("The node was low on resource: memory. Threshold quantity: 100Mi", "memory was full", "memory_gigabytes"),
    ],
)
def test_an_evicted_pod_says_what_ran_out(message: str, told: str, do: str) -> None:
    reason = explain(make_pod(HEAD, "Failed", node="n1", reason="Evicted", message=message))
    assert told in reason.sentence
    assert do in reason.do


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("PreemptionByScheduler", "made room for a pod with a higher PriorityClass"),
        ("DeletionByTaintManager", "had to leave its node"),
        ("EvictionByEvictionAPI", "was evicted, as when its node is drained"),
        ("DeletionByPodGC", "was lost with its node"),
    ],
)
def test_every_disruption_is_named(reason: str, told: str) -> None:
    condition = make_condition("DisruptionTarget", "True", reason, "default-scheduler: preempting to accommodate")
    assert told in explain(make_pod(HEAD, "Failed", node="n1", conditions=[condition])).sentence


def test_a_node_that_refuses_or_shuts_down() -> None:
    text = "Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 1, "
    "Available: 0"
    refused = explain(make_pod(WORKER, "Failed", node="n1", reason="UnexpectedAdmissionError", message=text))
    assert refused.sentence.startswith(f"The node refused the pod {WORKER}: Allocate failed")
    down = make_pod(
        HEAD, "Failed", node="n1", reason="Terminated", message="Pod was terminated in response to imminent"
    )
    assert "was shut down" in explain(down).sentence


def test_a_node_that_is_not_ready_is_told_from_the_node_and_else_from_its_event() -> None:
    pod = make_pod(HEAD, "Running", node="n1", conditions=UNREADY)
    ready = make_condition("Ready", "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
    node = {"metadata": {"name": "n1"}, "status": {"conditions": [ready]}}
    told = f"The node n1 of the pod {HEAD} is not ready: Kubelet stopped posting node status."
    assert explain(pod, nodes=[node]).sentence == told
    event = make_event(HEAD, "NodeNotReady", "Node is not ready")
    assert explain(pod, event).sentence == f"The node n1 of the pod {HEAD} is not ready: Node is not ready."


def test_a_worker_kept_from_a_ready_head_points_at_the_network_policy() -> None:
    init = make_container("wait-gcs-ready", running={})
    worker = make_pod(WORKER, node="n1", conditions=UNREADY, initContainerStatuses=[init])
    head = make_pod(HEAD, "Running", node="n2", conditions=READY)
    assert "does not reach the head, although the head is ready" in explain(worker, others=[head]).sentence
    assert explain_pod(worker, make_facts(pods=[worker, make_pod(HEAD)])) is None


def test_a_pod_that_is_not_ready_repeats_its_probe() -> None:
    pod = make_pod(HEAD, "Running", node="n1", conditions=UNREADY)
    reason = explain(pod, make_event(HEAD, "Unhealthy", "Readiness probe failed: success"))
    assert reason.sentence == f"The pod {HEAD} runs, but is not ready (Readiness probe failed: success)."


def test_a_pull_in_progress_is_no_failure() -> None:
    pulling = make_event(HEAD, "Pulling", f'Pulling image "{IMAGE}"', kind="Normal")
    assert f"is pulling the image {IMAGE}" in explain(waiting("ContainerCreating"), pulling).sentence
    pulled = make_event(HEAD, "Pulled", f'Successfully pulled image "{IMAGE}" in 3m', kind="Normal", time="10:03:00")
    pod = waiting("ContainerCreating")
    assert explain_pod(pod, make_facts(pods=[pod], events=[pulling, pulled])) is None
