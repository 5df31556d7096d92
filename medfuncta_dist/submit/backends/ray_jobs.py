"""The ``ray`` backend: jobs on a Ray cluster that is already running, through its Jobs API, without Kubernetes.

It takes the same manifests, and uses the parts of a RayJob that describe the job itself: entrypoint, runtime
environment and labels. Ray's own client reads the token from the environment (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN or
RAY_AUTH_TOKEN_PATH); no manifest contains it.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Self, TypeVar

import yaml
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from medfuncta_dist.errors import ClusterError, JobMissingError
from medfuncta_dist.submit.backends.backend import BackendOptions, Job, JobState, LogLine, require_same_submission
from medfuncta_dist.submit.manifest.job_names import RUN_LABEL, SUBMISSION_LABEL
from medfuncta_dist.submit.manifest.runtime_env import RUN_FILE_VARIABLE
from medfuncta_dist.submit.rules.validate_manifest import require_no_secrets
from medfuncta_dist.submit.waiting.cluster_facts import Explanation, Reason

T = TypeVar("T")

STATE_BY_RAY_STATUS = {
    "PENDING": JobState.STARTING,
    "RUNNING": JobState.RUNNING,
    "STOPPED": JobState.CANCELLED,
    "SUCCEEDED": JobState.DONE,
    "FAILED": JobState.FAILED,
}
STOP_GRACE_S = 100
"""Time between SIGTERM and SIGKILL, in which a driver saves a checkpoint. Ray's default is 3 s."""
POLL_S = 1.0
DEADLINE_S = 60.0
"""For one request with its retries."""
DEFAULT_ADDRESS = "http://127.0.0.1:8265"


class RayJobs:
    """A ``Backend``. Without ``address``: RAY_API_SERVER_ADDRESS, else the dashboard on this machine."""

    name = "ray"
    runs_workflows = False

    def __init__(self, address: str | None = None) -> None:
        self.address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS

    @classmethod
    def from_options(cls, options: BackendOptions) -> Self:
        """The cluster at ``options.address``."""
        return cls(options.address)

    @cached_property
    def _client(self) -> Any:
        from ray.job_submission import JobSubmissionClient

        # Ray prefers RAY_ADDRESS to the address it is given, and here that variable may name another cluster.
        other_address = os.environ.pop("RAY_ADDRESS", None)
        try:
            return self._request(lambda: JobSubmissionClient(self.address, verify=_choose_trust()))
        finally:
            if other_address is not None:
                os.environ["RAY_ADDRESS"] = other_address

    def build_payload(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of ``JobSubmissionClient.submit_job``."""
        meta, spec = manifest["metadata"], manifest["spec"]
        runtime = yaml.safe_load(spec.get("runtimeEnvYAML") or "{}")
        runtime["env_vars"] = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_S), **runtime.get("env_vars", {})}
        return {
            "submission_id": meta["name"],
            "entrypoint": spec["entrypoint"],
            "runtime_env": runtime,
            "metadata": dict(meta["labels"]),
            **_build_entrypoint_resources(spec),
        }

    def require_valid(self, manifest: Mapping[str, Any]) -> None:
        """No secret in what Ray's dashboard shows. The rules for pods do not apply to a running cluster."""
        require_no_secrets(manifest)

    def submit(self, manifest: Mapping[str, Any]) -> Job:
        """Submit the job; if the cluster has the same submission already, return that job."""
        arguments = self.build_payload(manifest)
        name = arguments["submission_id"]
        try:
            return require_same_submission(self.read_job(name), manifest, f"{name} on {self.address}")
        except JobMissingError:
            self._request(lambda: self._client.submit_job(**arguments), name)
        return self.read_job(name)

    def read_job(self, name: str) -> Job:
        """The job as Ray reports it."""
        return _to_job(self._request(lambda: self._client.get_job_info(name), name))

    def explain(self, job: Job) -> Explanation:
        """Of a job that Ray has not started: its own message says no more than this."""
        if job.state is not JobState.STARTING:
            return Explanation()
        sentence = "The cluster has not started the driver: its environment is being set up, or no CPU is free for it."
        do = f"wait; if it lasts, {self.address} shows under Cluster what is free, and under Jobs what holds it"
        return Explanation(Reason(sentence, do))

    def watch_job(self, name: str, every_s: float) -> Iterator[Job]:
        """Asks every second: the Jobs API has no watch."""
        last: Job | None = None
        reported_at = 0.0
        while last is None or not last.state.is_over:
            job = self.read_job(name)
            if job != last or time.monotonic() - reported_at >= every_s:
                last = job
                reported_at = time.monotonic()
                yield job
            if not job.state.is_over:
                time.sleep(min(POLL_S, every_s))

    def read_logs(self, name: str, *, follow: bool = False) -> Iterator[LogLine]:
        """The driver's lines."""
        if not follow:
            text = self._request(lambda: self._client.get_job_logs(name), name)
            yield from map(LogLine, text.splitlines())
            return
        self.read_job(name)
        rest = ""
        for chunk in self._tail(name):
            *complete, rest = (rest + chunk).split("\n")
            yield from map(LogLine, complete)
        if rest:
            yield LogLine(rest)

    def cancel(self, name: str, *, now: bool = False) -> None:
        """SIGTERM, then SIGKILL after ``STOP_GRACE_S``. Ray cannot stop a job faster: ``now`` changes nothing."""
        try:
            self._request(lambda: self._client.stop_job(name), name)
        except JobMissingError:
            return

    def list_jobs(self, run: str | None = None) -> list[Job]:
        """The jobs with this tool's labels."""
        found = [_to_job(details) for details in self._request(lambda: self._client.list_jobs())]
        own = [job for job in found if RUN_LABEL in job.labels and run in (None, job.run)]
        return sorted(own, key=lambda job: (job.submitted or 0.0, job.name))

    def _tail(self, name: str) -> Iterator[str]:
        loop, chunks = asyncio.new_event_loop(), self._client.tail_job_logs(name)
        try:
            while True:
                yield self._request(lambda: loop.run_until_complete(anext(chunks)), name)
        except StopAsyncIteration:
            return
        finally:
            loop.run_until_complete(chunks.aclose())
            loop.close()

    def _request(self, request: Callable[[], T], name: str = "") -> T:
        """Make a request, and repeat it after transient failures. Errors become ClusterErrors."""
        where = f"{name} on {self.address}" if name else self.address
        retrying = Retrying(
            retry=retry_if_exception(_is_transient),
            stop=stop_after_delay(DEADLINE_S),
            wait=wait_fixed(POLL_S),
            reraise=True,
        )
        try:
            return retrying(request)
        except StopAsyncIteration:
            raise
        except Exception as error:  # RuntimeError, requests' and aiohttp's, Ray's own: no common base
            raise _explain_error(error, where) from error


def _choose_trust() -> str | bool:
    """The CA bundle for an https:// address: requests, and what follows the log, read only one variable each."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True


def _is_transient(error: BaseException) -> bool:
    """Whether to repeat the request. 5xx: a cluster that has just started or lost a node has no agent for a moment."""
    code = _parse_http_status(error)
    return code is not None and code >= 500


def _parse_http_status(error: BaseException) -> int | None:
    """The HTTP status of an error: Ray's client gives it in the error's text only."""
    found = re.search(r"status code (\d+)", str(error))
    return int(found[1]) if found else None


def _explain_error(error: Exception, where: str) -> ClusterError:
    text = str(error)
    code = _parse_http_status(error)
    if "does not exist" in text or code == 404:
        return JobMissingError(
            "the cluster has no such job", where=where, do="list its jobs: `medfuncta-dist list --backend ray`"
        )
    if type(error).__name__ == "AuthenticationError" or code in (401, 403):
        do = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's token"
        return ClusterError("Ray refused the request: the token is missing or wrong", where=where, do=do)
    if isinstance(error, OSError) or "Failed to connect" in text:
        do = "check that the head is running, and that --address (or RAY_API_SERVER_ADDRESS) is its dashboard's"
        return ClusterError("Ray's Jobs API does not answer", where=where, do=do)
    return ClusterError(
        f"Ray refused the request: {text.splitlines()[0]}", where=where, do="look at the dashboard's log"
    )


def _build_entrypoint_resources(spec: Mapping[str, Any]) -> dict[str, Any]:
    names = {"entrypoint_num_cpus": "entrypointNumCpus", "entrypoint_num_gpus": "entrypointNumGpus"}
    return {argument: spec[field] for argument, field in names.items() if field in spec}


def _to_job(details: Any) -> Job:
    labels = dict(details.metadata or {})
    name = details.submission_id or details.job_id or ""
    variables = (details.runtime_env or {}).get("env_vars", {})
    return Job(
        name=name,
        state=STATE_BY_RAY_STATUS[str(details.status.value)],
        labels={SUBMISSION_LABEL: name, **labels},
        run_file=variables.get(RUN_FILE_VARIABLE, ""),
        submitted=_to_seconds(details.start_time),
        started=_to_seconds(details.start_time),
        ended=_to_seconds(details.end_time),
        message=str(details.message or ""),
    )


def _to_seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None
