"""submit, resume and cancel: start and stop jobs on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from medfuncta_dist.cli.answer import JsonOption, RunFileArgument, SetOption, answer
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
from medfuncta_dist.cli.run import KeyOption, StagesArgument
from medfuncta_dist.submit.backends.registry import BackendName
from medfuncta_dist.submit.manifest.host_class import HostClass

if TYPE_CHECKING:
    from medfuncta_dist.submit.backends.backend import Backend
    from medfuncta_dist.submit.status.status_facts import Inquiry
    from medfuncta_dist.submit.submit_jobs import SubmissionRequest, SubmissionResult

TargetArgument = typer.Argument(
    ..., metavar="RUN.yaml|NAME", help="A run file, the name of a job, or the name of a run with jobs on the cluster."
)
PlaceOption = typer.Option(None, "--place", help="Where the storage's addresses are, if its name does not tell.")
OverlayOption = typer.Option(
    [],
    "--overlay",
    help="Overlays of the manifest, applied after the run file's: names such as gpu,spot,kueue, or a folder.",
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("submit", help="Run stages as jobs on a cluster.")(submit)
    app.command("network-policy", help="Print the NetworkPolicy that lets a run's pods reach its storage.")(
        network_policy
    )
    app.command("resume", help="Submit a job again, as a new attempt of the same run and stages.")(resume)
    app.command("cancel", help="Stop a job. It has 150 s to save a checkpoint, unless --now is given.")(cancel)


def submit(
    run_file: str = RunFileArgument,
    stages: list[str] = StagesArgument,
    dry_run: bool = typer.Option(False, "--dry-run", help="Print exactly what would be sent, and send nothing."),
    workflow: bool = typer.Option(
        False,
        "--workflow",
        help="Print an Argo Workflow of the jobs, for `kubectl create -f -`, and reserve the jobs' names.",
    ),
    follow: bool = typer.Option(
        False, "--follow", help="Watch the jobs, and submit each stage when the previous one is done."
    ),
    together: bool = typer.Option(False, "--together", help="Run all stages in one job, on one cluster."),
    overlays: list[str] = OverlayOption,
    backend_name: BackendName = BackendOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    key: str | None = KeyOption,
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Run stages as jobs on a cluster."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.submit.submit_jobs import SubmissionRequest

        run = load(run_file, _add_namespace(overrides, namespace))
        request = SubmissionRequest(run, tuple(stages), _split_overlays(overlays), together, key)
        backend = open_named_backend(backend_name, address, context, run.kubernetes.namespace)
        if dry_run:
            return _answer_dry_run(request, backend, workflow)
        if workflow:
            return _answer_workflow(request, backend)
        if not follow:
            return _answer_submit(request, backend)
        return _answer_follow(request, run_file, backend, describe_options(backend, address, context, namespace))

    answer(work, as_json)


def network_policy(
    run_file: str = RunFileArgument,
    overlays: list[str] = OverlayOption,
    place: HostClass | None = PlaceOption,
    port: int | None = typer.Option(
        None, "--port", help="The port at which the storage's pods listen, if their Service has another one."
    ),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Print the NetworkPolicy that lets a run's pods reach its storage."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.submit.rules.network_policy import (
            build_policy,
            list_targets,
            read_addresses,
            render_pack_job,
        )

        addresses = read_addresses(render_pack_job(load(run_file, overrides), _split_overlays(overlays)))
        return _answer_manifests([build_policy(list_targets(addresses, place, port), addresses.namespace)])

    answer(work, as_json)


def resume(
    target: str = TargetArgument,
    overlays: list[str] = OverlayOption,
    storage: str | None = StorageOption,
    backend_name: BackendName | None = BackendOfRunOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Submit a job again."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.stages import readiness
        from medfuncta_dist.submit.follow_stages import resume_job

        backend = open_named_backend(backend_name, address, context, namespace, target, overrides, storage)
        changes = _add_namespace(overrides, namespace)
        added = _split_overlays(overlays)
        return _describe_result(resume_job(target, changes, added, backend, readiness, storage))

    answer(work, as_json)


def cancel(
    target: str = TargetArgument,
    now: bool = typer.Option(False, "--now", help="Do not wait for a checkpoint."),
    storage: str | None = StorageOption,
    backend_name: BackendName | None = BackendOfRunOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    as_json: bool = JsonOption,
) -> None:
    """Stop a job."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.submit.cancel_job import cancel_job
        from medfuncta_dist.submit.status.status_text import render_cancellation

        backend = open_named_backend(backend_name, address, context, namespace, target, storage=storage)
        options = describe_options(backend, address, context, namespace)
        inquiry = _make_inquiry(backend, target, options, storage)
        status, forced = cancel_job(target, backend, now=now, inquiry=inquiry, storage=storage)
        return {**status.as_dict(), "hard": forced, "said": [render_cancellation(status, forced=forced)]}

    answer(work, as_json)


def _add_namespace(overrides: list[str], namespace: str | None) -> list[str]:
    return [*overrides, *([f"kubernetes.namespace={namespace}"] if namespace else [])]


def _split_overlays(overlays: list[str]) -> tuple[str, ...]:
    return tuple(name for given in overlays for name in given.split(",") if name)


def _answer_dry_run(request: SubmissionRequest, backend: Backend, as_workflow: bool) -> dict[str, Any]:
    import sys

    from medfuncta_dist.submit.manifest.argo_workflow import build_workflow
    from medfuncta_dist.submit.submit_jobs import read_earlier_jobs, render_manifests

    earlier, spent, note = read_earlier_jobs(request.run)
    if note:
        print(note, file=sys.stderr)
    manifests = render_manifests(request, earlier, backend, spent)
    _warn_before_submission(request, backend)
    if as_workflow:
        return _answer_manifests([build_workflow(manifests)])
    return _answer_manifests([backend.build_payload(manifest) for manifest in manifests])


def _answer_workflow(request: SubmissionRequest, backend: Backend) -> dict[str, Any]:
    from medfuncta_dist.submit.submit_workflow import submit_workflow

    return _answer_manifests([submit_workflow(request, backend)])


def _answer_manifests(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    from medfuncta_dist.submit.manifest.manifest_text import to_yaml

    return {"manifests": manifests, "said": ["---\n".join(to_yaml(manifest) for manifest in manifests)]}


def _answer_submit(request: SubmissionRequest, backend: Backend) -> dict[str, Any]:
    from medfuncta_dist.stages import readiness
    from medfuncta_dist.submit.submit_jobs import submit_next_job

    _warn_before_submission(request, backend)
    return _describe_result(submit_next_job(request, backend, readiness))


def _answer_follow(request: SubmissionRequest, run_file: str, backend: Backend, options: list[str]) -> dict[str, Any]:
    from medfuncta_dist.cli.live import LiveStatus
    from medfuncta_dist.stages import readiness
    from medfuncta_dist.submit.follow_stages import submit_and_follow

    _warn_before_submission(request, backend)
    inquiry = _make_inquiry(backend, run_file, options)
    with LiveStatus() as live:
        result, ended = submit_and_follow(request, inquiry, live.show, live.print_line, readiness)
    return {**_describe_result(result), **live.final_answer(ended)}


def _make_inquiry(backend: Backend, target: str, options: list[str], storage: str | None = None) -> Inquiry:
    from medfuncta_dist.submit.status.status_facts import Inquiry

    return Inquiry(backend, build_invocation(target, options, storage), find_overrides)


def _warn_before_submission(request: SubmissionRequest, backend: Backend) -> None:
    """What may keep the jobs from running, as far as it shows without a cluster."""
    import sys

    from medfuncta_dist.submit.rules.image_warnings import list_images, warn_of_images
    from medfuncta_dist.submit.rules.network_policy import render_pack_job, warn_of_closed_storage
    from medfuncta_dist.submit.rules.resource_rules import warn_of_unknown_scans

    if backend.name == BackendName.KUBERNETES:
        jobs = [request.stages] if request.together else [(stage,) for stage in request.stages]
        closed = warn_of_closed_storage(render_pack_job(request.run, request.overlays))
        images = warn_of_images(list_images(request.run, jobs, request.overlays))
        unknown = warn_of_unknown_scans(request.run, request.stages)
        for warning in [*([closed] if closed else []), *images, *unknown]:
            print(warning, file=sys.stderr)


def _describe_result(result: SubmissionResult) -> dict[str, Any]:
    from medfuncta_dist.submit.follow_stages import describe_submission

    lines = [describe_submission(result), *([result.forecast] if result.forecast else [])]
    if result.remaining:
        again = "again" if result.record.idempotency_key is None else "with another idempotency key"
        lines.append(
            f"not yet submitted: {' '.join(result.remaining)} (when this job is done, run the same command {again}; "
            "or use --follow)"
        )
    return {
        "job": result.name,
        "stages": list(result.record.stages),
        "new": result.is_new,
        "left": list(result.remaining),
        "forecast": result.forecast,
        "said": lines,
    }
