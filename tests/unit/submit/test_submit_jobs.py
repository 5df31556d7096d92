"""Submitting against an API server over HTTP and storage in a folder: order, names, keys, refusals, chains."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import ClusterError, JobMissingError, RunChangedError, RunFileError, StageOrderError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.stages import readiness
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit import follow_stages, submit_jobs
from medfuncta_dist.submit.backends.backend import JobState
from medfuncta_dist.submit.backends.kubernetes.kubernetes_jobs import KubernetesJobs
from medfuncta_dist.submit.cancel_job import cancel_job
from medfuncta_dist.submit.status.job_records import read_job_records
from medfuncta_dist.submit.status.job_target import find_target
from medfuncta_dist.submit.status.next_command import Invocation
from medfuncta_dist.submit.status.run_status import RunStatus, derive_status
from medfuncta_dist.submit.status.status_facts import Inquiry, gather_facts
from medfuncta_dist.submit.submit_jobs import SubmissionRequest, read_earlier_jobs, render_manifests
from medfuncta_dist.telemetry.progress_record import ProgressRecorder
from medfuncta_dist.telemetry.progress_report import ProgressReport
from tests.api_server import ApiServer
from tests.integration.training_runs import packed
from tests.records import write_record

submit = partial(submit_jobs.submit_next_job, readiness=readiness)
resume = partial(follow_stages.resume_job, readiness=readiness)
submit_each = partial(follow_stages.submit_and_follow, readiness=readiness)


def ask(jobs: KubernetesJobs) -> Inquiry:
    return Inquiry(jobs, Invocation("run.yaml"))


def pack_now(run: RunFile) -> None:
    packed(run.storage, Path(run.storage).parent)


def end(server: ApiServer, name: str, ray: str = "SUCCEEDED") -> None:
    server.set_status(name, jobDeploymentStatus="Complete", jobStatus=ray)


def created(server: ApiServer) -> list[str]:
    return [name for plural, _, name in server.cluster.objects if plural == "rayjobs"]


def test_a_dry_run_shows_what_the_api_server_then_receives(server: ApiServer, run: RunFile) -> None:
    jobs = KubernetesJobs()
    recorded, _, remark = read_earlier_jobs(run)
    (shown,) = render_manifests(SubmissionRequest(run, ("pack",)), recorded, jobs)
    assert (server.seen, remark) == ([], "")
    submit(SubmissionRequest(run, ("pack",)), jobs)
    received = server.cluster.get("rayjobs", "medfuncta", "x-pack-1")
    for added in ("uid", "creationTimestamp", "resourceVersion", "generation"):
        del received["metadata"][added]
    assert received == jobs.build_payload(shown) == shown


def test_a_dry_run_needs_no_storage(jobs: KubernetesJobs, run: RunFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medfuncta_dist.submit.submit_jobs.DRY_RUN_DEADLINE_S", 0.3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    away = run.model_copy(update={"storage": "s3://bucket/x"})
    recorded, _, remark = read_earlier_jobs(away)
    assert "does not answer" in remark
    assert [
        m["metadata"]["name"] for m in render_manifests(SubmissionRequest(away, ("pack", "train")), recorded, jobs)
    ] == [
        "x-pack-1",
        "x-train-1",
    ]


def test_a_stage_is_refused_before_what_it_reads_from_is_complete(
    server: ApiServer, jobs: KubernetesJobs, run: RunFile
) -> None:
    with pytest.raises(StageOrderError, match="no committed snapshot"):
        submit(SubmissionRequest(run, ("train",)), jobs)
    pack_now(run)
    with pytest.raises(StageOrderError, match="not trained"):
        submit(SubmissionRequest(run, ("fit",)), jobs)
    assert not server.seen
    assert submit(SubmissionRequest(run, ("train",)), jobs).name == "x-train-1"
    assert submit(SubmissionRequest(run, ("pack", "train", "fit"), together=True), jobs).is_new is False


def limited_run(run: RunFile, **limits: Any) -> RunFile:
    given = {"queue": "medfuncta", **limits}
    return run.model_copy(update={"kubernetes": run.kubernetes.model_copy(update=given)})


def trained_for(run: RunFile, seconds: float) -> None:
    """As a driver leaves its record that was stopped after 120 of 480 steps."""
    store, now = ObjectStore(run.storage), [1000.0]
    recorder = ProgressRecorder(store, run.name, "train", clock=lambda: now[0])
    for part in range(1, 13):
        now[0] += seconds / 12
        recorder.record(ProgressReport("train", 10 * part, 480))
    with pytest.raises(KeyboardInterrupt), recorder:
        raise KeyboardInterrupt


def test_a_limited_job_is_limited_by_kueue_too_and_who_submits_it_hears_whether_the_rest_suffices(
    server: ApiServer, jobs: KubernetesJobs, run: RunFile
) -> None:
    pack_now(run)
    asked = SubmissionRequest(limited_run(run, max_hours=2.0), ("train",))
    first = submit(asked, jobs)
    assert first.forecast == (
        "used 0 of 2 hours (kubernetes.max_hours); how long train will take is not known yet: `status` tells when it "
        "runs"
    )
    label = "kueue.x-k8s.io/max-exec-time-seconds"
    found = server.cluster.get("rayjobs", "medfuncta", "x-train-1")["metadata"]["labels"]
    assert int(found[label]) == 3600 + 1.1 * 7200
    trained_for(run, 3600.0)
    end(server, "x-train-1", "FAILED")
    second = submit(asked, jobs)
    assert second.name == "x-train-2"
    assert "at the last recorded rate train needs 3.0 hours more: the limit does not suffice" in second.forecast
    found = server.cluster.get("rayjobs", "medfuncta", "x-train-2")["metadata"]["labels"]
    assert int(found[label]) == 3600 + 1.1 * 3600


def test_a_job_for_which_no_hour_is_left_is_refused_and_resumed_with_more(
    server: ApiServer, jobs: KubernetesJobs, run: RunFile
) -> None:
    pack_now(run)
    asked = limited_run(run, max_hours=2.0)
    submit(SubmissionRequest(asked, ("train",)), jobs)
    trained_for(run, 7200.0)
    end(server, "x-train-1", "FAILED")
    with pytest.raises(RunFileError, match=r"2\.0 of 2 hours .*would end as it begins"):
        resume("x-train-1", [], [], jobs)
    assert created(server) == ["x-train-1"]
    assert resume("x-train-1", ["kubernetes.max_hours=9"], [], jobs).name == "x-train-2"
    _, spent, _ = read_earlier_jobs(asked)
    assert spent.seconds == 7200.0
    assert read_earlier_jobs(run)[1].seconds == 0.0, "nothing is read for a run without a limit"


def test_stages_come_in_order_and_once(run: RunFile) -> None:
    for stages in (("fit", "train"), ("fit", "fit")):
        with pytest.raises(RunFileError, match="stages are out of order"):
            SubmissionRequest(run, stages)
    with pytest.raises(RunFileError, match="no stage 'bake'"):
        SubmissionRequest(run, ("bake",))


def test_the_same_request_again_is_the_job_at_work_and_then_the_next_attempt(
    server: ApiServer, jobs: KubernetesJobs, run: RunFile
) -> None:
    first = submit(SubmissionRequest(run, ("pack",)), jobs)
    again = submit(SubmissionRequest(run, ("pack",)), jobs)
    assert (first.name, first.is_new, again.name, again.is_new) == ("x-pack-1", True, "x-pack-1", False)
    end(server, "x-pack-1")
    assert submit(SubmissionRequest(run, ("pack",)), jobs).name == "x-pack-2"
    assert created(server) == ["x-pack-1", "x-pack-2"]


def test_a_name_is_not_given_twice_even_when_the_cluster_forgets(
    server: ApiServer, jobs: KubernetesJobs, run: RunFile
) -> None:
    submit(SubmissionRequest(run, ("pack",)), jobs)
    server.cluster.delete("rayjobs", "medfuncta", "x-pack-1", "Background")
    assert submit(SubmissionRequest(run, ("pack",)), jobs).name == "x-pack-2"


def test_an_idempotency_key_stands_for_one_job_for_ever(server: ApiServer, jobs: KubernetesJobs, run: RunFile) -> None:
    request = SubmissionRequest(run, ("pack",), idempotency_key="nightly 2026-07-11")
    assert submit(request, jobs).is_new
    end(server, "x-pack-1")
    again = submit(request, jobs)
    assert (again.name, again.is_new) == ("x-pack-1", False)
    server.cluster.delete("rayjobs", "medfuncta", "x-pack-1", "Background")
    assert not submit(request, jobs).is_new
    larger = run.model_copy(update={"cluster": run.cluster.model_copy(update={"cpus_per_worker": 2})})
    assert not submit(replace(request, run=larger), jobs).is_new
    other = run.model_copy(update={"data": run.data.model_copy(update={"shape": [9, 9]})})
    with pytest.raises(RunChangedError, match="another run file"):
        submit(replace(request, run=other), jobs)
    assert submit(replace(request, idempotency_key="another"), jobs).name == "x-pack-2"


def test_a_refused_job_leaves_no_trace(server: ApiServer, jobs: KubernetesJobs, run: RunFile) -> None:
    server.forbidden.add(("POST", "rayjobs"))
    with pytest.raises(ClusterError, match="403"):
        submit(SubmissionRequest(run, ("pack",)), jobs)
    assert read_job_records(ObjectStore(run.storage), "x") == []
    server.forbidden.clear()
    assert submit(SubmissionRequest(run, ("pack",)), jobs).name == "x-pack-1"


class Overtaken(KubernetesJobs):
    """While it looks at its manifest, another submit does all of its work."""

    def __init__(self, other: SubmissionRequest) -> None:
        super().__init__()
        self.other = other

    def require_valid(self, manifest: Mapping[str, Any]) -> None:
        submit(self.other, KubernetesJobs())


def test_of_two_submits_at_once_the_second_does_not_touch_the_record_of_the_first(
    server: ApiServer, run: RunFile
) -> None:
    other = run.model_copy(update={"data": run.data.model_copy(update={"shape": [9, 9]})})
    with pytest.raises(RunChangedError, match="x-pack-1 was submitted with another run file"):
        submit(SubmissionRequest(other, ("pack",)), Overtaken(SubmissionRequest(run, ("pack",))))
    (record,) = read_job_records(ObjectStore(run.storage), "x")
    assert record.run_file_digest == run.results_digest
    assert created(server) == ["x-pack-1"]


def test_of_two_equal_submits_at_once_the_second_finds_the_job_of_the_first(server: ApiServer, run: RunFile) -> None:
    sent = submit(SubmissionRequest(run, ("pack",)), Overtaken(SubmissionRequest(run, ("pack",))))
    assert (sent.name, sent.is_new, created(server)) == ("x-pack-1", False, ["x-pack-1"])


def test_an_invalid_manifest_is_refused_before_the_server_hears_of_it(
    server: ApiServer, jobs: KubernetesJobs, run: RunFile
) -> None:
    unmounted = run.model_copy(update={"kubernetes": run.kubernetes.model_copy(update={"claims": {}})})
    with pytest.raises(RunFileError, match="reachable-data"):
        submit(SubmissionRequest(unmounted, ("pack",)), jobs)
    assert "POST" not in {method for method, *_ in server.seen}


def test_a_chain_goes_on_with_the_first_stage_that_is_not_complete(
    server: ApiServer, jobs: KubernetesJobs, run: RunFile
) -> None:
    request = SubmissionRequest(run, ("pack", "train", "fit"))
    sent = submit(request, jobs)
    assert (sent.name, sent.remaining) == ("x-pack-1", ("train", "fit"))
    end(server, "x-pack-1")
    pack_now(run)
    assert submit(request, jobs).name == "x-train-1"


def test_following_submits_each_stage_when_the_one_before_is_done_and_stops_at_a_failure(
    server: ApiServer, jobs: KubernetesJobs, run: RunFile
) -> None:
    said: list[str] = []
    played: set[tuple[str, JobState]] = set()

    def kuberay(now: RunStatus) -> None:
        """Plays its part a moment after each state is seen: packing succeeds, training fails."""
        if (now.name, now.state) in played or now.state is not JobState.QUEUED:
            return
        played.add((now.name, now.state))
        if now.name == "x-pack-1":
            pack_now(run)
        threading.Timer(0.1, end, (server, now.name, "SUCCEEDED" if "pack" in now.name else "FAILED")).start()

    sent, ended = submit_each(SubmissionRequest(run, ("pack", "train", "fit")), ask(jobs), kuberay, said.append)
    assert said == ["x-pack-1: submitted", "x-train-1: submitted"]
    assert (sent.name, ended.state, sent.remaining) == ("x-train-1", JobState.FAILED, ())
    assert ended.next == "medfuncta-dist resume run.yaml"
    assert created(server) == ["x-pack-1", "x-train-1"]


def test_evaluation_waits_for_every_latent(run: RunFile, monkeypatch: pytest.MonkeyPatch) -> None:
    pack_now(run)
    store = ObjectStore(run.storage)
    files = {name: {"path": f"runs/x/network/{name}"} for name in ("network.safetensors", "network.json")}
    write_record(store, "runs/x/network/commit.json", "network", {"digest": "0" * 64, "files": files})
    monkeypatch.setattr("medfuncta_dist.stages.preflight.check_network", lambda run, store: None)
    with pytest.raises(StageOrderError, match="56 scans have no latent"):
        readiness.require_ready(run, store, ["evaluate"])
    monkeypatch.setattr(latent_ledger, "settled", lambda commits: _all_names(run, store))
    monkeypatch.setattr(latent_ledger, "read_commits", lambda *_: dict.fromkeys(_all_names(run, store)))
    monkeypatch.setattr(latent_ledger, "missing_parts", lambda store, folder, commits: [])
    readiness.require_ready(run, store, ["evaluate"])


def _all_names(run: RunFile, store: ObjectStore) -> set[str]:
    from medfuncta_dist.fitting.fit_driver import locate_table

    return {work.name for work in locate_table(run, store).works}


def test_cancel_is_remembered_and_resume_is_a_new_attempt_of_the_same_run(
    server: ApiServer, jobs: KubernetesJobs, run: RunFile, tmp_path: Path
) -> None:
    submit(SubmissionRequest(run, ("pack",)), jobs)
    assert resume("x-pack-1", [], [], jobs).is_new is False  # still at work
    ended, hard = cancel_job("x-pack-1", jobs, now=False)
    assert (ended.state, hard) == (JobState.CANCELLED, False)
    with pytest.raises(JobMissingError, match="give the run file"):
        resume("x-pack-1", [], [], jobs)
    path = tmp_path / "x.yaml"
    path.write_text(_dumped(run))
    assert derive_status(gather_facts(find_target(str(path), jobs))).state is JobState.CANCELLED
    resumed = resume(str(path), [], [], jobs)
    assert (resumed.name, resumed.is_new) == ("x-pack-2", True)
    # A job that KubeRay has given up is still there: its own manifest tells what it was.
    server.set_status("x-pack-2", jobDeploymentStatus="Failed", reason="JobStatusCheckTimeoutExceeded")
    now = derive_status(gather_facts(find_target("x", jobs)))
    assert (now.name, now.state, now.next) == ("x-pack-2", JobState.FAILED, "medfuncta-dist resume x-pack-2")
    assert "head of its Ray cluster was lost" in now.failure
    assert resume("x", [], [], jobs).name == "x-pack-3"


def test_a_resumed_job_has_the_overlays_that_it_was_submitted_with(
    server: ApiServer, jobs: KubernetesJobs, run: RunFile, tmp_path: Path
) -> None:
    """Without them it would pass by the queue, and find no node that it tolerates."""
    path = tmp_path / "x.yaml"
    path.write_text(_dumped(run))
    submit(SubmissionRequest(run, ("pack",), ("gpu", "kueue")), jobs)
    server.set_status("x-pack-1", jobDeploymentStatus="Failed", reason="JobStatusCheckTimeoutExceeded")
    assert resume("x", [], [], jobs).name == "x-pack-2"
    cancel_job("x-pack-2", jobs, now=False)
    assert resume(str(path), [], [], jobs).name == "x-pack-3"
    queue = "kueue.x-k8s.io/queue-name"
    assert jobs.read_job("x-pack-1").labels[queue] == jobs.read_job("x-pack-3").labels[queue] == "medfuncta"
    server.set_status("x-pack-3", jobDeploymentStatus="Failed", reason="JobStatusCheckTimeoutExceeded")
    assert resume("x", ["kubernetes.backoff_limit=7"], ["gpu"], jobs).name == "x-pack-4"
    assert queue not in jobs.read_job("x-pack-4").labels
    assert server.cluster.get("rayjobs", "medfuncta", "x-pack-4")["spec"]["backoffLimit"] == 7


def test_a_runs_newest_job_is_meant_also_when_it_was_cancelled(
    server: ApiServer, jobs: KubernetesJobs, run: RunFile
) -> None:
    """A cancelled job is deleted, and older ones of its run are still there."""
    submit(SubmissionRequest(run, ("pack",)), jobs)
    pack_now(run)
    end(server, "x-pack-1")
    submit(SubmissionRequest(run, ("pack", "train")), jobs)
    cancel_job("x", jobs, now=False)
    now = derive_status(gather_facts(find_target("x", jobs)))
    assert (now.name, now.state) == ("x-train-1", JobState.CANCELLED)
    assert resume("x", [], [], jobs).name == "x-train-2"


def test_a_cancelled_job_is_not_resumed_by_the_run_file_of_one_that_evaluates(
    server: ApiServer, jobs: KubernetesJobs, run: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one has no GPUs, and its run file says so."""
    gpus = run.model_copy(update={"cluster": run.cluster.model_copy(update={"gpus_per_worker": 1.0})})
    monkeypatch.setattr("medfuncta_dist.stages.readiness.require_ready", lambda run, store, stages: None)
    for stage in ("fit", "evaluate", "train"):
        submit(SubmissionRequest(gpus, (stage,)), jobs)
        end(server, f"x-{stage}-1") if stage != "train" else cancel_job("x-train-1", jobs, now=False)
    server.cluster.objects["rayjobs", "medfuncta", "x-fit-1"]["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    target = find_target("x", jobs)
    assert target.run is not None
    assert (target.name, target.run.cluster.gpus_per_worker) == ("x-train-1", 1)
    server.cluster.delete("rayjobs", "medfuncta", "x-fit-1", "Background")
    with pytest.raises(JobMissingError, match="do not show its run file") as caught:
        resume("x", [], [], jobs)
    assert caught.value.do == "give the run file instead"


@pytest.mark.parametrize("name", ["x", "x-train-2"])
def test_a_run_that_was_evaluated_is_found_in_storage_and_resumed_where_its_gpus_are_known(
    name: str, server: ApiServer, jobs: KubernetesJobs, run: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kept run file does not tell whether training has GPUs, once a job of its own has evaluated."""
    monkeypatch.setattr("medfuncta_dist.stages.readiness.require_ready", lambda run, store, stages: None)
    ObjectStore(run.storage).write("runs/x/run.yaml", _dumped(run).encode())
    for job in ("x-train-1", "x-evaluate-1", "x-train-2"):
        submit(SubmissionRequest(run, (job.split("-")[1],)), jobs)
        end(server, job, "FAILED")
    assert find_target(name, jobs, storage=run.storage).name == "x-train-2"
    assert find_target("x-train-1", jobs, storage=run.storage).name == "x-train-1"
    assert resume(name, [], [], jobs, storage=run.storage).name == "x-train-3", "the job's own run file tells"
    for job in ("x-train-2", "x-train-3"):
        server.cluster.delete("rayjobs", "medfuncta", job, "Background")
    with pytest.raises(JobMissingError, match="only evaluates") as caught:
        resume(name, [], [], jobs, storage=run.storage)
    assert "give the run file instead" in caught.value.do
    assert resume(name, ["cluster.gpus_per_worker=0"], [], jobs, storage=run.storage).name == "x-train-4"


def test_a_job_with_gpus_is_not_resumed_without_them(
    server: ApiServer, jobs: KubernetesJobs, run: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medfuncta_dist.stages.readiness.require_ready", lambda run, store, stages: None)
    ObjectStore(run.storage).write("runs/x/run.yaml", _dumped(run).encode())
    gpus = run.model_copy(update={"cluster": run.cluster.model_copy(update={"gpus_per_worker": 1.0})})
    for stage in ("evaluate", "train"):
        submit(SubmissionRequest(gpus, (stage,)), jobs)
        end(server, f"x-{stage}-1", "FAILED")
    with pytest.raises(JobMissingError, match="only evaluates"):
        resume("x", [], [], jobs, storage=run.storage)


def test_cancelling_a_job_that_is_over_changes_nothing(server: ApiServer, jobs: KubernetesJobs, run: RunFile) -> None:
    submit(SubmissionRequest(run, ("pack",)), jobs)
    end(server, "x-pack-1", "FAILED")
    ended, hard = cancel_job("x-pack-1", jobs, now=False)
    assert (ended.state, hard, created(server)) == (JobState.FAILED, False, ["x-pack-1"])
    cancel_job("x-pack-1", jobs, now=True)
    assert created(server) == []
    assert [record.cancelled for record in read_job_records(ObjectStore(run.storage), "x")] == [None]


def test_a_job_that_does_not_go_is_ended_hard(server: ApiServer, jobs: KubernetesJobs, run: RunFile) -> None:
    submit(SubmissionRequest(run, ("pack",)), jobs)
    server.cluster.patch("rayjobs", "medfuncta", "x-pack-1", {"metadata": {"finalizers": ["ray.io/rayjob-finalizer"]}})
    ended, hard = cancel_job("x-pack-1", jobs, now=False, grace_s=0.2)
    assert (ended.state, hard) == (JobState.CANCELLED, True)
    assert created(server) == []


def _dumped(run: RunFile) -> str:
    from medfuncta_dist.config.load import dump

    return dump(run)
