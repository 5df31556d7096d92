"""Objects as the API server gives them, in the fields that explain why a job waits."""

from __future__ import annotations

from typing import Any

from medfuncta_dist.submit.waiting.cluster_facts import ClusterFacts

Object = dict[str, Any]
CLUSTER = "x-fit-1-abcde"
HEAD, WORKER = f"{CLUSTER}-head", f"{CLUSTER}-gpu-worker-qwert"


def make_job(deployment: str = "Initializing", **parts: Any) -> Object:
    """A RayJob; ``status`` and ``spec`` are added to what it has."""
    status = {"jobDeploymentStatus": deployment, "rayClusterName": CLUSTER, **parts.pop("status", {})}
    meta = {"name": "x-fit-1", "namespace": "ml", "uid": "u-job", "labels": parts.pop("labels", {})}
    return {"metadata": meta, "spec": parts.pop("spec", {}), "status": status}


def make_cluster(**status: Any) -> Object:
    """A RayCluster."""
    return {"metadata": {"name": CLUSTER, "uid": "u-cluster"}, "status": status}


def make_pod(name: str = HEAD, phase: str = "Pending", *, node: str = "", **status: Any) -> Object:
    """A pod of the cluster. ``status`` is added to its phase."""
    is_head = name == HEAD
    labels = {"ray.io/node-type": "head" if is_head else "worker", "ray.io/group": "headgroup" if is_head else "gpu"}
    container = {"name": "ray-head" if is_head else "ray-worker", "resources": {"limits": {"memory": "16Gi"}}}
    spec: Object = {
        "containers": [container],
        "serviceAccountName": "medfuncta",
        **({"nodeName": node} if node else {}),
    }
    return {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"phase": phase, **status}}


def make_condition(kind: str, status: str, reason: str = "", message: str = "") -> Object:
    """A condition."""
    return {"type": kind, "status": status, "reason": reason, "message": message}


def make_container(name: str = "ray-head", image: str = "registry.example/medfuncta-dist:1", **state: Any) -> Object:
    """A container's status: ``waiting={"reason": …}``, ``terminated={…}``, ``running={}``."""
    return {"name": name, "image": image, "state": state}


def make_event(about: str, reason: str, message: str, *, kind: str = "Warning", time: str = "10:00:00") -> Object:
    """An event of that day."""
    moment = f"2026-11-28T{time}Z"
    return {
        "involvedObject": {"name": about},
        "type": kind,
        "reason": reason,
        "message": message,
        "lastTimestamp": moment,
    }


def make_workload(*conditions: Object, **status: Any) -> Object:
    """Kueue's Workload of the job, in the queue ``medfuncta``."""
    spec = {"queueName": "medfuncta", "active": status.pop("active", True)}
    meta = {"name": "rayjob-x-fit-1-1a2b3", "ownerReferences": [{"uid": "u-job"}]}
    return {"metadata": meta, "spec": spec, "status": {"conditions": list(conditions), **status}}


def make_facts(deployment: str = "Initializing", **known: Any) -> ClusterFacts:
    """The facts of a job in this state, with a RayCluster unless ``cluster`` says otherwise."""
    job = known.pop("job", None) or make_job(deployment)
    return ClusterFacts(job=job, cluster=known.pop("cluster", make_cluster()), **known)
