"""status and list: show jobs, without changing them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from medfuncta_dist.cli.answer import JsonOption, answer
from medfuncta_dist.cli.backends import (
    AddressOption,
    BackendOption,
    ContextOption,
    NamespaceOption,
    open_named_backend,
)
from medfuncta_dist.cli.submit import TargetArgument
from medfuncta_dist.submit.backends.registry import BackendName

if TYPE_CHECKING:
    from medfuncta_dist.submit.backends.backend import Job


StateOption = typer.Option([], "--state", help="List only jobs in this state. Repeatable.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(
        "status",
        help="Show state, progress, time left and cost; after a failure, also what to do.",
    )(status)
    app.command("list", help="List the jobs on a cluster.")(list_jobs)


def status(
    target: str = TargetArgument,
    watch: bool = typer.Option(False, "--watch", help="Keep updating until the job has ended."),
    backend_name: BackendName = BackendOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    as_json: bool = JsonOption,
) -> None:
    """Show the status of a run."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.submit.status.job_logs import with_last_lines
        from medfuncta_dist.submit.status.job_target import find_target
        from medfuncta_dist.submit.status.run_status import derive_status
        from medfuncta_dist.submit.status.status_facts import gather_facts
        from medfuncta_dist.submit.status.status_text import render_status

        backend = open_named_backend(backend_name, address, context, namespace, target)
        found = find_target(target, backend)
        if watch:
            from medfuncta_dist.cli.live import LiveStatus
            from medfuncta_dist.submit.status.job_watch import watch_job

            with LiveStatus() as live:
                return with_last_lines(live.final_answer(watch_job(found, backend, live.show)), found)
        current = derive_status(gather_facts(found))
        return with_last_lines({**current.as_dict(), "said": render_status(current)}, found)

    answer(work, as_json)


def list_jobs(
    state: list[str] = StateOption,
    run: str | None = typer.Option(None, "--run", help="List only jobs of this run."),
    backend_name: BackendName = BackendOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    as_json: bool = JsonOption,
) -> None:
    """List the jobs on a cluster."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.submit.backends.backend import JobState
        from medfuncta_dist.submit.status.status_text import render_job_table

        unknown = set(state) - set(JobState)
        if unknown:
            from medfuncta_dist.errors import RunFileError

            raise RunFileError(f"there is no state {min(unknown)!r}", do=f"choose from {', '.join(JobState)}")
        found = open_named_backend(backend_name, address, context, namespace).list_jobs(run)
        jobs = [job for job in found if not state or str(job.state) in state]
        return {"jobs": [_describe_job(job) for job in jobs], "said": render_job_table(jobs)}

    answer(work, as_json)


def _describe_job(job: Job) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(job).items() if name not in ("labels", "run_file")}
    return {**fields, "state": str(job.state), "run": job.run, "stages": list(job.stages), "attempt": job.attempt}
