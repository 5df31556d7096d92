"""Jobs as KubeRay's RayJobs, through the official client."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from kubernetes import client
from kubernetes.client import ApiException

from medfuncta_dist.errors import ClusterError, JobMissingError
from medfuncta_dist.submit.backends.backend import Job, JobState, LogLine, require_same_submission
from medfuncta_dist.submit.backends.kubernetes.kubernetes_api import (
    REQUEST_TIMEOUT_S,
    call_api,
    connect,
    explain_api_error,
)
from medfuncta_dist.submit.backends.kubernetes.kubernetes_events import find_last_warning
from medfuncta_dist.submit.backends.kubernetes.kubernetes_watch import watch_object
from medfuncta_dist.submit.backends.kubernetes.pod_logs import read_pod_log
from medfuncta_dist.submit.backends.kubernetes.rayjob_state import to_job
from medfuncta_dist.submit.manifest.job_names import RUN_LABEL, make_label_selector
from medfuncta_dist.submit.rules.validate_manifest import require_valid

GROUP_VERSION = ("ray.io", "v1")
PLURAL = "rayjobs"
POLL_S = 3.0
UNEXPLAINED = (JobState.QUEUED, JobState.STARTING, JobState.RETRYING, JobState.FAILED)


class KubernetesJobs:
    """A ``Backend``. ``namespace`` None: the kubeconfig's, or the pod's own."""

    name = "kubernetes"

    def __init__(self, namespace: str | None = None, *, context: str | None = None) -> None:
        self._given, self._context = namespace, context

    @cached_property
    def _connection(self) -> tuple[client.ApiClient, str]:
        api, namespace = connect(self._context)
        return api, self._given or namespace

    @cached_property
    def _rayjobs(self) -> Any:
        return client.CustomObjectsApi(self._connection[0])

    @cached_property
    def _core(self) -> Any:
        return client.CoreV1Api(self._connection[0])

    @property
    def namespace(self) -> str:
        """Where it looks, and submits manifests that name none."""
        return self._connection[1]

    def outgoing(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest itself: nothing is added on the way."""
        return dict(manifest)

    def require_valid(self, manifest: Mapping[str, Any]) -> None:
        """Schemas and the controllers' rules."""
        require_valid(manifest)

    def submit(self, manifest: Mapping[str, Any]) -> Job:
        """Create the RayJob."""
        name, namespace = manifest["metadata"]["name"], manifest["metadata"].get("namespace") or self.namespace
        create = partial(self._rayjobs.create_namespaced_custom_object, *GROUP_VERSION, namespace, PLURAL)
        where = f"RayJob {namespace}/{name}"
        try:
            return to_job(
                call_api(lambda: create(self.outgoing(manifest), _request_timeout=REQUEST_TIMEOUT_S), where=where)
            )
        except ApiException as error:
            if error.status != 409:
                raise explain_api_error(error, where) from error
        # A create that was answered 500 may have been heard: what is there under this name is then ours.
        there = self.status(name)
        return require_same_submission(there, manifest, where)

    def status(self, name: str) -> Job:
        """The RayJob as a job."""
        return self._explained(to_job(self._read(name)))

    def changes(self, name: str, every_s: float) -> Iterator[Job]:
        """Told by a watch; a deleted one ends as JobMissingError."""
        for rayjob in watch_object(self._listed, name, every_s, where=self._where(name)):
            if rayjob is None:
                raise JobMissingError(f"the job {name} was deleted", where=self._where(name))
            job = self._explained(to_job(rayjob))
            yield job
            if job.state.over:
                return

    def logs(self, name: str, *, follow: bool = False) -> Iterator[LogLine]:
        """The driver's lines, from the head pod; with ``follow`` those of later clusters of the same job too."""
        last, seen = 0.0, False
        while True:
            job = self.status(name)
            for head in self._pods(self._read(name), **{"node-type": "head"}):
                for line in read_pod_log(self._core, head, since=last, follow=follow and not job.state.over):
                    last, seen = line.time or last, True
                    yield line
            if not follow or job.state.over:
                break
            time.sleep(POLL_S)
        if not seen:
            raise ClusterError(
                f"the job has no log now: it is {job.state}",
                where=self._where(name),
                do="logs live as long as the job's cluster; `status` tells from storage what became of it",
            )

    def cancel(self, name: str, *, now: bool = False) -> None:
        """Delete a RayJob that is not over. KubeRay then stops the job first, and pods get their grace; ``now``:
        neither, and one that is over is deleted, too."""
        try:
            rayjob = self._read(name)
        except JobMissingError:
            return
        if to_job(rayjob).state.over and not now:
            return
        if now:
            self._drop_finalizers(name)
        delete = partial(self._rayjobs.delete_namespaced_custom_object, *GROUP_VERSION, self.namespace, PLURAL, name)
        self._if_there(partial(delete, propagation_policy="Background", _request_timeout=REQUEST_TIMEOUT_S), name)
        if now:
            self._kill_pods(rayjob)

    def jobs(self, run: str | None = None) -> list[Job]:
        """All RayJobs with our label."""
        wanted = make_label_selector(run=run) if run else RUN_LABEL
        found = call_api(lambda: self._listed(label_selector=wanted), where=f"RayJobs in {self.namespace}")
        jobs = [to_job(rayjob) for rayjob in found["items"]]
        return sorted(jobs, key=lambda job: (job.submitted or 0.0, job.name))

    def _explained(self, job: Job) -> Job:
        """With a reason from the events, where the RayJob itself gives none for not running."""
        if job.message or job.state not in UNEXPLAINED:
            return job
        read = partial(self._core.list_namespaced_event, self.namespace, field_selector="type=Warning")
        try:
            events = call_api(
                lambda: read(_request_timeout=REQUEST_TIMEOUT_S), where=f"events in {self.namespace}"
            ).items
        except (ClusterError, ApiException):
            return job  # events may be nobody's to read, and explain only
        return replace(job, message=find_last_warning(events, job.name))

    def _where(self, name: str) -> str:
        return f"RayJob {self.namespace}/{name}"

    def _read(self, name: str) -> dict[str, Any]:
        get = partial(self._rayjobs.get_namespaced_custom_object, *GROUP_VERSION, self.namespace, PLURAL, name)
        return dict(call_api(lambda: get(_request_timeout=REQUEST_TIMEOUT_S), where=self._where(name)))

    def _listed(self, **wanted: Any) -> Any:
        """With ``watch`` and ``_preload_content=False`` a stream: kubernetes.watch calls it so."""
        wanted.setdefault("_request_timeout", REQUEST_TIMEOUT_S)
        return self._rayjobs.list_namespaced_custom_object(*GROUP_VERSION, self.namespace, PLURAL, **wanted)

    def _if_there(self, request: Any, name: str) -> None:
        try:
            call_api(request, where=self._where(name))
        except JobMissingError:
            return

    def _drop_finalizers(self, name: str) -> None:
        patch = partial(self._rayjobs.patch_namespaced_custom_object, *GROUP_VERSION, self.namespace, PLURAL, name)
        self._if_there(partial(patch, {"metadata": {"finalizers": None}}, _request_timeout=REQUEST_TIMEOUT_S), name)

    def _kill_pods(self, rayjob: Mapping[str, Any]) -> None:
        for pod in self._pods(rayjob):
            kill = partial(self._core.delete_namespaced_pod, pod.metadata.name, self.namespace)
            self._if_there(partial(kill, grace_period_seconds=0, _request_timeout=REQUEST_TIMEOUT_S), pod.metadata.name)

    def _pods(self, rayjob: Mapping[str, Any], **labels: str) -> list[Any]:
        cluster = (rayjob.get("status") or {}).get("rayClusterName")
        if not cluster:
            return []
        wanted = ",".join(f"ray.io/{key}={value}" for key, value in {"cluster": cluster, **labels}.items())
        get = partial(self._core.list_namespaced_pod, self.namespace, label_selector=wanted)
        return list(call_api(lambda: get(_request_timeout=REQUEST_TIMEOUT_S), where=f"pods of {cluster}").items)
