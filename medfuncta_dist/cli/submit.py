"""submit, resume and cancel: jobs on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from medfuncta_dist.cli.answer import JsonOption, RunFileArgument, SetOption, answer
from medfuncta_dist.cli.backends import AddressOption, BackendOption, ContextOption, NamespaceOption, Where, opened
from medfuncta_dist.cli.run import KeyOption, StagesArgument

if TYPE_CHECKING:
    from medfuncta_dist.submit.backends.backend import Backend
    from medfuncta_dist.submit.submit_jobs import SubmissionRequest, SubmissionResult

TargetArgument = typer.Argument(..., metavar="RUN.yaml|NAME", help="A run file, a job, or a run with jobs.")
OverlayOption = typer.Option(
    [], "--overlay", help="Further overlays of the manifest, after the run file's: gpu,spot,kueue or a folder."
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("submit", help="Run stages as jobs of a cluster.")(submit)
    app.command("resume", help="Submit a job once more: the same run, as a new attempt.")(resume)
    app.command("cancel", help="End a job: it saves first; hard when it does not go, or with --now.")(cancel)


def submit(
    run_file: str = RunFileArgument,
    stages: list[str] = StagesArgument,
    dry_run: bool = typer.Option(False, "--dry-run", help="Print exactly what would be sent, and send nothing."),
    workflow: bool = typer.Option(
        False, "--workflow", help="Print an Argo Workflow of the jobs, for kubectl create, and keep their names."
    ),
    follow: bool = typer.Option(False, "--follow", help="Watch, and submit each stage when the one before is done."),
    together: bool = typer.Option(False, "--together", help="All stages in one job, on one cluster."),
    overlays: list[str] = OverlayOption,
    where: Where = BackendOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    key: str | None = KeyOption,
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Run stages as jobs of a cluster."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.submit.submit_jobs import SubmissionRequest

        run = load(run_file, _add_namespace(overrides, namespace))
        request = SubmissionRequest(run, tuple(stages), _split_overlays(overlays), together, key)
        backend = opened(where, address, context, run.kubernetes.namespace)
        if dry_run:
            return _answer_dry_run(request, backend, workflow)
        if workflow:
            return _answer_workflow(request, backend)
        return _answer_follow(request, backend) if follow else _answer_submit(request, backend)

    answer(work, as_json)


def resume(
    what: str = TargetArgument,
    overlays: list[str] = OverlayOption,
    where: Where = BackendOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Submit a job once more."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.stages import readiness
        from medfuncta_dist.submit.follow_stages import resume_job

        backend = opened(where, address, context, namespace, what, overrides)
        return _describe_result(
            resume_job(what, _add_namespace(overrides, namespace), _split_overlays(overlays), backend, readiness)
        )

    answer(work, as_json)


def cancel(
    what: str = TargetArgument,
    now: bool = typer.Option(False, "--now", help="Do not wait for a checkpoint."),
    where: Where = BackendOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    as_json: bool = JsonOption,
) -> None:
    """End a job."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.submit.cancel_job import cancel_job
        from medfuncta_dist.submit.status.status_text import render_cancellation

        status, hard = cancel_job(what, opened(where, address, context, namespace, what), now=now)
        return {**status.as_dict(), "hard": hard, "said": [render_cancellation(status, hard=hard)]}

    answer(work, as_json)


def _add_namespace(overrides: list[str], namespace: str | None) -> list[str]:
    return [*overrides, *([f"kubernetes.namespace={namespace}"] if namespace else [])]


def _split_overlays(overlays: list[str]) -> tuple[str, ...]:
    return tuple(name for given in overlays for name in given.split(",") if name)


def _answer_dry_run(request: SubmissionRequest, backend: Backend, as_workflow: bool) -> dict[str, Any]:
    import sys

    from medfuncta_dist.submit.manifest.argo_workflow import build_workflow
    from medfuncta_dist.submit.submit_jobs import read_earlier_jobs, render_manifests

    recorded, remark = read_earlier_jobs(request.run)
    if remark:
        print(remark, file=sys.stderr)
    made = render_manifests(request, recorded, backend)
    return _answer_manifests(
        [build_workflow(made)] if as_workflow else [backend.outgoing(manifest) for manifest in made]
    )


def _answer_workflow(request: SubmissionRequest, backend: Backend) -> dict[str, Any]:
    from medfuncta_dist.submit.submit_workflow import submit_workflow

    return _answer_manifests([submit_workflow(request, backend)])


def _answer_manifests(things: list[dict[str, Any]]) -> dict[str, Any]:
    from medfuncta_dist.submit.manifest.manifest_text import to_yaml

    return {"manifests": things, "said": ["---\n".join(to_yaml(thing) for thing in things)]}


def _answer_submit(request: SubmissionRequest, backend: Backend) -> dict[str, Any]:
    from medfuncta_dist.stages import readiness
    from medfuncta_dist.submit.submit_jobs import submit_next_job

    return _describe_result(submit_next_job(request, backend, readiness))


def _describe_result(sent: SubmissionResult) -> dict[str, Any]:
    lines = [f"{sent.name}: {'submitted' if sent.new else 'is there already'}"]
    if sent.left:
        again = "again" if sent.record.idempotency_key is None else "with another key"
        lines.append(f"then: {' '.join(sent.left)} (the same command {again} when it is done, or --follow)")
    return {
        "job": sent.name,
        "stages": list(sent.record.stages),
        "new": sent.new,
        "left": list(sent.left),
        "said": lines,
    }


def _answer_follow(request: SubmissionRequest, backend: Backend) -> dict[str, Any]:
    from medfuncta_dist.cli.live import LiveStatus
    from medfuncta_dist.stages import readiness
    from medfuncta_dist.submit.follow_stages import submit_and_follow

    with LiveStatus() as live:
        sent, ended = submit_and_follow(request, backend, live.show, live.say, readiness)
    return {**_describe_result(sent), **live.ending(ended)}
