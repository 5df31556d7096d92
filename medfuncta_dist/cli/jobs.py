"""status, logs and list: look at jobs, without touching them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from medfuncta_dist.cli.answer import JsonOption, answer, stream
from medfuncta_dist.cli.backends import AddressOption, BackendOption, ContextOption, NamespaceOption, Where, opened
from medfuncta_dist.cli.submit import TargetArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medfuncta_dist.submit.backends.backend import Job


StateOption = typer.Option([], "--state", help="Only jobs in this state. Repeatable.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("status", help="State, progress, time left, cost, and what went wrong with what to do.")(status)
    app.command("logs", help="The lines of a job's driver.")(logs)
    app.command("list", help="The jobs that a cluster has.")(list_jobs)


def status(
    what: str = TargetArgument,
    watch: bool = typer.Option(False, "--watch", help="Go on until it is over."),
    where: Where = BackendOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    as_json: bool = JsonOption,
) -> None:
    """How a run is."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.submit.status.job_target import find_target
        from medfuncta_dist.submit.status.run_status import derive_status as judge
        from medfuncta_dist.submit.status.status_facts import gather_facts
        from medfuncta_dist.submit.status.status_text import render_status

        backend = opened(where, address, context, namespace, what)
        target = find_target(what, backend)
        if watch:
            from medfuncta_dist.cli.live import LiveStatus
            from medfuncta_dist.submit.status.job_watch import watch_job

            with LiveStatus() as live:
                return live.ending(watch_job(target, backend, live.show))
        now = judge(gather_facts(target))
        return {**now.as_dict(), "said": render_status(now)}

    answer(work, as_json)


def logs(
    what: str = TargetArgument,
    follow: bool = typer.Option(False, "--follow", "-f", help="Go on until the job is over."),
    where: Where = BackendOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    as_json: bool = typer.Option(False, "--json", help="Print JSON lines on stdout."),
) -> None:
    """The lines of a job's driver."""

    def lines() -> Iterator[str]:
        from medfuncta_dist.submit.status.job_target import find_target

        backend = opened(where, address, context, namespace, what)
        name = find_target(what, backend).name
        for line in backend.logs(name, follow=follow):
            yield json.dumps({"job": name, **asdict(line)}) if as_json else line.text

    stream(lines, as_json)


def list_jobs(
    state: list[str] = StateOption,
    run: str | None = typer.Option(None, "--run", help="Only jobs of this run."),
    where: Where = BackendOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    as_json: bool = JsonOption,
) -> None:
    """The jobs that a cluster has."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.submit.backends.backend import JobState
        from medfuncta_dist.submit.status.status_text import render_job_table

        unknown = set(state) - set(JobState)
        if unknown:
            from medfuncta_dist.errors import RunFileError

            raise RunFileError(f"there is no state {min(unknown)!r}", do=f"choose from {', '.join(JobState)}")
        found = opened(where, address, context, namespace).jobs(run)
        jobs = [job for job in found if not state or str(job.state) in state]
        return {"jobs": [_describe_job(job) for job in jobs], "said": render_job_table(jobs)}

    answer(work, as_json)


def _describe_job(job: Job) -> dict[str, Any]:
    whole = {name: value for name, value in asdict(job).items() if name not in ("labels", "run_file")}
    return {**whole, "state": str(job.state), "run": job.run, "stages": list(job.stages), "attempt": job.attempt}
