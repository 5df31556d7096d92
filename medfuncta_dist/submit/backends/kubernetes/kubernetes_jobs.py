"""The ``kubernetes`` backend: jobs are RayJobs of KubeRay, through the official client."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import Any, Self

from kubernetes import client
from kubernetes.client import ApiException

from medfuncta_dist.errors import ClusterError, JobMissingError
from medfuncta_dist.submit.backends.backend import BackendOptions, Job, JobState, LogLine, require_same_submission
from medfuncta_dist.submit.backends.kubernetes.cluster_reader import ClusterReader
from medfuncta_dist.submit.backends.kubernetes.kubernetes_api import (
    REQUEST_TIMEOUT_S,
    call_api,
    connect,
    explain_api_error,
)
from medfuncta_dist.submit.backends.kubernetes.kubernetes_watch import watch_object
from medfuncta_dist.submit.backends.kubernetes.pod_logs import read_pod_log
from medfuncta_dist.submit.backends.kubernetes.rayjob_state import to_job
from medfuncta_dist.submit.manifest.job_names import RUN_LABEL, make_label_selector
from medfuncta_dist.submit.rules.validate_manifest import require_valid
from medfuncta_dist.submit.waiting.cluster_facts import Explanation
from medfuncta_dist.submit.waiting.explain_waiting import explain_waiting

GROUP_VERSION = ("ray.io", "v1")
PLURAL = "rayjobs"
POLL_S = 3.0
UNEXPLAINED = (JobState.DONE, JobState.CANCELLED, JobState.STOPPING)
"""States of which nobody asks why."""


class KubernetesJobs:
    """A ``Backend``. Without ``namespace``: the kubeconfig's, or inside a cluster the pod's own."""

    name = "kubernetes"
    runs_workflows = True

    def __init__(self, namespace: str | None = None, *, context: str | None = None) -> None:
        self._given_namespace = namespace
        self._context = context

    @classmethod
    def from_options(cls, options: BackendOptions) -> Self:
        """The cluster of ``options.context``, and the namespace of the same name."""
        return cls(options.namespace, context=options.context)

    @cached_property
    def _connection(self) -> tuple[client.ApiClient, str]:
        api, namespace = connect(self._context)
        return api, self._given_namespace or namespace

    @cached_property
    def _rayjobs(self) -> Any:
        return client.CustomObjectsApi(self._connection[0])

    @cached_property
    def _core(self) -> Any:
        return client.CoreV1Api(self._connection[0])

    @property
    def namespace(self) -> str:
        """The namespace of its jobs, and of manifests that name none."""
        return self._connection[1]

    def build_payload(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest itself: nothing is added."""
        return dict(manifest)

    def require_valid(self, manifest: Mapping[str, Any]) -> None:
        """Check the schemas, and all rules."""
        require_valid(manifest)

    def submit(self, manifest: Mapping[str, Any]) -> Job:
        """Create the RayJob. A field that the cluster's RayJob does not have is refused: by default the API server
        drops it, and with it what it asks for, as with a version of KubeRay that knows no authentication."""
        name, namespace = manifest["metadata"]["name"], manifest["metadata"].get("namespace") or self.namespace
        create = partial(
            self._rayjobs.create_namespaced_custom_object,
            *GROUP_VERSION,
            namespace,
            PLURAL,
            field_validation="Strict",
            _request_timeout=REQUEST_TIMEOUT_S,
        )
        where = f"RayJob {namespace}/{name}"
        try:
            return to_job(call_api(lambda: create(self.build_payload(manifest)), where=where))
        except ApiException as error:
            if error.status != 409:
                raise explain_api_error(error, where) from error
        # A create request that was answered with 500 may have succeeded: then the job of this name is this submission.
        return require_same_submission(self.read_job(name), manifest, where)

    def read_job(self, name: str) -> Job:
        """The RayJob as a job."""
        return to_job(self._get_rayjob(name))

    def explain(self, job: Job) -> Explanation:
        """From Kueue's Workloads, the RayCluster, its pods and their nodes, and events about all of them."""
        if job.state in UNEXPLAINED:
            return Explanation()
        reader = ClusterReader(self._connection[0], self.namespace)
        try:
            facts = reader.read_facts(self._get_rayjob(job.name))
        except ClusterError:
            return Explanation()  # deleted, or not reachable any more: the next look at the job will say so
        return Explanation(explain_waiting(facts), reader.describe_unread())

    def watch_job(self, name: str, every_s: float) -> Iterator[Job]:
        """From a watch of the RayJob. JobMissingError once it is deleted."""
        for rayjob in watch_object(self._list_rayjobs, name, every_s, where=self._locate(name)):
            if rayjob is None:
                raise JobMissingError(f"the job {name} was deleted", where=self._locate(name))
            job = to_job(rayjob)
            yield job
            if job.state.is_over:
                return

    def read_logs(self, name: str, *, follow: bool = False) -> Iterator[LogLine]:
        """The driver's lines, from the head pod; with ``follow``, also those of later clusters of the same job."""
        last_time = 0.0
        has_lines = False
        while True:
            job = self.read_job(name)
            for head in self._list_pods(self._get_rayjob(name), **{"node-type": "head"}):
                for line in read_pod_log(self._core, head, since=last_time, follow=follow and not job.state.is_over):
                    last_time = line.time or last_time
                    has_lines = True
                    yield line
            if not follow or job.state.is_over:
                break
            time.sleep(POLL_S)
        if not has_lines:
            raise ClusterError(
                f"there is no log of this job; it is {job.state}",
                where=self._locate(name),
                do="logs are deleted with the job's cluster; `medfuncta-dist status` shows how the job ended",
            )

    def cancel(self, name: str, *, now: bool = False) -> None:
        """Delete a RayJob that has not ended: KubeRay stops the job first, and its pods get their grace period. With
        ``now`` they do not, and a RayJob that has ended is deleted, too."""
        try:
            rayjob = self._get_rayjob(name)
        except JobMissingError:
            return
        if to_job(rayjob).state.is_over and not now:
            return
        if now:
            self._remove_finalizers(name)
        delete = partial(self._rayjobs.delete_namespaced_custom_object, *GROUP_VERSION, self.namespace, PLURAL, name)
        self._ignore_missing(partial(delete, propagation_policy="Background", _request_timeout=REQUEST_TIMEOUT_S), name)
        if now:
            self._delete_pods(rayjob)

    def list_jobs(self, run: str | None = None) -> list[Job]:
        """All RayJobs with this tool's label."""
        wanted = make_label_selector(run=run) if run else RUN_LABEL
        found = call_api(lambda: self._list_rayjobs(label_selector=wanted), where=f"RayJobs in {self.namespace}")
        jobs = [to_job(rayjob) for rayjob in found["items"]]
        return sorted(jobs, key=lambda job: (job.submitted or 0.0, job.name))

    def _locate(self, name: str) -> str:
        return f"RayJob {self.namespace}/{name}"

    def _get_rayjob(self, name: str) -> dict[str, Any]:
        get = partial(self._rayjobs.get_namespaced_custom_object, *GROUP_VERSION, self.namespace, PLURAL, name)
        return dict(call_api(lambda: get(_request_timeout=REQUEST_TIMEOUT_S), where=self._locate(name)))

    def _list_rayjobs(self, **wanted: Any) -> Any:
        """List RayJobs; kubernetes.watch calls it with ``watch`` and ``_preload_content=False``, for a stream."""
        wanted.setdefault("_request_timeout", REQUEST_TIMEOUT_S)
        return self._rayjobs.list_namespaced_custom_object(*GROUP_VERSION, self.namespace, PLURAL, **wanted)

    def _ignore_missing(self, request: Any, name: str) -> None:
        try:
            call_api(request, where=self._locate(name))
        except JobMissingError:
            return

    def _remove_finalizers(self, name: str) -> None:
        patch = partial(self._rayjobs.patch_namespaced_custom_object, *GROUP_VERSION, self.namespace, PLURAL, name)
        self._ignore_missing(
            partial(patch, {"metadata": {"finalizers": None}}, _request_timeout=REQUEST_TIMEOUT_S), name
        )

    def _delete_pods(self, rayjob: Mapping[str, Any]) -> None:
        for pod in self._list_pods(rayjob):
            delete = partial(self._core.delete_namespaced_pod, pod.metadata.name, self.namespace)
            self._ignore_missing(
                partial(delete, grace_period_seconds=0, _request_timeout=REQUEST_TIMEOUT_S), pod.metadata.name
            )

    def _list_pods(self, rayjob: Mapping[str, Any], **labels: str) -> list[Any]:
        cluster = (rayjob.get("status") or {}).get("rayClusterName")
        if not cluster:
            return []
        wanted = ",".join(f"ray.io/{key}={value}" for key, value in {"cluster": cluster, **labels}.items())
        get = partial(self._core.list_namespaced_pod, self.namespace, label_selector=wanted)
        return list(call_api(lambda: get(_request_timeout=REQUEST_TIMEOUT_S), where=f"pods of {cluster}").items)
