"""Reads what explains why a job waits: the objects around its RayJob. What may not be read is left out, and said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from kubernetes import client
from kubernetes.client import ApiException

from medfuncta_dist.errors import ClusterError, JobMissingError
from medfuncta_dist.submit.backends.kubernetes.kubernetes_api import REQUEST_TIMEOUT_S, call_api
from medfuncta_dist.submit.waiting.cluster_facts import ClusterFacts, Thing, get_name, get_status
from medfuncta_dist.submit.waiting.explain_waiting import list_troubled_pods

T = TypeVar("T")

KUEUE = ("kueue.x-k8s.io", "v1beta2")
RAY = ("ray.io", "v1")
JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"
"""With which Kueue labels a Workload. It may change: where it finds nothing, all Workloads are looked through."""
DEADLINE_S = 5.0
"""For one of these reads with its retries: they only explain, and a user is waiting."""
NOT_FOUND = 404
"""Also the answer to a kind that the cluster does not have, as without Kueue."""
UNREAD = {401: "not logged in", 403: "not allowed"}
MOST_PODS = 3
"""Pods of which all events are read, and whose nodes: they nearly always wait for the same thing."""


class ClusterReader:
    """One look at the cluster. ``describe_unread`` says afterwards what could not be read."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._namespace = namespace
        self._core, self._custom = client.CoreV1Api(api), client.CustomObjectsApi(api)
        self._unread: dict[str, str] = {}

    def read_facts(self, job: Thing) -> ClusterFacts:
        """The objects of a RayJob, in a few small reads."""
        cluster = self._read_cluster(job)
        pods = self._list_pods(cluster)
        troubled = list_troubled_pods(pods)[:MOST_PODS]
        return ClusterFacts(
            job=job,
            cluster=cluster,
            workloads=self._list_workloads(job),
            pods=pods,
            events=self._list_events(troubled),
            nodes=self._read_nodes(troubled),
        )

    def describe_unread(self) -> str:
        """One line about what could not be read, and why; empty if all could."""
        if not self._unread:
            return ""
        told = ", ".join(f"{kind} ({why})" for kind, why in self._unread.items())
        return f"not read: {told}; so the reason may be another (permissions: k8s/base/submitter.yaml)"

    def _read_cluster(self, job: Thing) -> Thing | None:
        name = get_status(job).get("rayClusterName")
        if not name:
            return None
        get = partial(self._custom.get_namespaced_custom_object, *RAY, self._namespace, "rayclusters", name)
        found: Any = self._try("RayClusters", lambda: get(_request_timeout=REQUEST_TIMEOUT_S), None)
        if found is None and "RayClusters" in self._unread:
            return {"metadata": {"name": name}}  # its name is enough to find its pods
        return dict(found) if found is not None else None

    def _list_pods(self, cluster: Thing | None) -> list[Thing]:
        if cluster is None:
            return []
        selector = f"ray.io/cluster={get_name(cluster)}"
        return self._list("pods", self._core.list_namespaced_pod, label_selector=selector)

    def _list_workloads(self, job: Thing) -> list[Thing]:
        """The Workloads that the RayJob owns, whatever their names."""
        uid = job.get("metadata", {}).get("uid", "")
        found = self._list_all_workloads(label_selector=f"{JOB_UID_LABEL}={uid}")
        if not found and (job.get("spec") or {}).get("suspend"):
            found = self._list_all_workloads()
        return [workload for workload in found if _is_owned(workload, uid)]

    def _list_all_workloads(self, label_selector: str | None = None) -> list[Thing]:
        read = partial(self._custom.list_namespaced_custom_object, *KUEUE, self._namespace, "workloads")
        request: Callable[[], Any] = partial(read, label_selector=label_selector, _request_timeout=REQUEST_TIMEOUT_S)
        answer: Any = self._try("Workloads", request, {})
        return list(answer.get("items", ()))

    def _list_events(self, pods: Sequence[Thing]) -> list[Thing]:
        """Warnings of the namespace, and all events about these pods: pulls and added nodes are Normal ones."""
        read = self._core.list_namespaced_event
        found = self._list("events", read, field_selector="type=Warning")
        for pod in pods if "events" not in self._unread else ():
            found += self._list("events", read, field_selector=f"type=Normal,involvedObject.name={get_name(pod)}")
        return found

    def _read_nodes(self, pods: Sequence[Thing]) -> list[Thing]:
        """The nodes of pods that were running there."""
        names = {pod["spec"].get("nodeName") for pod in pods if get_status(pod).get("phase") in ("Running", "Unknown")}
        reads = (partial(self._core.read_node, name, _preload_content=False) for name in sorted(filter(None, names)))
        nodes: list[Thing | None] = [self._try("nodes", partial(_read_json, read), None) for read in reads]
        return [node for node in nodes if node is not None]

    def _list(self, kind: str, read: Callable[..., Any], **wanted: str) -> list[Thing]:
        request = partial(read, self._namespace, _preload_content=False, **wanted)
        answer: Mapping[str, Any] = self._try(kind, partial(_read_json, request), {})
        return list(answer.get("items", ()))

    def _try(self, kind: str, request: Callable[[], T], otherwise: T) -> T:
        """The answer to a request; ``otherwise``, if the object or its kind is not there, or may not be read."""
        try:
            return call_api(request, where=kind, deadline_s=DEADLINE_S)
        except JobMissingError:
            return otherwise
        except (ApiException, ClusterError) as error:
            if (status := _get_http_status(error)) != NOT_FOUND:
                self._unread[kind] = UNREAD.get(status, f"answered {status}" if status else "no answer")
        return otherwise


def _get_http_status(error: Exception) -> int:
    """The status of the API server's answer; 0 if there was none."""
    found = error if isinstance(error, ApiException) else error.__cause__
    return int(getattr(found, "status", None) or 0)


def _read_json(request: Callable[..., Any]) -> Any:
    """The answer as the API server gives it: the client's classes would rename its fields."""
    return json.loads(request(_request_timeout=REQUEST_TIMEOUT_S).data)


def _is_owned(thing: Thing, uid: str) -> bool:
    owners = thing.get("metadata", {}).get("ownerReferences") or ()
    return any(owner.get("uid") == uid for owner in owners)
