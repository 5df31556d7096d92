"""What ``status`` says to do next is done here as it is printed, wherever the run was."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.stages import pack_stage
from tests.api_server import ApiServer
from tests.unit.cli.calls import call, call_json, call_printed, write_run_file

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path, run: RunFile, monkeypatch: pytest.MonkeyPatch) -> str:
    """The run file, in the working folder."""
    monkeypatch.chdir(tmp_path)
    return write_run_file(tmp_path, run)


# -- a command on this machine ----------------------------------------------------------------------------------------


def interrupt(*_: Any) -> Iterator[Any]:
    """What Ctrl-C does to a driver that waits for its tasks."""
    raise KeyboardInterrupt
    yield


def test_a_local_command_that_was_interrupted_goes_on_with_the_same_settings(
    archive: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(archive)
    monkeypatch.setenv("KUBECONFIG", "/nowhere")  # no cluster is asked about a run that never was on one
    data = {"source": "images.npz", "shape": [8, 8]}
    Path("run.yaml").write_text(json.dumps({"name": "here", "storage": "store", "data": data}))
    with monkeypatch.context() as patch:
        patch.setattr(pack_stage, "cpu_fan_out", lambda run: interrupt)
        assert call(capfd, "pack", "run.yaml", "--set", "train.seed=7")[0] == 5
    status = call_json(capfd, "status", "run.yaml")
    assert (status["state"], status["place"]) == ("cancelled", "local")
    assert status["next"] == status["command"] == "medfuncta-dist pack run.yaml --set train.seed=7"
    call_printed(capfd, status["command"])
    assert call_json(capfd, "status", "run.yaml")["state"] == "done"


def test_watching_a_local_run_needs_no_cluster(archive: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archive)
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    data = {"source": "images.npz", "shape": [8, 8]}
    Path("run.yaml").write_text(json.dumps({"name": "here", "storage": "store", "data": data}))
    call_printed(capfd, "medfuncta-dist pack run.yaml")
    assert call(capfd, "status", "run.yaml", "--watch")[0] == 0


# -- Kubernetes -------------------------------------------------------------------------------------------------------


def test_a_failed_job_is_resumed_by_its_run_file_and_by_its_name(server: ApiServer, file: str, capfd: Capture) -> None:
    first = call_json(capfd, "status", file)
    assert (first["place"], first["waiting"]) == ("nowhere", "Nothing of this run was started yet.")
    call_printed(capfd, "medfuncta-dist submit run.yaml pack")
    server.set_status("x-pack-1", jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed")
    by_file = call_json(capfd, "status", file)
    assert (by_file["state"], by_file["place"]) == ("failed", "kubernetes")
    assert call_printed(capfd, by_file["command"]) == ["x-pack-2: submitted"]
    server.set_status("x-pack-2", jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed")
    by_name = call_json(capfd, "status", "x-pack-2")
    assert by_name["command"] == "medfuncta-dist resume x-pack-2"
    assert call_printed(capfd, by_name["command"]) == ["x-pack-3: submitted"]


def test_a_job_that_the_cluster_lost_is_resumed(server: ApiServer, file: str, capfd: Capture) -> None:
    call_printed(capfd, "medfuncta-dist submit run.yaml pack --namespace other")
    server.cluster.delete("rayjobs", "other", "x-pack-1", "Background")
    status = call_json(capfd, "status", file, "--namespace", "other")
    assert (status["state"], status["failure"]) == (
        "lost",
        "The job is not on the cluster, and its driver never reported an end.",
    )
    assert call_printed(capfd, status["command"]) == ["x-pack-2: submitted"]
    assert ("rayjobs", "other", "x-pack-2") in server.cluster.objects


def test_what_is_printed_for_a_job_that_cannot_be_scheduled_submits_it_again(
    server: ApiServer, file: str, capfd: Capture
) -> None:
    call_printed(capfd, "medfuncta-dist submit run.yaml pack")
    add_unschedulable_head(server, "x-pack-1")
    status = call_json(capfd, "status", file)
    assert status["waiting"].startswith("No node can take the pod x-pack-1-abcde-head")
    assert "kubernetes.head.memory_gigabytes" in status["next"]
    assert status["next"].endswith(f"; after the change: {status['command']}")
    cancelled, resumed = call_printed(capfd, status["command"])
    assert (cancelled, resumed) == ("x-pack-1: cancelled", "x-pack-2: submitted")


def add_unschedulable_head(server: ApiServer, job: str) -> None:
    """KubeRay has made the head's pod, and no node has the memory for it."""
    server.set_status(job, jobDeploymentStatus="Initializing", rayClusterName=f"{job}-abcde")
    cluster = server.put("rayclusters", f"{job}-abcde", owner=server.cluster.get("rayjobs", "medfuncta", job))
    labels = {"ray.io/cluster": f"{job}-abcde", "ray.io/node-type": "head", "ray.io/group": "headgroup"}
    text = "0/2 nodes are available: 2 Insufficient memory."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}
    status = {"phase": "Pending", "conditions": [condition]}
    spec: dict[str, Any] = {"containers": []}
    server.put("pods", f"{job}-abcde-head", owner=cluster, labels=labels, spec=spec, status=status)


# -- a Ray cluster that is already running ----------------------------------------------------------------------------


@pytest.fixture
def jobs_api() -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """A Jobs API of Ray over HTTP that keeps the jobs it is sent: its address, and the jobs."""
    jobs: dict[str, dict[str, Any]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/api/jobs/")
            version = {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}
            self._answer(version if self.path == "/api/version" else jobs.get(name))

        def do_POST(self) -> None:
            if self.path.endswith("/stop"):
                return self._answer({"stopped": True})
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            jobs[sent["submission_id"]] = {**sent, "type": "SUBMISSION", "status": "PENDING"}
            return self._answer({"job_id": sent["submission_id"], "submission_id": sent["submission_id"]})

        def _answer(self, body: Any) -> None:
            data = json.dumps(body).encode() if body is not None else b"Job x does not exist"
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    yield f"http://127.0.0.1:{server.server_port}", jobs
    server.shutdown()
    server.server_close()


def test_a_job_on_a_ray_cluster_is_resumed_there(
    jobs_api: tuple[str, dict[str, dict[str, Any]]], file: str, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    address, jobs = jobs_api
    call_printed(capfd, f"medfuncta-dist submit run.yaml pack --backend ray --address {address}")
    pending = call_json(capfd, "status", file, "--address", address)  # the backend is known from the submission
    assert pending["waiting"].startswith("The cluster has not started the driver")
    jobs["x-pack-1"]["status"] = "FAILED"
    status = call_json(capfd, "status", file, "--address", address)
    assert status["place"] == "ray"
    assert status["command"] == f"medfuncta-dist resume run.yaml --backend ray --address {address}"
    assert call_printed(capfd, status["command"]) == ["x-pack-2: submitted"]
    assert list(jobs) == ["x-pack-1", "x-pack-2"]
    jobs["x-pack-2"]["status"] = "STOPPED"
    cancelled = call_json(capfd, "cancel", file, "--address", address)
    assert cancelled["command"] == status["command"]


# -- for programs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ray", "state", "code"), [("SUCCEEDED", "done", 0), ("FAILED", "failed", 1), ("STOPPED", "cancelled", 5)]
)
def test_a_watched_status_is_one_json_object_per_line_and_ends_with_the_jobs_exit_code(
    server: ApiServer, file: str, capfd: Capture, ray: str, state: str, code: int
) -> None:
    call_printed(capfd, "medfuncta-dist submit run.yaml pack")
    end = partial(server.set_status, "x-pack-1", jobDeploymentStatus="Complete", jobStatus=ray)
    timer = threading.Timer(1.5, end)
    timer.start()
    exit_code, out = call(capfd, "status", file, "--watch", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert exit_code == code
    assert [line["state"] for line in lines] == ["queued", state]
    assert ["exit_code" in line for line in lines] == [False, True]
    assert lines[-1]["exit_code"] == code
    assert set(lines[0]) | {"exit_code"} == set(lines[-1])
    timer.join()


def test_jobs_are_listed_newest_first_with_their_age(server: ApiServer, file: str, capfd: Capture) -> None:
    for number in (1, 2):
        call_printed(capfd, "medfuncta-dist submit run.yaml pack")
        server.set_status(f"x-pack-{number}", jobDeploymentStatus="Failed")
        server.cluster.objects["rayjobs", "medfuncta", f"x-pack-{number}"]["metadata"]["creationTimestamp"] = (
            f"2026-01-0{number}T00:00:00Z"
        )
    listed = call_json(capfd, "list")["jobs"]
    assert [job["name"] for job in listed] == ["x-pack-2", "x-pack-1"]
    assert listed[1]["age_s"] - listed[0]["age_s"] == pytest.approx(86400, abs=1)
    _, table = call(capfd, "list")
    head, *rows = table.splitlines()
    assert head.split() == ["NAME", "RUN", "STAGES", "STATE", "AGE"]
    assert [row.split()[0] for row in rows] == ["x-pack-2", "x-pack-1"]
    assert rows[0].split()[-1].rstrip("h").replace("d", "").isdigit()
