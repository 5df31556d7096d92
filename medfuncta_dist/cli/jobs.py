"""status and list: show jobs, without changing them."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from medfuncta_dist.cli.answer import JsonOption, answer, stream
from medfuncta_dist.cli.backends import (
    AddressOption,
    BackendOfRunOption,
    BackendOption,
    ContextOption,
    NamespaceOption,
    StorageOption,
    build_invocation,
    describe_options,
    find_overrides,
    open_named_backend,
)
from medfuncta_dist.cli.submit import TargetArgument
from medfuncta_dist.submit.backends.registry import BackendName

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from medfuncta_dist.submit.backends.backend import Job
    from medfuncta_dist.submit.status.job_target import JobTarget
    from medfuncta_dist.submit.status.status_facts import Inquiry


StateOption = typer.Option([], "--state", help="List only jobs in this state. Repeatable.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(
        "status",
        help="Show state, progress, time left and cost; if it waits or has failed, also why, and what to do.",
    )(status)
    app.command("list", help="List the jobs on a cluster, the newest first.")(list_jobs)


def status(
    target: str = TargetArgument,
    watch: bool = typer.Option(
        False, "--watch", help="Keep updating until the job has ended. With --json, one line each time."
    ),
    storage: str | None = StorageOption,
    backend_name: BackendName | None = BackendOfRunOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    as_json: bool = JsonOption,
) -> None:
    """Show the status of a run."""

    asked = (target, storage, backend_name, address, context, namespace)
    if watch and as_json:
        stream(lambda: _follow_as_json(*asked), as_json)
    answer(lambda: _watch(*asked) if watch else _show_status(*asked), as_json)


def _ask(
    target: str,
    storage: str | None,
    backend_name: BackendName | None,
    address: str | None,
    context: str | None,
    namespace: str | None,
) -> tuple[JobTarget, Inquiry]:
    """The job that is meant, and who is asked about it."""
    from medfuncta_dist.submit.status.job_target import find_target
    from medfuncta_dist.submit.status.status_facts import Inquiry

    backend = open_named_backend(backend_name, address, context, namespace, target, storage=storage)
    invocation = build_invocation(target, describe_options(backend, address, context, namespace), storage)
    return find_target(target, backend, storage=storage), Inquiry(backend, invocation, find_overrides)


def _show_status(*asked: Any) -> dict[str, Any]:
    from medfuncta_dist.submit.status.job_logs import with_last_lines
    from medfuncta_dist.submit.status.run_status import derive_status
    from medfuncta_dist.submit.status.status_facts import gather_facts
    from medfuncta_dist.submit.status.status_text import render_status

    found, inquiry = _ask(*asked)
    current = derive_status(gather_facts(found, inquiry))
    return with_last_lines({**current.as_dict(), "said": render_status(current)}, found, inquiry.invocation)


def _watch(*asked: Any) -> dict[str, Any]:
    from medfuncta_dist.cli.live import LiveStatus
    from medfuncta_dist.submit.status.job_logs import with_last_lines
    from medfuncta_dist.submit.status.job_watch import watch_job

    found, inquiry = _ask(*asked)
    with LiveStatus() as live:
        last = watch_job(found, inquiry.backend, live.show, inquiry=inquiry)
        return with_last_lines(live.final_answer(last), found, inquiry.invocation)


def _follow_as_json(*asked: Any) -> Generator[str, None, int]:
    """One JSON object per line; the last one, as without --watch, has the exit code, and a failed run's last lines."""
    from medfuncta_dist.cli.live import choose_exit_code
    from medfuncta_dist.submit.status.job_logs import with_last_lines
    from medfuncta_dist.submit.status.job_watch import follow_job

    found, inquiry = _ask(*asked)
    for status in follow_job(found, inquiry.backend, inquiry=inquiry):
        code = choose_exit_code(status)
        shown = status.as_dict()
        if status.state.is_over:
            shown = with_last_lines({**shown, "exit_code": code}, found, inquiry.invocation)
        yield json.dumps(shown, sort_keys=True, allow_nan=False)
    return code


def list_jobs(
    state: list[str] = StateOption,
    run: str | None = typer.Option(None, "--run", help="List only jobs of this run."),
    storage: str | None = typer.Option(
        None,
        "--storage",
        help="List the jobs of the runs below this storage root, also those that the cluster deleted.",
    ),
    limit: int = typer.Option(
        50,
        "--limit",
        min=0,
        help="With --storage: list only so many runs, those active last. Runs in which only versions before "
        "2026-11-28 have worked come after all others, by name. 0: all of them.",
    ),
    backend_name: BackendName = BackendOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    as_json: bool = JsonOption,
) -> None:
    """List the jobs on a cluster."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.submit.backends.backend import JobState
        from medfuncta_dist.submit.status.status_text import render_job_table, sort_newest_first

        unknown = set(state) - set(JobState)
        if unknown:
            from medfuncta_dist.errors import RunFileError

            raise RunFileError(f"there is no state {min(unknown)!r}", do=f"choose from {', '.join(JobState)}")

        def ask_cluster() -> list[Job]:
            return open_named_backend(backend_name, address, context, namespace).list_jobs(run)

        found = ask_cluster() if storage is None else _list_stored(storage, ask_cluster, run, limit or None)
        jobs = sort_newest_first([job for job in found if not state or str(job.state) in state])
        now = time.time()
        return {"jobs": [_describe_job(job, now) for job in jobs], "said": render_job_table(jobs, now)}

    answer(work, as_json)


def _list_stored(root: str, ask_cluster: Callable[[], list[Job]], run: str | None, limit: int | None) -> list[Job]:
    """The jobs in storage. Where no cluster answers, their states are what storage tells."""
    from medfuncta_dist.errors import ClusterError
    from medfuncta_dist.storage.object_store import ObjectStore
    from medfuncta_dist.submit.status.stored_runs import list_stored_jobs
    from medfuncta_dist.telemetry.active_runs import explain_limit

    def ask_if_it_answers() -> list[Job]:
        try:
            return ask_cluster()
        except ClusterError as error:
            print(f"the cluster does not say how its jobs are, storage does: {error.what}", file=sys.stderr)
            return []

    jobs, runs = list_stored_jobs(ObjectStore(root), ask_if_it_answers, run, limit)
    if limit is not None and len(runs.names) > limit:
        print(explain_limit(runs, limit), file=sys.stderr)
    return jobs


def _describe_job(job: Job, now: float) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(job).items() if name not in ("labels", "run_file")}
    age = None if job.submitted is None else round(max(0.0, now - job.submitted), 1)
    about = {"run": job.run, "stages": list(job.stages), "attempt": job.attempt, "age_s": age}
    return {**fields, "state": str(job.state), **about}
