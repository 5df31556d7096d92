"""submit --workflow: what it remembers, what it does not repeat, and what status then says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import ClusterError, RunChangedError, RunFileError, StorageError
from medfuncta_dist.stages import readiness
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import JobState
from medfuncta_dist.submit.backends.kubernetes.kubernetes_jobs import KubernetesJobs
from medfuncta_dist.submit.backends.ray_jobs import RayJobs
from medfuncta_dist.submit.status.job_records import read_job_records
from medfuncta_dist.submit.status.job_target import find_target
from medfuncta_dist.submit.status.run_status import RunStatus, derive_status
from medfuncta_dist.submit.status.status_facts import gather_facts
from medfuncta_dist.submit.submit_jobs import SubmissionRequest, submit_next_job
from medfuncta_dist.submit.submit_workflow import submit_workflow
from medfuncta_dist.telemetry.progress_record import ProgressRecorder
from tests.api_server import ApiServer
from tests.unit.submit.test_submit_jobs import end

CHAIN = ("pack", "train", "fit")


def applied(made: dict) -> list[dict]:
    """The RayJobs that Argo would apply, in order."""
    return [yaml.safe_load(step["resource"]["manifest"]) for step in made["spec"]["templates"][1:]]


def names(made: dict) -> list[str]:
    return [job["metadata"]["name"] for job in applied(made)]


def test_a_second_workflow_is_of_other_jobs(jobs: KubernetesJobs, run: RunFile) -> None:
    first, second = (
        submit_workflow(SubmissionRequest(run, CHAIN), jobs),
        submit_workflow(SubmissionRequest(run, CHAIN), jobs),
    )
    assert names(first) == ["x-pack-1", "x-train-1", "x-fit-1"]
    assert names(second) == ["x-pack-2", "x-train-2", "x-fit-2"]
    assert (first["metadata"]["name"], second["metadata"]["name"]) == ("x-ptf1", "x-ptf2")
    records = read_job_records(ObjectStore(run.storage), "x")
    assert [(record.name, record.workflow) for record in records] == [
        *((name, "x-ptf1") for name in names(first)),
        *((name, "x-ptf2") for name in names(second)),
    ]


def test_a_submit_does_not_take_a_name_that_a_workflow_has(
    server: ApiServer,
    jobs: KubernetesJobs,
    run: RunFile,
) -> None:
    submit_workflow(SubmissionRequest(run, CHAIN), jobs)
    assert submit_next_job(SubmissionRequest(run, ("pack",)), jobs, readiness).name == "x-pack-2"


def test_of_two_workflows_at_once_one_is_refused_and_keeps_nothing(run: RunFile) -> None:
    class Overtaken(KubernetesJobs):
        """While it looks at its last manifest, the other one takes that job's name."""

        def require_valid(self, manifest: object) -> None:
            if manifest["metadata"]["name"] == "x-fit-1":  # type: ignore[index]
                submit_workflow(SubmissionRequest(run, ("fit",)), KubernetesJobs())

    with pytest.raises(ClusterError, match="took this job's name"):
        submit_workflow(SubmissionRequest(run, CHAIN), Overtaken())
    assert [(r.name, r.workflow) for r in read_job_records(ObjectStore(run.storage), "x")] == [("x-fit-1", "x-fit-1")]


def test_without_storage_or_kubernetes_there_is_no_workflow_and_a_key_makes_one(
    jobs: KubernetesJobs,
    run: RunFile,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        submit_workflow(SubmissionRequest(run.model_copy(update={"storage": str(tmp_path / "file")}), CHAIN), jobs)
    with pytest.raises(RunFileError, match="needs Kubernetes, where Argo runs; the backend is ray"):
        submit_workflow(SubmissionRequest(run, CHAIN), RayJobs())
    submit_workflow(SubmissionRequest(run, CHAIN, idempotency_key="nightly"), jobs)
    with pytest.raises(RunChangedError, match="was used before, for x-pack-1"):
        submit_workflow(SubmissionRequest(run, CHAIN, idempotency_key="nightly"), jobs)


def test_status_tells_of_the_job_of_a_workflow_whose_turn_it_is(
    server: ApiServer,
    jobs: KubernetesJobs,
    run: RunFile,
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(dump(run))

    def told(what: str = str(path)) -> tuple[str, JobState]:
        now: RunStatus = derive_status(gather_facts(find_target(what, jobs)))
        return now.name, now.state

    pack, train, _ = applied(submit_workflow(SubmissionRequest(run, CHAIN), jobs))
    assert told() == ("x-pack-1", JobState.QUEUED)
    jobs.submit(pack)
    server.set_status("x-pack-1", jobDeploymentStatus="Running", jobStatus="RUNNING")
    assert told() == told("x") == ("x-pack-1", JobState.RUNNING)
    with ProgressRecorder(ObjectStore(run.storage), "x", "pack", job="x-pack-1"):
        end(server, "x-pack-1")
    server.cluster.delete("rayjobs", "medfuncta", "x-pack-1", "Background")
    assert told() == ("x-pack-1", JobState.DONE)
    jobs.submit(train)
    assert told() == told("x") == ("x-train-1", JobState.QUEUED)
