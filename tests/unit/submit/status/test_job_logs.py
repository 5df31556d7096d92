"""Where a job's log is read from: the cluster while it runs there, storage for all else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from medfuncta_dist.config.load import dump
from medfuncta_dist.errors import ClusterError, JobMissingError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.kubernetes.kubernetes_jobs import KubernetesJobs
from medfuncta_dist.submit.manifest.base_manifest import load_base
from medfuncta_dist.submit.manifest.render import Submission, render
from medfuncta_dist.submit.status.job_logs import (
    LAST_LINES,
    LogRequest,
    add_last_lines,
    find_log_target,
    find_stored_run,
    read_job_log,
    with_last_lines,
)
from medfuncta_dist.submit.status.job_records import SubmissionRecord, write_job_record
from medfuncta_dist.submit.status.job_target import JobTarget, find_target
from medfuncta_dist.submit.status.next_command import Invocation
from medfuncta_dist.telemetry.run_log.keep_log import keep_log, note


def keep(run, job, lines):
    with keep_log(ObjectStore(run.storage), run.name, job, ["fit"]):
        note(lines)


def texts(target, backend, **asked):
    return [line["text"] for line in read_job_log(target, backend, LogRequest(**asked), lambda text: None)]


def on_cluster(server, jobs, run, state):
    jobs.submit(render(Submission(run, ("fit",), 1, "x-fit-1", "abc1234"), load_base(())))
    server.set_status("x-fit-1", rayClusterName="c1", jobDeploymentStatus=state, jobStatus=state.upper())
    job = jobs.read_job("x-fit-1")
    return JobTarget(run.name, run, job)


def test_a_running_job_is_read_from_its_pod(server, jobs, run):
    target = on_cluster(server, jobs, run, "Running")
    server.add_pod("h1", ["live"], labels={"ray.io/cluster": "c1", "ray.io/node-type": "head"})
    keep(run, target.job.submission_id, ["stored"])
    assert texts(target, jobs) == ["live"]
    assert texts(target, jobs, stage="fit") == []
    assert texts(target, jobs, worker="driver") == ["stored"]


def test_a_running_job_whose_pod_cannot_be_read_is_read_from_storage(server, jobs, run):
    target = on_cluster(server, jobs, run, "Running")
    keep(run, target.job.submission_id, ["stored"])
    assert texts(target, jobs) == ["stored"]


def test_a_finished_job_is_read_from_storage_when_its_pods_are_gone(server, jobs, run):
    target = on_cluster(server, jobs, run, "Complete")
    keep(run, target.job.submission_id, ["of this job"])
    keep(run, "x-fit-2", ["of another"])
    assert texts(target, jobs) == ["of this job"]
    assert texts(target, jobs, attempt=2) == ["of another"]
    with pytest.raises(JobMissingError, match="attempt 3"):
        texts(target, jobs, attempt=3)


def test_a_job_of_an_earlier_version_is_read_from_the_cluster(server, jobs, run):
    target = on_cluster(server, jobs, run, "Complete")
    server.add_pod("h1", ["as before"], labels={"ray.io/cluster": "c1", "ray.io/node-type": "head"})
    assert texts(target, jobs, tail=1) == ["as before"]


def test_a_run_file_is_enough_for_a_local_run_and_when_no_cluster_answers(run, tmp_path, monkeypatch):
    path = tmp_path / "run.yaml"
    path.write_text(dump(run))
    keep(run, None, ["a", "b"])
    target = find_target(str(path), KubernetesJobs())
    assert texts(target, KubernetesJobs(), tail=1) == ["b"]
    write_job_record(ObjectStore(run.storage), run.name, SubmissionRecord("x-fit-1", ("fit",), 1, "k", 1.0, "d", "c"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    said: list[str] = []
    assert texts(find_log_target(str(path), KubernetesJobs(), said.append), KubernetesJobs()) == ["a", "b"]
    assert "from storage" in said[0]
    with pytest.raises(ClusterError):
        find_log_target("x-fit-1", KubernetesJobs(), said.append)


def test_a_name_is_found_below_a_storage_root(run):
    keep(run, "x-fit-1", ["a"])
    write_job_record(ObjectStore(run.storage), run.name, SubmissionRecord("x-fit-1", ("fit",), 1, "k", 1.0, "d", "c"))
    assert find_stored_run(run.storage, "x").jobs == ()
    found = find_stored_run(run.storage, "x-fit-1")
    assert (found.run, found.jobs) == ("x", ("x-fit-1",))
    with pytest.raises(JobMissingError):
        find_stored_run(run.storage, "y")


def test_the_command_prints_lines_with_who_said_them(run):
    keep(run, None, ["one", "two"])
    shown = command("x", "--storage", run.storage, "--tail", "1")
    assert shown.stdout.endswith(" driver | two\n")
    (line,) = command("x", "--storage", run.storage, "--tail", "1", "--json").stdout.splitlines()
    assert {"job": "x", "text": "two", "source": "driver", "attempt": 1}.items() <= json.loads(line).items()
    assert "no log of attempt 9" in command("x", "--storage", run.storage, "--attempt", "9").stderr


def command(*arguments):
    whole = [sys.executable, "-m", "medfuncta_dist.cli.app", "logs", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, check=False)


def test_a_failed_run_ends_with_its_last_lines(run):
    keep(run, None, [f"line {number}" for number in range(LAST_LINES + 10)])
    answer = {"name": "x", "state": "failed", "said": ["x  failed"]}
    found = with_last_lines(answer, JobTarget(run.name, run))
    assert len(found["log"]) == LAST_LINES
    assert found["log"][-1].endswith("| line 59")
    assert found["said"][:2] == ["x  failed", "  last 50 lines of its log (`medfuncta-dist logs x` has all):"]
    assert found["said"][-1].endswith("| line 59")


def test_the_command_that_has_all_lines_names_what_was_typed(run):
    keep(run, None, ["a line"])
    typed = Invocation("a folder/x.yaml", ("--backend", "ray"))
    found = with_last_lines({"name": "x", "state": "lost", "said": []}, JobTarget(run.name, run), typed)
    assert "`medfuncta-dist logs 'a folder/x.yaml' --backend ray`" in found["said"][0]


def test_an_answer_for_programs_has_the_lines_alone(run):
    keep(run, None, ["a line"])
    found = with_last_lines({"name": "x", "state": "failed"}, JobTarget(run.name, run))
    assert found["log"][0].endswith("| a line")
    assert "said" not in found


@pytest.mark.parametrize("state", ["running", "done", "queued", "cancelled"])
def test_other_runs_have_no_lines_in_their_status(run, state):
    keep(run, None, ["a line"])
    answer = {"name": "x", "state": state, "said": []}
    assert with_last_lines(answer, JobTarget(run.name, run)) == answer


def test_a_failed_run_without_a_log_is_as_before(run):
    answer = {"name": "x", "state": "failed", "said": ["x  failed"]}
    assert with_last_lines(answer, JobTarget(run.name, run)) == answer
    assert with_last_lines(answer, JobTarget("x", None)) == answer
    assert add_last_lines(answer, [], Invocation("x")) == answer
