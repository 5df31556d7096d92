"""The Kubernetes backend, through the official client, against an API server over real HTTP."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from medfuncta_dist.errors import ClusterError, JobMissingError
from medfuncta_dist.submit.backends.backend import JobState
from medfuncta_dist.submit.backends.kubernetes import kubernetes_api
from medfuncta_dist.submit.backends.kubernetes.kubernetes_jobs import KubernetesJobs
from tests.api_server import TOKEN, ApiServer

FINALIZER = "ray.io/rayjob-finalizer"


def rayjob(name: str = "x-fit-1", run: str = "x", **meta: Any) -> dict[str, Any]:
    labels = {f"medfuncta.dev/{key}": value for key, value in _labels(name, run).items()}
    runtime = yaml.safe_dump({"env_vars": {"MEDFUNCTA_RUN_FILE": "name: x\n"}})
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "namespace": "medfuncta", "labels": labels, **meta},
        "spec": {"entrypoint": "medfuncta-dist run env:MEDFUNCTA_RUN_FILE fit", "runtimeEnvYAML": runtime},
    }


def _labels(name: str, run: str) -> dict[str, str]:
    return {"run": run, "stage": "fit", "attempt": "1", "submission": name, "run-file-digest": "d", "commit": "c"}


def test_what_is_sent_is_what_arrives_and_is_found_again_by_its_labels(server: ApiServer) -> None:
    jobs = KubernetesJobs()
    job = jobs.submit(rayjob())
    jobs.submit(rayjob("y-fit-1", run="y"))
    server.cluster.create("rayjobs", "medfuncta", {"metadata": {"name": "of-someone-else"}})
    assert (job.name, job.run, job.stages, job.attempt, job.state) == ("x-fit-1", "x", ("fit",), 1, JobState.QUEUED)
    assert job.run_file == "name: x\n"
    assert [found.name for found in jobs.list_jobs()] == ["x-fit-1", "y-fit-1"]
    assert [found.name for found in jobs.list_jobs("y")] == ["y-fit-1"]
    kept = server.cluster.get("rayjobs", "medfuncta", "x-fit-1")
    assert kept["spec"] == rayjob()["spec"]
    assert kept["metadata"]["labels"] == rayjob()["metadata"]["labels"]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({"jobDeploymentStatus": "Initializing"}, JobState.STARTING),
        ({"jobDeploymentStatus": "Running", "jobStatus": "PENDING"}, JobState.STARTING),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, JobState.RUNNING),
        ({"jobDeploymentStatus": "Suspended"}, JobState.QUEUED),
        ({"jobDeploymentStatus": "Retrying", "failed": 1}, JobState.RETRYING),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, JobState.DONE),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, JobState.CANCELLED),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED"}, JobState.FAILED),
        ({"jobDeploymentStatus": "ValidationFailed"}, JobState.FAILED),
    ],
)
def test_every_status_of_kuberay_has_a_state(server: ApiServer, status: dict[str, Any], state: JobState) -> None:
    jobs = KubernetesJobs()
    jobs.submit(rayjob())
    server.set_status("x-fit-1", **status)
    job = jobs.read_job("x-fit-1")
    assert job.state is state
    assert job.restarts == status.get("failed", 0)


def test_the_same_submission_twice_is_one_job(server: ApiServer) -> None:
    jobs = KubernetesJobs()
    assert jobs.submit(rayjob()) == jobs.submit(rayjob())
    assert len(server.cluster.objects) == 1


def test_another_job_of_that_name_is_an_error_and_stays(server: ApiServer) -> None:
    jobs = KubernetesJobs()
    jobs.submit(rayjob())
    other = rayjob()
    other["metadata"]["labels"]["medfuncta.dev/submission"] = "another"
    with pytest.raises(ClusterError, match="another job already has this name; it is queued"):
        jobs.submit(other)
    assert server.cluster.get("rayjobs", "medfuncta", "x-fit-1")["metadata"]["labels"] == rayjob()["metadata"]["labels"]


@pytest.mark.parametrize("code", [500, 0])
def test_an_answer_that_is_lost_after_the_job_was_made_makes_no_second_one(server: ApiServer, code: int) -> None:
    server.fail("POST", "rayjobs", code, after=True)
    assert KubernetesJobs().submit(rayjob()).name == "x-fit-1"
    assert [method for method, *_ in server.seen].count("POST") == 2
    assert len(server.cluster.objects) == 1


def test_a_busy_server_is_asked_again_when_it_says(server: ApiServer) -> None:
    server.fail("GET", "rayjobs", 429, times=1, retry_after=1)
    server.fail("GET", "rayjobs", 503, times=1)
    began = time.monotonic()
    assert KubernetesJobs().list_jobs() == []
    assert time.monotonic() - began >= 1.0
    assert len(server.seen) == 3


def test_a_server_that_stays_unwell_is_left_in_the_end(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_api.call_api, "__kwdefaults__", {"deadline_s": 1.0})
    server.fail("GET", "rayjobs", 500, times=1000)
    with pytest.raises(ClusterError, match=r"failed \(500\)") as caught:
        KubernetesJobs().list_jobs()
    assert "again" in caught.value.do
    assert len(server.seen) < 10


def test_who_is_unknown_or_not_allowed_is_told_so_at_once(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.forbidden.add(("POST", "rayjobs"))
    with pytest.raises(ClusterError, match=r"403.*cannot create resource") as caught:
        KubernetesJobs().submit(rayjob())
    assert "k8s/base/submitter.yaml" in caught.value.do
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path, token="over")))
    with pytest.raises(ClusterError, match="401"):
        KubernetesJobs().list_jobs()
    assert len(server.seen) == 2
    assert TOKEN not in str(caught.value)


def test_missing_jobs_missing_kuberay_and_a_missing_cluster_are_told_apart(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(JobMissingError, match="x-fit-9"):
        KubernetesJobs().read_job("x-fit-9")
    server.has_kuberay = False
    with pytest.raises(ClusterError, match="no RayJobs") as caught:
        KubernetesJobs().list_jobs()
    assert "install KubeRay" in caught.value.do
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    with pytest.raises(ClusterError, match="no Kubernetes cluster is configured"):
        KubernetesJobs().list_jobs()


def test_cancel_lets_kuberay_stop_the_job_and_now_does_not_wait_for_it(server: ApiServer) -> None:
    jobs = KubernetesJobs()
    for name in ("x-fit-1", "x-fit-2"):
        jobs.submit(rayjob(name, finalizers=[FINALIZER]))
        owner = server.cluster.get("rayjobs", "medfuncta", name)["metadata"]["uid"]
        server.set_status(name, rayClusterName=f"{name}-abcde")
        labels = {"ray.io/cluster": f"{name}-abcde", "ray.io/node-type": "head"}
        server.add_pod(f"{name}-head", [], labels=labels, ownerReferences=[{"uid": owner}])
    jobs.cancel("x-fit-1")
    assert jobs.read_job("x-fit-1").state is JobState.STOPPING
    server.cluster.get("pods", "medfuncta", "x-fit-1-head")
    jobs.cancel("x-fit-2", now=True)
    with pytest.raises(JobMissingError):
        jobs.read_job("x-fit-2")
    assert ("pods", "medfuncta", "x-fit-2-head") not in server.cluster.objects
    # KubeRay has stopped the job, and lets it go: its pods go with it.
    server.cluster.patch("rayjobs", "medfuncta", "x-fit-1", {"metadata": {"finalizers": None}})
    assert not server.cluster.objects
    jobs.cancel("x-fit-1")


def follow(server: ApiServer, *acts: Any) -> list[JobState]:
    """The states that ``changes`` tells while the acts are done, one after each state."""
    seen, waiting = [], list(acts)
    for job in KubernetesJobs().watch_job("x-fit-1", every_s=2):
        if not seen or seen[-1] is not job.state:
            seen.append(job.state)
            if waiting:
                threading.Timer(0.3, waiting.pop(0)).start()
    return seen


def test_a_watch_tells_changes_and_survives_drops_and_compaction(server: ApiServer) -> None:
    KubernetesJobs().submit(rayjob())

    def set_to(deployment: str, job: str = "", before: Any = lambda: None) -> Any:
        return lambda: (
            before(),
            server.set_status("x-fit-1", jobDeploymentStatus=deployment, jobStatus=job),
        )

    def forget() -> None:
        server.drop_watches()
        server.cluster.compact()

    def unwell() -> None:
        server.fail("GET", "rayjobs", 500, watch=True)
        server.drop_watches()

    states = follow(
        server,
        set_to("Initializing"),
        set_to("Running", "RUNNING", before=server.drop_watches),
        set_to("Suspended", before=forget),
        set_to("Complete", "SUCCEEDED", before=unwell),
    )
    assert states == [JobState.QUEUED, JobState.STARTING, JobState.RUNNING, JobState.QUEUED, JobState.DONE]
    watches = [query for _, _, query in server.seen if query.get("watch") == "true"]
    asked = [query for method, path, query in server.seen if method == "GET" and path.endswith("/rayjobs")]
    lists = [query for query in asked if "watch" not in query]
    assert len(watches) >= 3
    assert len(lists) == 3  # the first; after 410; after 500
    assert int(watches[1]["resourceVersion"]) > int(watches[0]["resourceVersion"])


def test_a_job_that_is_deleted_ends_the_watch(server: ApiServer) -> None:
    jobs = KubernetesJobs()
    jobs.submit(rayjob())
    changes = jobs.watch_job("x-fit-1", every_s=5)
    next(changes)
    threading.Timer(0.2, lambda: jobs.cancel("x-fit-1")).start()
    with pytest.raises(JobMissingError, match="deleted"):
        next(changes)


def test_logs_follow_the_driver_over_a_broken_stream_and_into_the_next_cluster(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medfuncta_dist.submit.backends.kubernetes.kubernetes_jobs.POLL_S", 0.1)
    jobs = KubernetesJobs()
    jobs.submit(rayjob())
    with pytest.raises(ClusterError, match="no log of this job"):
        list(jobs.read_logs("x-fit-1"))
    server.set_status("x-fit-1", rayClusterName="c1", jobDeploymentStatus="Running", jobStatus="RUNNING")
    server.add_pod("h1", ["one", "two"], labels={"ray.io/cluster": "c1", "ray.io/node-type": "head"})
    assert [line.text for line in jobs.read_logs("x-fit-1")] == ["one", "two"]
    texts = []
    for line in jobs.read_logs("x-fit-1", follow=True):
        texts.append(line.text)
        assert line.time is not None
        if line.text == "two":
            server.drop_watches()
            threading.Timer(0.3, lambda: server.say("h1", "three")).start()
        if line.text == "three":
            labels = {"ray.io/cluster": "c2", "ray.io/node-type": "head"}
            server.cluster.delete("pods", "medfuncta", "h1", "Background")
            server.set_status("x-fit-1", rayClusterName="c2")
            server.add_pod("h2", ["four"], labels=labels)
        if line.text == "four":
            server.set_status("x-fit-1", jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
            server.cluster.delete("pods", "medfuncta", "h2", "Background")
    assert texts == ["one", "two", "three", "four"]
    assert all(query.get("container") == "driver-log" for _, path, query in server.seen if path.endswith("/log"))
