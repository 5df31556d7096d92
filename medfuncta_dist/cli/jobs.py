"""status, logs and list: show jobs, without changing them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from medfuncta_dist.cli.answer import JsonOption, answer, stream
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
    from collections.abc import Iterator

    from medfuncta_dist.submit.backends.backend import Job


StateOption = typer.Option([], "--state", help="List only jobs in this state. Repeatable.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(
        "status",
        help="Show state, progress, time left and cost; after a failure, also what to do.",
    )(status)
    app.command("logs", help="Print the log of a job's driver.")(logs)
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
                return live.final_answer(watch_job(found, backend, live.show))
        current = derive_status(gather_facts(found))
        return {**current.as_dict(), "said": render_status(current)}

    answer(work, as_json)


def logs(
    target: str = TargetArgument,
    follow: bool = typer.Option(False, "--follow", "-f", help="Keep printing new lines until the job has ended."),
    backend_name: BackendName = BackendOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    as_json: bool = typer.Option(False, "--json", help="Print JSON lines on stdout."),
) -> None:
    """Print the log of a job's driver."""

    def lines() -> Iterator[str]:
        from medfuncta_dist.submit.status.job_target import find_target

        backend = open_named_backend(backend_name, address, context, namespace, target)
        name = find_target(target, backend).name
        for line in backend.read_logs(name, follow=follow):
            yield json.dumps({"job": name, **asdict(line)}) if as_json else line.text

    stream(lines, as_json)


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
