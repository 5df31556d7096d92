"""The cluster's truth and storage's, joined."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from medfuncta_dist.submit.backends.backend import Job, JobState
from medfuncta_dist.submit.manifest.job_names import make_labels
from medfuncta_dist.submit.status.job_records import SubmissionRecord, TerminalRecord
from medfuncta_dist.submit.status.next_command import Invocation, Place
from medfuncta_dist.submit.status.run_cost import HourlyCost
from medfuncta_dist.submit.status.run_facts import RunFacts
from medfuncta_dist.submit.status.run_status import DRIVER_ALIVE_S, RunStatus, derive_status
from medfuncta_dist.submit.status.status_text import render_cancellation, render_status
from medfuncta_dist.submit.waiting.cluster_facts import Explanation, Reason
from medfuncta_dist.telemetry.progress_record import StageProgress

NOW = 1000.0
FAILURE = {"kind": "StorageError", "what": "storage refused the request: AccessDenied", "do": "check credentials"}


def told(**given: Any) -> StageProgress:
    """A fit stage a quarter done: 50 scans in the last 100 s."""
    known: dict[str, Any] = {
        "began": 400.0,
        "started": 890.0,
        "updated": 990.0,
        "done": 250,
        "total": 1000,
        "held_s": 360.0,
        "gpu_s": 2880.0,
        "samples": ((890.0, 200), (990.0, 250)),
        "notes": {"quarantined": 3},
        "submission": "x-fit-1",
    }
    return StageProgress("x", "fit", "scans", **{**known, **given})


def job(state: JobState, **given: Any) -> Job:
    return Job("x-fit-1", state, make_labels("x", "fit", 1, "x-fit-1", "d", "c"), **given)


def submitted(**given: Any) -> SubmissionRecord:
    return SubmissionRecord("x-fit-1", ("fit",), 1, "kubernetes", 300.0, "d", "c", **given)


def judged(
    state: JobState | None,
    progress: StageProgress | None = None,
    *,
    record: SubmissionRecord | None = None,
    **given: Any,
) -> RunStatus:
    progresses = {} if progress is None else {"fit": progress}
    found = None if state is None else job(state, **given.pop("job", {}))
    facts = RunFacts(NOW, "x-fit-1", "x", ("fit",), found, record, progresses, **given)
    return derive_status(facts)


def test_a_running_job_tells_progress_time_and_money() -> None:
    now = judged(JobState.RUNNING, told(), rates=HourlyCost(16.0, "EUR"))
    assert (now.state, now.stage, now.done, now.total, now.unit) == (JobState.RUNNING, "fit", 250, 1000, "scans")
    assert (now.progress, now.scans_done, now.step, now.figures) == (0.25, 250, None, {"quarantined": 3})
    assert now.eta_s == pytest.approx(750 / 0.5)
    assert now.gpu_hours == pytest.approx(0.8)
    assert now.spent == pytest.approx(1.6)
    assert now.remaining == pytest.approx(16.0 * 1500 / 3600, abs=0.01)
    assert (now.silent_s, now.restarts, now.failure, now.next) == (10.0, 0, "", "")
    text = "\n".join(render_status(now))
    assert "250/1000 scans" in text
    assert "time left 0:25:00" in text
    assert "spent 1.60 EUR   remaining 6.67 EUR" in text
    assert (now.bytes_done, now.bytes_total, now.bytes_per_s) == (0, 0, None)


def test_bytes_tell_the_time_left_of_sources_that_differ_in_size() -> None:
    size = {"bytes_done": 3 * 10**9, "bytes_total": 4 * 10**9, "byte_samples": ((890.0, 10**9), (990.0, 3 * 10**9))}
    now = judged(JobState.RUNNING, told(**size))
    assert (now.bytes_per_s, now.eta_s) == (2e7, 50.0)
    assert "250/1000 scans  3.0 GB of 4.0 GB, 20 MB/s  quarantined 3" in "\n".join(render_status(now))
    assert {"bytes_done", "bytes_total", "bytes_per_s"} < now.as_dict().keys()
    rest = judged(JobState.RUNNING, told(**{**size, "bytes_done": 4 * 10**9}))  # empty files: told by their number
    assert rest.eta_s == pytest.approx(750 / 0.5)
    over = judged(JobState.FAILED, told(**size))
    assert "3.0 GB of 4.0 GB  quarantined" in "\n".join(render_status(over))


def test_time_that_is_paid_for_keeps_its_price() -> None:
    """An hour and a half with a driver: one at 20 EUR, half of one at what the run file says now."""
    now = judged(JobState.RUNNING, told(used_s=5400.0, cost=20.0, priced_s=3600.0), rates=HourlyCost(16.0, "EUR"))
    assert now.spent == pytest.approx(28.0)


def test_steps_are_steps_and_packed_scans_are_scans() -> None:
    assert judged(JobState.RUNNING, replace(told(), unit="steps")).step == 250
    packing = replace(told(), unit="sources", notes={"packed": 77})
    assert (judged(JobState.RUNNING, packing).scans_done, judged(JobState.RUNNING, packing).step) == (77, None)


def test_without_prices_there_is_no_money_and_without_a_rate_no_time() -> None:
    now = judged(JobState.RUNNING, told(samples=((990.0, 250),)))
    assert (now.spent, now.remaining, now.eta_s) == (None, None, None)


def test_a_waiting_job_has_no_time_left() -> None:
    now = judged(JobState.QUEUED, told())
    assert (now.state, now.eta_s, now.next) == (JobState.QUEUED, None, "")


@pytest.mark.parametrize("state", list(JobState))
def test_the_cluster_decides_the_state_of_a_job_that_it_has(state: JobState) -> None:
    assert judged(state, told()).state is state


def test_a_failure_is_one_sentence_and_the_next_action() -> None:
    now = judged(JobState.FAILED, told(failure=FAILURE))
    assert now.failure == "Storage refused the request: AccessDenied."
    assert now.next == "check credentials; then medfuncta-dist resume x-fit-1"
    assert now.exit_code == 0


def test_a_terminal_record_says_why_trying_again_is_no_use() -> None:
    now = judged(
        JobState.FAILED, told(failure=FAILURE), terminal=TerminalRecord(4, "a shard is damaged\n  more", "run verify")
    )
    assert (now.failure, now.next, now.exit_code) == ("A shard is damaged.", "run verify", 4)


def test_a_head_that_is_gone_is_told_in_kuberays_place_with_resume() -> None:
    now = judged(JobState.FAILED, told(), job={"message": "the head of its Ray cluster was gone for too long"})
    assert now.failure == "The head of its Ray cluster was gone for too long."
    assert now.next == "medfuncta-dist resume x-fit-1"


def test_of_a_job_that_the_cluster_forgot_storage_tells() -> None:
    long_ago = NOW - DRIVER_ALIVE_S - 1
    assert judged(None, told(updated=long_ago), record=submitted()).state is JobState.LOST
    assert "resume" in judged(None, told(updated=long_ago), record=submitted()).next
    assert judged(None, told(), record=submitted()).state is JobState.RUNNING
    assert judged(None, told(finished=995.0, done=1000), record=submitted()).state is JobState.DONE
    assert judged(None, told(updated=long_ago), record=submitted(cancelled=999.0)).state is JobState.CANCELLED
    assert judged(None, told(), record=submitted(), terminal=TerminalRecord(2, "x", "y")).state is JobState.FAILED
    assert judged(None, told(failure=FAILURE), record=submitted()).failure.startswith("Storage refused")


def test_a_stage_that_an_earlier_job_finished_is_not_done_again_by_that() -> None:
    """Submitted at 1500, after the last finish: nothing is known of this job but that it is not there."""
    now = judged(None, told(finished=995.0, done=1000), record=replace(submitted(), time=1500.0))
    assert now.state is not JobState.DONE


def test_several_stages_in_one_job_are_told_by_the_one_it_is_in() -> None:
    packed = StageProgress("x", "pack", "sources", 400.0, 400.0, 500.0, done=9, total=9, finished=500.0, held_s=100.0)
    facts = RunFacts(
        NOW, "x", "x", ("pack", "fit"), job(JobState.RUNNING), submitted(), {"pack": packed, "fit": told()}
    )
    assert derive_status(facts).stage == "fit"
    assert derive_status(replace(facts, progress={"pack": packed})).stage == "fit"
    done = replace(facts, progress={"pack": packed, "fit": told(finished=999.0)}, rates=HourlyCost(36.0, "USD"))
    assert derive_status(done).stage == "fit"
    assert derive_status(done).spent == pytest.approx(36.0 * 460 / 3600)


def test_time_left_and_money_to_come_are_said_to_be_of_the_stage_where_more_follow() -> None:
    facts = RunFacts(
        NOW, "x", "x", ("fit", "evaluate"), job(JobState.RUNNING), None, {"fit": told()}, rates=HourlyCost(16.0, "EUR")
    )
    now = derive_status(facts)
    assert (now.stage, now.later, now.as_dict()["later"]) == ("fit", ("evaluate",), ["evaluate"])
    text = "\n".join(render_status(now))
    assert "time left 0:25:00 of this stage" in text
    assert "remaining 6.67 EUR of this stage" in text
    assert "of this stage" not in "\n".join(render_status(derive_status(replace(facts, stages=("fit",)))))


def test_a_job_whose_turn_in_a_workflow_has_not_come_is_queued_and_not_lost() -> None:
    planned = submitted(workflow="x-pf1")
    waits = judged(None, told(updated=1.0, submission="x-fit-0"), record=planned)
    assert waits.state is JobState.QUEUED
    assert (waits.waiting, waits.failure) == ("It waits for its turn in the workflow x-pf1.", "")
    assert "kubectl get workflow x-pf1" in waits.next
    assert judged(None, told(updated=1.0, submission="x-fit-1"), record=planned).state is JobState.LOST
    assert judged(JobState.QUEUED, record=planned).next == ""


def test_a_job_that_does_not_come_up_says_why_and_a_running_one_repeats_no_old_words() -> None:
    words = {"message": "FailedScheduling: 0/3 nodes are available"}
    assert judged(JobState.STARTING, job=words).waiting == "FailedScheduling: 0/3 nodes are available."
    now = judged(JobState.RUNNING, told(), job=words)
    assert (now.waiting, now.failure) == ("", "")


def test_what_kuberay_says_of_a_job_that_it_tries_again_is_its_last_failure() -> None:
    now = judged(JobState.RETRYING, job={"message": "the head was lost"})
    assert (now.waiting, now.failure) == ("", "The head was lost.")


NO_ROOM = Reason("No node can take the pod p: of 1 node, 1 has too little free memory.", "ask for less", resubmit=True)


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.STARTING, JobState.RETRYING, JobState.RUNNING])
def test_why_the_cluster_does_not_run_it_is_told_with_the_next_action(state: JobState) -> None:
    asked = Invocation("runs/x.yaml", ("--context", "prod"))
    now = judged(state, explanation=Explanation(NO_ROOM, "not read: nodes (not allowed)"), invocation=asked)
    assert now.waiting == NO_ROOM.sentence
    commands = "medfuncta-dist cancel runs/x.yaml --context prod && medfuncta-dist resume runs/x.yaml --context prod"
    assert (now.next, now.command) == (f"ask for less; after the change: {commands}", commands)
    lines = render_status(now)
    assert f"  waiting: {NO_ROOM.sentence}" in lines
    assert lines[-1] == "  not read: nodes (not allowed)"
    waits = judged(state, explanation=Explanation(Reason("It waits.", "wait")))
    assert (waits.next, waits.command) == ("wait", "")


def test_what_ended_a_failed_jobs_pod_is_told_unless_its_driver_knew_better() -> None:
    killed = Explanation(Reason("The container was killed.", "raise the memory", resubmit=True))
    now = judged(JobState.FAILED, job={"message": "the head was lost"}, explanation=killed)
    assert now.failure == "The container was killed."
    assert now.next == "raise the memory; then medfuncta-dist resume x-fit-1"
    assert judged(JobState.FAILED, told(failure=FAILURE), explanation=killed).failure.startswith("Storage refused")


INTERRUPTED = {"kind": "Interrupted", "what": "the driver was stopped", "do": "resume it"}


def local(**given: Any) -> RunStatus:
    """A run whose driver ran in a command on a machine."""
    return judged(None, told(submission=None, **given), invocation=Invocation("x.yaml"), overrides=("train.seed=7",))


def test_a_local_run_goes_on_with_the_stages_own_command() -> None:
    now = local(failure=INTERRUPTED)
    assert (now.state, now.place) == (JobState.CANCELLED, Place.LOCAL)
    assert now.next == now.command == "medfuncta-dist fit x.yaml --set train.seed=7"
    failed = local(failure=FAILURE)
    assert (failed.state, failed.failure) == (JobState.FAILED, "Storage refused the request: AccessDenied.")
    assert failed.next == "check credentials; then medfuncta-dist fit x.yaml --set train.seed=7"
    killed = local(updated=NOW - DRIVER_ALIVE_S - 1)
    assert (killed.state, killed.failure) == (JobState.LOST, "Its driver never reported an end.")
    assert killed.command == now.command


def test_the_newest_of_jobs_and_local_commands_says_where_a_run_is() -> None:
    before = replace(submitted(), time=100.0)
    assert judged(None, told(submission=None, failure=INTERRUPTED), record=before).place is Place.LOCAL
    after = replace(submitted(), time=2000.0)
    assert judged(None, told(submission=None, failure=INTERRUPTED), record=after).place is Place.KUBERNETES
    assert judged(JobState.RUNNING, told(submission=None), record=before).place is Place.KUBERNETES
    assert judged(JobState.RUNNING, backend="ray").place is Place.RAY
    ray = replace(submitted(), backend="ray")
    assert judged(None, told(failure=INTERRUPTED), record=ray).place is Place.RAY


def test_a_job_that_the_cluster_has_deleted_is_resumed_by_its_run_file() -> None:
    gone = judged(None, told(failure=FAILURE), record=submitted(cancelled=999.0), invocation=Invocation("x-fit-1"))
    assert gone.command == "medfuncta-dist resume RUN.yaml"
    there = judged(JobState.FAILED, record=submitted(), invocation=Invocation("x-fit-1"))
    assert there.command == "medfuncta-dist resume x-fit-1"


def test_of_a_run_that_was_never_started_the_first_command_is_told() -> None:
    now = derive_status(RunFacts(NOW, "x", "x", (), invocation=Invocation("x.yaml", ("--backend", "ray"))))
    assert now.place is Place.NOWHERE
    assert now.waiting == "Nothing of this run was started yet."
    assert now.command == "medfuncta-dist submit x.yaml pack train fit evaluate --backend ray"


def test_restarts_are_counted_where_they_are_known() -> None:
    assert judged(JobState.RUNNING, told(starts=3)).restarts == 2
    assert judged(JobState.RUNNING, told(starts=1), job={"restarts": 2}).restarts == 2


@pytest.mark.parametrize(("forced", "words"), [(False, "x-fit-1: cancelled"), (True, "x-fit-1: cancelled (forced)")])
def test_a_cancelled_job_is_not_said_to_have_saved(forced: bool, words: str) -> None:
    assert render_cancellation(RunStatus("x-fit-1", "x", JobState.CANCELLED, "fit"), forced=forced) == words
