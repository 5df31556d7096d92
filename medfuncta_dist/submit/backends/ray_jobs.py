"""Jobs on a Ray cluster that runs already, through its Jobs API: the same manifests, without Kubernetes.

Of a RayJob it takes what is the job's own: entrypoint, runtime environment, labels. Ray's own client reads the token
from the environment (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH); it travels in no manifest.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeVar

import yaml
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from medfuncta_dist.errors import ClusterError, JobMissingError
from medfuncta_dist.submit.backends.backend import Job, JobState, LogLine, require_same_submission
from medfuncta_dist.submit.manifest.job_names import RUN_LABEL, SUBMISSION_LABEL
from medfuncta_dist.submit.manifest.runtime_env import RUN_FILE_VARIABLE
from medfuncta_dist.submit.rules.validate_manifest import require_no_secrets

T = TypeVar("T")

STATE_BY_RAY_STATUS = {
    "PENDING": JobState.STARTING,
    "RUNNING": JobState.RUNNING,
    "STOPPED": JobState.CANCELLED,
    "SUCCEEDED": JobState.DONE,
    "FAILED": JobState.FAILED,
}
STOP_GRACE_S = 100
"""What a driver gets between SIGTERM and SIGKILL: time for a checkpoint. Ray's default is 3 s."""
POLL_S = 1.0
DEADLINE_S = 60.0
"""Of one request, retries included."""
DEFAULT_ADDRESS = "http://127.0.0.1:8265"


class RayJobs:
    """A ``Backend``. ``address`` None: RAY_API_SERVER_ADDRESS, else the dashboard on this machine."""

    name = "ray"

    def __init__(self, address: str | None = None) -> None:
        self.address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS

    @cached_property
    def _client(self) -> Any:
        from ray.job_submission import JobSubmissionClient

        # Ray takes RAY_ADDRESS for the Jobs API's, before the one that it is given: here it is another cluster's.
        elsewhere = os.environ.pop("RAY_ADDRESS", None)
        try:
            return self._call(lambda: JobSubmissionClient(self.address))
        finally:
            if elsewhere is not None:
                os.environ["RAY_ADDRESS"] = elsewhere

    def outgoing(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
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
        """No secret in what Ray's dashboard shows; the rules for pods do not apply to a cluster that runs already."""
        require_no_secrets(manifest)

    def submit(self, manifest: Mapping[str, Any]) -> Job:
        """Hand it over. A cluster that has this submission already answers with it."""
        arguments = self.outgoing(manifest)
        name = arguments["submission_id"]
        try:
            return require_same_submission(self.status(name), manifest, f"{name} on {self.address}")
        except JobMissingError:
            self._call(lambda: self._client.submit_job(**arguments), name)
        return self.status(name)

    def status(self, name: str) -> Job:
        """The job as Ray has it."""
        return _to_job(self._call(lambda: self._client.get_job_info(name), name))

    def changes(self, name: str, every_s: float) -> Iterator[Job]:
        """Asked every second: the Jobs API has no watch."""
        told: Job | None = None
        asked = 0.0
        while told is None or not told.state.over:
            job = self.status(name)
            if job != told or time.monotonic() - asked >= every_s:
                told, asked = job, time.monotonic()
                yield job
            if not job.state.over:
                time.sleep(min(POLL_S, every_s))

    def logs(self, name: str, *, follow: bool = False) -> Iterator[LogLine]:
        """The driver's lines."""
        if not follow:
            text = self._call(lambda: self._client.get_job_logs(name), name)
            yield from map(LogLine, text.splitlines())
            return
        self.status(name)
        rest = ""
        for chunk in self._tail(name):
            *whole, rest = (rest + chunk).split("\n")
            yield from map(LogLine, whole)
        if rest:
            yield LogLine(rest)

    def cancel(self, name: str, *, now: bool = False) -> None:
        """SIGTERM, then SIGKILL after ``STOP_S``. Ray has no harder stop, so ``now`` changes nothing."""
        try:
            self._call(lambda: self._client.stop_job(name), name)
        except JobMissingError:
            return

    def jobs(self, run: str | None = None) -> list[Job]:
        """The jobs with our labels."""
        found = [_to_job(details) for details in self._call(lambda: self._client.list_jobs())]
        ours = [job for job in found if RUN_LABEL in job.labels and run in (None, job.run)]
        return sorted(ours, key=lambda job: (job.submitted or 0.0, job.name))

    def _tail(self, name: str) -> Iterator[str]:
        loop, chunks = asyncio.new_event_loop(), self._client.tail_job_logs(name)
        try:
            while True:
                yield self._call(lambda: loop.run_until_complete(anext(chunks)), name)
        except StopAsyncIteration:
            return
        finally:
            loop.run_until_complete(chunks.aclose())
            loop.close()

    def _call(self, request: Callable[[], T], name: str = "") -> T:
        """A request, again while its answer may pass; its errors in words."""
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


def _is_transient(error: BaseException) -> bool:
    """5xx: a cluster that has just come up, or has just lost a node, has no agent for a moment."""
    code = _parse_http_status(error)
    return code is not None and code >= 500


def _parse_http_status(error: BaseException) -> int | None:
    """Ray's client tells the HTTP status in its error's text only."""
    found = re.search(r"status code (\d+)", str(error))
    return int(found[1]) if found else None


def _explain_error(error: Exception, where: str) -> ClusterError:
    text = str(error)
    code = _parse_http_status(error)
    if "does not exist" in text or code == 404:
        return JobMissingError("the cluster has no such job", where=where, do="`medfuncta-dist list` shows what it has")
    if type(error).__name__ == "AuthenticationError" or code in (401, 403):
        do = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's token"
        return ClusterError("Ray refuses the request: the token is missing or wrong", where=where, do=do)
    if isinstance(error, OSError) or "Failed to connect" in text:
        do = "see that the head runs and --address (or RAY_API_SERVER_ADDRESS) is its dashboard's"
        return ClusterError("Ray's Jobs API does not answer", where=where, do=do)
    return ClusterError(f"Ray refuses the request: {text.splitlines()[0]}", where=where, do="see the dashboard's log")


def _build_entrypoint_resources(spec: Mapping[str, Any]) -> dict[str, Any]:
    given = {"entrypoint_num_cpus": "entrypointNumCpus", "entrypoint_num_gpus": "entrypointNumGpus"}
    return {
        require_same_submission: spec[theirs] for require_same_submission, theirs in given.items() if theirs in spec
    }


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
