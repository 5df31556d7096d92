"""What is read to explain why a job waits, against an API server over HTTP; the texts are in ``submit/waiting``."""

from __future__ import annotations

from medfuncta_dist.submit.backends.kubernetes.kubernetes_jobs import KubernetesJobs
from medfuncta_dist.submit.waiting.cluster_facts import Explanation
from tests.api_server import ApiServer
from tests.unit.submit.backends.kubernetes.test_kubernetes_jobs import rayjob

CLUSTER = "x-fit-1-abcde"


def start(server: ApiServer, **status: str) -> KubernetesJobs:
    """A job that KubeRay has made a cluster for."""
    jobs = KubernetesJobs()
    jobs.submit(rayjob())
    server.set_status("x-fit-1", **{"jobDeploymentStatus": "Initializing", "rayClusterName": CLUSTER, **status})
    server.put("rayclusters", CLUSTER, owner=server.cluster.get("rayjobs", "medfuncta", "x-fit-1"))
    return jobs


def add_pod(server: ApiServer, kind: str, *, phase: str = "Pending", node: str = "", message: str = "") -> str:
    """A pod of the cluster that is not ready: a head, or a worker of the group gpu."""
    name, is_head = f"{CLUSTER}-{kind}", kind == "head"
    group = {"ray.io/group": "headgroup" if is_head else "gpu", "ray.io/node-type": "head" if is_head else "worker"}
    conditions = [] if node else [{"type": "PodScheduled", "status": "False", "message": message}]
    spec = {"containers": [], **({"nodeName": node} if node else {})}
    status = {"phase": phase, "conditions": conditions}
    server.put("pods", name, labels={"ray.io/cluster": CLUSTER, **group}, spec=spec, status=status)
    return name


def explain(jobs: KubernetesJobs) -> Explanation:
    return jobs.explain(jobs.read_job("x-fit-1"))


def read_sentence(jobs: KubernetesJobs) -> str:
    reason = explain(jobs).reason
    assert reason is not None
    return reason.sentence


def test_events_are_told_of_the_jobs_own_pods_only(server: ApiServer) -> None:
    jobs = start(server)
    server.warn("x-fit-10-abcde-head", "FailedScheduling", "0/9 nodes are available: 9 Insufficient cpu.")
    assert read_sentence(jobs) == f"KubeRay is creating the pods of {CLUSTER}."
    worker = add_pod(server, "gpu-worker")
    server.warn(worker, "FailedScheduling", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    told = f"No node can take the pod {worker}: of 3 nodes, 3 have too little free nvidia.com/gpu."
    assert read_sentence(jobs) == told


def test_a_node_that_the_autoscaler_adds_is_told_from_a_normal_event(server: ApiServer) -> None:
    jobs = start(server)
    worker = add_pod(server, "gpu-worker", message="0/3 nodes are available: 3 Insufficient cpu.")
    server.warn(worker, "TriggeredScaleUp", "pod triggered scale-up: [{gpu-pool 1->2 (max: 5)}]", kind="Normal")
    assert read_sentence(jobs).endswith("3 have too little free cpu; the autoscaler is adding one.")


def test_kueues_workload_is_found_by_its_owner_and_not_by_its_name(server: ApiServer) -> None:
    jobs = KubernetesJobs()
    for name in ("x-fit-1", "y-fit-1"):
        jobs.submit(rayjob(name) | {"spec": {"suspend": True}})
        server.set_status(name, jobDeploymentStatus="Suspended")
    ours, other = (server.cluster.get("rayjobs", "medfuncta", name) for name in ("x-fit-1", "y-fit-1"))
    server.put("workloads", "rayjob-x-fit-1-aaaaa", owner=other, spec={"queueName": "other"})
    full = "insufficient unused quota for nvidia.com/gpu in flavor gpus, 4 more needed"
    condition = {"type": "QuotaReserved", "status": "False", "reason": "Pending"}
    status = {"conditions": [condition | {"message": f"couldn't assign flavors to pod set gpu: {full}"}]}
    labels = {"kueue.x-k8s.io/job-uid": ours["metadata"]["uid"]}
    server.put("workloads", "any-name", owner=ours, labels=labels, spec={"queueName": "medfuncta"}, status=status)
    assert read_sentence(jobs) == "It waits in the queue until 4 nvidia.com/gpu of the flavor gpus are free."
    server.cluster.patch("workloads", "medfuncta", "any-name", {"metadata": {"labels": None}})
    assert read_sentence(jobs) == "It waits in the queue until 4 nvidia.com/gpu of the flavor gpus are free."


def test_the_state_of_a_pods_node_is_read(server: ApiServer) -> None:
    jobs = start(server, jobDeploymentStatus="Running", jobStatus="RUNNING")
    add_pod(server, "head", phase="Running", node="n1")
    ready = {"type": "Ready", "status": "Unknown", "message": "Kubelet stopped posting node status."}
    server.put("nodes", "n1", namespace="", status={"conditions": [ready]})
    assert read_sentence(jobs).startswith(f"The node n1 of the pod {CLUSTER}-head is not ready: Kubelet stopped")


def test_what_may_not_be_read_is_said_in_one_line_and_the_rest_is_told(server: ApiServer) -> None:
    jobs = start(server)
    add_pod(server, "head", message="0/1 nodes are available: 1 Insufficient cpu.")
    server.forbidden |= {("GET", "events"), ("GET", "workloads"), ("GET", "rayclusters")}
    found = explain(jobs)
    assert "1 has too little free cpu" in read_sentence(jobs)
    assert found.unread.startswith("not read: RayClusters (not allowed), ")
    assert found.unread.count("not allowed") == 3
    assert "k8s/base/submitter.yaml" in found.unread
    server.forbidden.add(("GET", "pods"))
    assert "pods (not allowed)" in explain(jobs).unread
    server.has_kueue = False
    assert "Workloads" not in explain(jobs).unread


def test_a_job_that_runs_well_or_has_ended_well_is_not_explained(server: ApiServer) -> None:
    jobs = start(server, jobDeploymentStatus="Running", jobStatus="RUNNING")
    server.warn("x-fit-1", "FailedToCreateRayCluster", "an hour ago")
    assert explain(jobs) == Explanation()
    server.set_status("x-fit-1", jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    asked = len(server.seen)
    assert explain(jobs) == Explanation()
    assert len(server.seen) == asked + 1  # the test's own request for the job
