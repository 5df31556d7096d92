"""What the Ray backend makes of a manifest, and of a Jobs API that is away or not well (whole: tests/integration)."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

from medfuncta_dist.errors import ClusterError, JobMissingError, RunFileError
from medfuncta_dist.submit.backends.backend import JobState
from medfuncta_dist.submit.backends.ray_jobs import RayJobs
from tests.unit.submit.manifests import manifest

LABELS = {"medfuncta.dev/run": "x", "medfuncta.dev/stage": "fit", "medfuncta.dev/attempt": "1"}
DETAILS = {
    "type": "SUBMISSION",
    "submission_id": "x-fit-1",
    "status": "RUNNING",
    "entrypoint": "medfuncta-dist run",
    "start_time": 1760000000500,
    "metadata": LABELS,
    "runtime_env": {"env_vars": {"MEDFUNCTA_RUN_FILE": "name: x"}},
}


@pytest.fixture(autouse=True)
def _another_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would take it for the Jobs API's address, before the one that it is given."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")


class Answers:
    """A Jobs API that gives these answers (status, body) to requests for a job, in order; the last one for ever."""

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.left, self.asked = list(answers), 0

    def next(self) -> tuple[int, Any]:
        self.asked += 1
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


@pytest.fixture
def api() -> Iterator[Any]:
    """Call it with the answers: the address, and what counts the requests."""
    servers: list[ThreadingHTTPServer] = []

    def serve(*answers: tuple[int, Any]) -> tuple[str, Answers]:
        script = Answers(*answers)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                whole = {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}
                status, body = (200, whole) if self.path == "/api/version" else script.next()
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.05}).start()
        return f"http://127.0.0.1:{servers[-1].server_port}", script

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_of_a_manifest_it_takes_what_is_the_jobs_own() -> None:
    runtime = {"env_vars": {"MEDFUNCTA_RUN_FILE": "name: x\n", "MEDFUNCTA_JOB": "x-fit-1"}}
    spec = {
        "entrypoint": "run",
        "runtimeEnvYAML": yaml.safe_dump(runtime),
        "rayClusterSpec": {},
        "entrypointNumCpus": 1,
    }
    sent = RayJobs("http://nowhere").build_payload({"metadata": {"name": "x-fit-1", "labels": LABELS}, "spec": spec})
    assert sent == {
        "submission_id": "x-fit-1",
        "entrypoint": "run",
        "runtime_env": {"env_vars": {**runtime["env_vars"], "RAY_JOB_STOP_WAIT_TIME_S": "100"}},
        "metadata": LABELS,
        "entrypoint_num_cpus": 1,
    }


def test_a_secret_does_not_travel_to_a_dashboard_that_shows_it() -> None:
    jobs = RayJobs("http://nowhere")
    jobs.require_valid(manifest())
    with pytest.raises(RunFileError, match="no-secrets"):
        jobs.require_valid(manifest("storage=s3://bucket/AKIAABCDEFGHIJKLMNOP"))


def test_a_job_is_told_in_the_words_of_all_backends(api: Any) -> None:
    address, _ = api((200, DETAILS))
    job = RayJobs(address).read_job("x-fit-1")
    assert (job.name, job.state, job.run, job.stages, job.attempt) == ("x-fit-1", JobState.RUNNING, "x", ("fit",), 1)
    assert (job.started, job.run_file, job.submission_id) == (1760000000.5, "name: x", "x-fit-1")


def test_a_cluster_without_an_agent_for_a_moment_is_asked_again(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medfuncta_dist.submit.backends.ray_jobs.POLL_S", 0.05)
    address, script = api((500, "No available agent"), (503, ""), (200, DETAILS))
    assert RayJobs(address).read_job("x-fit-1").state is JobState.RUNNING
    assert script.asked == 3


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [(404, "no such job", JobMissingError), (401, "token", ClusterError), (403, "token", ClusterError)],
)
def test_what_is_refused_is_told_at_once_with_what_to_do(
    api: Any, status: int, words: str, kind: type[ClusterError]
) -> None:
    address, script = api((status, "no"))
    with pytest.raises(kind, match=words) as caught:
        RayJobs(address).read_job("x-fit-1")
    assert caught.value.do
    assert script.asked == 1


def test_a_cluster_that_is_not_there_is_an_error_in_words() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(ClusterError, match="does not answer"):
        RayJobs(address).list_jobs()


def test_jobs_of_other_makers_are_not_listed(api: Any) -> None:
    other = {**DETAILS, "submission_id": "raysubmit_1", "metadata": {}}
    later = {**DETAILS, "submission_id": "y-fit-1", "metadata": {**LABELS, "medfuncta.dev/run": "y"}, "start_time": 1}
    address, _ = api((200, [DETAILS, other, later]))
    assert [job.name for job in RayJobs(address).list_jobs()] == ["y-fit-1", "x-fit-1"]
    assert [job.name for job in RayJobs(address).list_jobs("x")] == ["x-fit-1"]
