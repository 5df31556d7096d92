"""What a submitter does, against the real server of custom resources with KubeRay's and Kueue's CRDs.

It serves no pods, logs, events, nodes, Secrets, ConfigMaps or namespaces: what reads them is tested with
tests/api_server.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiException

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.doctor.check import Outcome
from medfuncta_dist.doctor.kubernetes_checks import ClusterChecks
from medfuncta_dist.errors import ClusterError, JobMissingError
from medfuncta_dist.stages import readiness
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit import submit_jobs
from medfuncta_dist.submit.backends.backend import JobState
from medfuncta_dist.submit.backends.kubernetes import kubernetes_watch
from medfuncta_dist.submit.backends.kubernetes.kubernetes_api import connect
from medfuncta_dist.submit.backends.kubernetes.kubernetes_jobs import KubernetesJobs
from medfuncta_dist.submit.status.job_records import read_job_records
from medfuncta_dist.submit.submit_jobs import SubmissionRequest, render_manifests
from tests.cut_relay import CutRelay
from tests.kubernetes.crds import pluralize
from tests.kubernetes.real_server import RAY_JOBS, RealServer
from tests.unit.cli.calls import call_json, call_printed, write_run_file

ROOT = Path(__file__).parents[2]
GOLDEN = sorted((ROOT / "tests/golden").glob("*/*.yaml"))
KUEUE = [path for path in sorted((ROOT / "k8s").rglob("*.yaml")) if "kueue.x-k8s.io/" in path.read_text()]
FINALIZER = "ray.io/rayjob-finalizer"
STRICT = {"fieldValidation": "Strict", "dryRun": "All"}

submit = partial(submit_jobs.submit_next_job, readiness=readiness)


@pytest.fixture
def file(tmp_path: Path, run: RunFile, monkeypatch: pytest.MonkeyPatch) -> str:
    """The run file, in the working folder, with its scans."""
    monkeypatch.chdir(tmp_path)
    return write_run_file(tmp_path, run)


# -- manifests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_rendered_job_is_taken_strictly(server: RealServer, path: Path) -> None:
    text = path.read_text().replace("(digest)", "f" * 60)  # no label may have brackets, and zeros are a number
    for manifest in yaml.safe_load_all(text):
        where = RAY_JOBS.format(namespace=manifest["metadata"]["namespace"])
        answer = server.ask("POST", where, manifest, **STRICT)
        assert answer.code == 201, answer.body["message"]
        assert _contains(answer.body["spec"], manifest["spec"])


def test_kueues_resources_are_taken_strictly(server: RealServer) -> None:
    documents = [document for path in KUEUE for document in yaml.safe_load_all(path.read_text())]
    ours = [document for document in documents if document.get("apiVersion", "").startswith("kueue.x-k8s.io/")]
    assert {document["kind"] for document in ours} >= {"ClusterQueue", "LocalQueue", "ResourceFlavor"}
    for document in ours:
        namespace = document["metadata"].get("namespace", "medfuncta")
        inside = f"/namespaces/{namespace}" if document["kind"] == "LocalQueue" else ""
        path = f"/apis/{document['apiVersion']}{inside}/{pluralize(document['kind'])}"
        answer = server.ask("POST", path, document, **STRICT)
        assert answer.code == 201, answer


def _contains(kept: Any, sent: Any) -> bool:
    """Whether all that was sent is there; defaults may have been added."""
    if isinstance(sent, dict):
        return all(key in kept and _contains(kept[key], value) for key, value in sent.items())
    if isinstance(sent, list):
        return len(kept) == len(sent) and all(map(_contains, kept, sent))
    return bool(kept == sent)


# -- submit -----------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_what_was_shown_and_the_same_request_again_is_the_same_job(
    server: RealServer, run: RunFile
) -> None:
    jobs, request = KubernetesJobs(), SubmissionRequest(run, ("pack",))
    (shown,) = render_manifests(request, [], jobs)
    first, again = submit(request, jobs), submit(request, jobs)
    assert (first.name, first.is_new, again.name, again.is_new) == ("x-pack-1", True, "x-pack-1", False)
    kept = server.get("x-pack-1")
    assert kept is not None
    assert _contains(kept["spec"], shown["spec"])
    assert kept["metadata"]["labels"] == shown["metadata"]["labels"]
    assert jobs.submit(shown) == jobs.read_job("x-pack-1")


def test_another_job_of_that_name_stays_and_one_that_is_going_is_waited_for(server: RealServer, run: RunFile) -> None:
    jobs = KubernetesJobs()
    (manifest,) = render_manifests(SubmissionRequest(run, ("pack",)), [], jobs)
    jobs.submit(manifest)
    other = {**manifest, "metadata": {**manifest["metadata"], "labels": dict(manifest["metadata"]["labels"])}}
    other["metadata"]["labels"]["medfuncta.dev/submission"] = "another"
    with pytest.raises(ClusterError, match="another job already has this name; it is queued"):
        jobs.submit(other)
    server.patch("x-pack-1", {"metadata": {"finalizers": [FINALIZER]}})
    server.delete("x-pack-1")
    with pytest.raises(ClusterError, match="another job already has this name; it is stopping"):
        jobs.submit(other)


class Altered(KubernetesJobs):
    """It sends manifests with this change, as to a cluster whose KubeRay is another version."""

    def __init__(self, change: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self.change = change

    def build_payload(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        sent = {**manifest, "spec": dict(manifest["spec"])}
        self.change(sent["spec"])
        return sent


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (
            "authenticationOptions",
            {},
            r"\(400\): .*strict decoding error: unknown field \"spec.authenticationOptions\"",
        ),
        ("backoffLimit", "many", r"\(422\): .*spec.backoffLimit.* must be of type integer"),
    ],
)
def test_a_refused_job_says_which_field_and_leaves_no_trace(
    server: RealServer, run: RunFile, field: str, value: Any, said: str
) -> None:
    with pytest.raises(ClusterError, match=said) as caught:
        submit(SubmissionRequest(run, ("pack",)), Altered(lambda spec: spec.update({field: value})))
    assert caught.value.do == "correct what it names"
    assert server.get("x-pack-1") is None
    assert read_job_records(ObjectStore(run.storage), "x") == []
    assert submit(SubmissionRequest(run, ("pack",)), KubernetesJobs()).name == "x-pack-1"


# -- list, status, cancel, resume -------------------------------------------------------------------------------------


def test_a_run_is_submitted_listed_cancelled_and_resumed_with_the_commands(
    server: RealServer, file: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call_printed(capfd, f"medfuncta-dist submit {file} pack") == ["x-pack-1: submitted"]
    server.patch("x-pack-1", {"metadata": {"finalizers": [FINALIZER]}})
    server.set_status("x-pack-1", jobDeploymentStatus="Running", jobStatus="RUNNING", startTime="2026-01-01T00:00:00Z")
    (listed,) = call_json(capfd, "list")["jobs"]
    assert (listed["name"], listed["state"], listed["stages"]) == ("x-pack-1", "running", ["pack"])
    assert call_json(capfd, "list", "--run", "another")["jobs"] == []
    status = call_json(capfd, "status", file)
    assert (status["state"], status["place"], status["unread"]) == ("running", "kubernetes", "")

    release = {"metadata": {"finalizers": None}}
    threading.Timer(1.5, server.patch, ("x-pack-1", release)).start()  # KubeRay has stopped the job, and lets it go
    cancelled = call_json(capfd, "cancel", "x-pack-1")
    assert (cancelled["state"], cancelled["hard"]) == ("cancelled", False)
    assert server.get("x-pack-1") is None
    assert call_printed(capfd, cancelled["command"].replace("RUN.yaml", file)) == ["x-pack-2: submitted"]

    server.set_status("x-pack-2", jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed")
    failed = call_json(capfd, "status", "x-pack-2")
    assert failed["state"] == "failed"
    assert call_printed(capfd, failed["command"]) == ["x-pack-3: submitted"]
    assert [job["name"] for job in call_json(capfd, "list")["jobs"]] == ["x-pack-3", "x-pack-2"]
    server.patch("x-pack-3", {"metadata": {"finalizers": [FINALIZER]}})
    at_once = call_json(capfd, "cancel", "x-pack-3", "--now")
    assert (at_once["state"], at_once["hard"], server.get("x-pack-3")) == ("cancelled", True, None)


def test_a_missing_job_and_a_missing_kuberay_are_told_apart(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(JobMissingError, match=r'rayjobs.ray.io "x-pack-9" not found'):
        KubernetesJobs().read_job("x-pack-9")
    KubernetesJobs().cancel("x-pack-9")
    # Of a version that this cluster does not serve, as of a cluster without KubeRay.
    monkeypatch.setattr("medfuncta_dist.submit.backends.kubernetes.kubernetes_jobs.GROUP_VERSION", ("ray.io", "v9"))
    with pytest.raises(ClusterError, match=r"no RayJobs \(404\)") as caught:
        KubernetesJobs().read_job("x-pack-9")
    assert not isinstance(caught.value, JobMissingError)
    assert "install KubeRay" in caught.value.do


def test_doctor_finds_kuberay_and_the_queue(server: RealServer, run: RunFile) -> None:
    queued = run.model_copy(update={"kubernetes": run.kubernetes.model_copy(update={"queue": "night"})})
    checks = ClusterChecks(*connect(), queued)
    assert "KubeRay is installed" in checks.check_kuberay().what  # its version is that of a Deployment
    assert checks.check_kueue().state is Outcome.PASSED
    assert checks.check_queue().what == "there is no LocalQueue night in medfuncta"
    kind = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "LocalQueue"}
    queue = {**kind, "metadata": {"name": "night"}, "spec": {"clusterQueue": "all"}}
    path = "/apis/kueue.x-k8s.io/v1beta2/namespaces/medfuncta/localqueues"
    assert server.ask("POST", path, queue).code == 201
    assert "LocalQueue night" in checks.check_queue().what
    assert checks.check_queue().state is not Outcome.FAILED


# -- watch ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def relay(server: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Connections to the server go through it."""
    with CutRelay(int(server.url.rpartition(":")[2])).passing() as relay:
        url = f"https://127.0.0.1:{relay.port}"
        monkeypatch.setenv("KUBECONFIG", str(server.write_kubeconfig(tmp_path, url=url)))
        yield relay


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes with which watches have ended."""
    codes: list[int] = []
    stream = kubernetes_watch._stream_events

    def noted(*request: Any) -> Any:
        try:
            yield from stream(*request)
        except ApiException as error:
            codes.append(error.status)
            raise

    monkeypatch.setattr(kubernetes_watch, "_stream_events", noted)
    return codes


def test_a_watch_that_is_refused_while_the_server_starts_goes_on_without_a_flood(
    server: RealServer, relay: CutRelay, run: RunFile, ends: list[int]
) -> None:
    """A server that has started lists at once, and answers 429 until it can watch."""
    submit(SubmissionRequest(run, ("pack",)), KubernetesJobs())

    def restart() -> None:
        relay.hold()
        server.restart_after_compaction(until_watched=False)
        relay.release()
        server.set_status("x-pack-1", jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")

    before = relay.accepted
    threading.Timer(0.3, restart).start()
    began = time.monotonic()
    *_, last = KubernetesJobs().watch_job("x-pack-1", every_s=3)
    assert last.state is JobState.DONE
    assert relay.accepted - before < 10 + 4 * (time.monotonic() - began)
    assert set(ends) <= {410, 429}


def test_a_watch_tells_changes_and_survives_cut_connections_and_a_server_that_forgot(
    server: RealServer, relay: CutRelay, run: RunFile, ends: list[int]
) -> None:
    """After the restart the last seen version is too old: the watch is told 410, and begins anew with a list."""
    submit(SubmissionRequest(run, ("pack",)), KubernetesJobs())

    def set_to(deployment: str, job: str = "") -> None:
        server.set_status("x-pack-1", jobDeploymentStatus=deployment, jobStatus=job)

    def cut_and_run() -> None:
        relay.cut()
        set_to("Running", "RUNNING")

    def forget_and_suspend() -> None:
        relay.hold()
        server.restart_after_compaction()
        set_to("Suspended")
        relay.release()

    acts = [lambda: set_to("Initializing"), cut_and_run, forget_and_suspend, lambda: set_to("Complete", "SUCCEEDED")]
    seen: list[JobState] = []
    for job in KubernetesJobs().watch_job("x-pack-1", every_s=3):
        if not seen or seen[-1] is not job.state:
            seen.append(job.state)
            if acts:
                threading.Timer(0.3, acts.pop(0)).start()
    assert seen == [JobState.QUEUED, JobState.STARTING, JobState.RUNNING, JobState.QUEUED, JobState.DONE]
    assert ends == [410]
    assert relay.accepted < 20


def test_a_watch_ends_when_its_job_is_deleted(server: RealServer, run: RunFile) -> None:
    submit(SubmissionRequest(run, ("pack",)), KubernetesJobs())
    changes = KubernetesJobs().watch_job("x-pack-1", every_s=5)
    next(changes)
    threading.Timer(0.3, server.delete, ("x-pack-1",)).start()
    with pytest.raises(JobMissingError, match="deleted"):
        list(changes)
