"""submit --follow, which submits each stage when the one before is done; and resume, which submits a job again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from medfuncta_dist.errors import JobMissingError, RunFileError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.backend import Backend, JobState
from medfuncta_dist.submit.status.job_target import JobTarget, find_job, find_target, parse_run_file
from medfuncta_dist.submit.status.job_watch import StatusCallback, watch_job
from medfuncta_dist.submit.status.run_status import RunStatus
from medfuncta_dist.submit.status.status_facts import Inquiry
from medfuncta_dist.submit.submit_jobs import Readiness, SubmissionRequest, SubmissionResult, submit_next_job

GPU_KEY = "cluster.gpus_per_worker="


def submit_and_follow(
    request: SubmissionRequest,
    inquiry: Inquiry,
    show_status: StatusCallback,
    print_line: Callable[[str], None],
    readiness: Readiness,
) -> tuple[SubmissionResult, RunStatus]:
    """Submit one job after the other, each when the one before is done. Returns the last one, and how it ended.

    A stage whose outputs are complete is skipped, except packing: only packing can find out whether the source has
    new scans.
    """
    store, jobs = ObjectStore(request.run.storage), request.jobs
    for stages in jobs:
        is_last = stages == jobs[-1]
        if not is_last and stages[-1] != "pack" and readiness.is_complete(request.run, store, stages[-1]):
            print_line(f"{' '.join(stages)}: already complete")
            continue
        result, ended = _submit_and_watch(request, stages, inquiry, show_status, print_line, readiness)
        if ended.state is not JobState.DONE:
            break
    return result, ended


def _submit_and_watch(
    request: SubmissionRequest,
    stages: tuple[str, ...],
    inquiry: Inquiry,
    show_status: StatusCallback,
    print_line: Callable[[str], None],
    readiness: Readiness,
) -> tuple[SubmissionResult, RunStatus]:
    """Submit one job of the request, and watch it until it ends."""
    key = request.idempotency_key
    stage_key = None if key is None else f"{key}/{' '.join(stages)}"
    single = replace(request, stages=stages, together=True, idempotency_key=stage_key)
    result = submit_next_job(single, inquiry.backend, readiness)
    print_line(describe_submission(result))
    if result.forecast:
        print_line(result.forecast)
    job = find_job(inquiry.backend, result.name)
    target = JobTarget(request.run.name, request.run, job, result.record)
    return result, watch_job(target, inquiry.backend, show_status, inquiry=inquiry)


def describe_submission(result: SubmissionResult) -> str:
    """One line: the job, and whether this command submitted it."""
    return f"{result.name}: {'submitted' if result.is_new else 'already submitted'}"


def resume_job(
    text: str,
    overrides: Sequence[str],
    overlays: Sequence[str],
    backend: Backend,
    readiness: Readiness,
    storage: str | None = None,
) -> SubmissionResult:
    """Submit a job again as a new attempt at the same stages of the same run; if it is still active, return it.

    Without ``overlays``, the job keeps those it was submitted with. RunFileError when nothing is known of such a job;
    JobMissingError when its run file is not at hand, but one that may lack its GPUs, and ``overrides`` name none.
    """
    target = find_target(text, backend, overrides, storage)
    if target.run is None or not target.stages:
        raise RunFileError(
            f"there is no record of the run file or the stages of {text!r}",
            do="submit its run file: `medfuncta-dist submit RUN.yaml STAGE...`; a run that was begun on this machine "
            "goes on with the command that `medfuncta-dist status RUN.yaml` shows",
        )
    _require_known_gpus(target, overrides)
    previous = target.record.overlays if target.record is not None else ()
    request = SubmissionRequest(target.run, target.stages, tuple(overlays) or previous, together=True)
    return submit_next_job(request, backend, readiness)


def _require_known_gpus(target: JobTarget, overrides: Sequence[str]) -> None:
    if not target.may_lack_gpus or any(given.startswith(GPU_KEY) for given in overrides):
        return
    # The job that the cluster still has carries its own run file, which tells.
    carried = parse_run_file(target.job) if target.job is not None else None
    if carried is None or carried.cluster.gpus_per_worker or carried.gpus_per_task:
        raise JobMissingError(
            f"the run file that {target.run_name} keeps may be that of a job that only evaluates, which has no GPUs",
            do=f"give the run file instead; or say how many the job had: --set {GPU_KEY}0 for none",
        )
