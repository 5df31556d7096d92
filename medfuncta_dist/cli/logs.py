"""logs: what the processes of a run say, from the cluster or from storage."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from medfuncta_dist.cli.answer import stream
from medfuncta_dist.cli.backends import (
    AddressOption,
    BackendOfRunOption,
    ContextOption,
    NamespaceOption,
    StorageOption,
    open_named_backend,
)
from medfuncta_dist.cli.submit import TargetArgument
from medfuncta_dist.submit.backends.registry import BackendName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medfuncta_dist.submit.status.job_logs import LogRequest

FollowOption = typer.Option(False, "--follow", "-f", help="Keep printing new lines until the driver has ended.")
AttemptOption = typer.Option(None, "--attempt", min=1, help="The driver's number, from 1. Default: the last one.")
StageOption = typer.Option(None, "--stage", help="Print only the lines of this stage.")
WorkerOption = typer.Option(
    None,
    "--worker",
    help="Print only the lines of `driver`, of all workers (`worker`), of Ray (`ray`), of a rank (`'rank 3'`), of a "
    "process (its id) or of a node (its address).",
)
TailOption = typer.Option(None, "--tail", min=1, help="Print only the last so many lines; with -f, of those there are.")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("logs", help="Print the log of a run: of its driver, and of its workers.")(logs)


def logs(
    target: str = TargetArgument,
    follow: bool = FollowOption,
    attempt: int | None = AttemptOption,
    stage: str | None = StageOption,
    worker: str | None = WorkerOption,
    tail: int | None = TailOption,
    storage: str | None = StorageOption,
    backend_name: BackendName | None = BackendOfRunOption,
    address: str | None = AddressOption,
    context: str | None = ContextOption,
    namespace: str | None = NamespaceOption,
    as_json: bool = typer.Option(False, "--json", help="Print JSON lines on stdout."),
) -> None:
    """Print the log of a run."""

    def lines() -> Iterator[str]:
        from medfuncta_dist.submit.status.job_logs import LogRequest

        request = LogRequest(follow, attempt, stage, worker, tail)
        place = (backend_name, address, context, namespace)
        from medfuncta_dist.submit.status.job_target import is_run_file

        stored = storage is not None and not is_run_file(target)
        for name, line in _stored(str(storage), target, request) if stored else _of_target(target, request, *place):
            shown = line.pop("shown", line["text"])
            yield json.dumps({"job": name, **line}) if as_json else shown

    stream(lines, as_json)


def _stored(root: str, name: str, request: LogRequest) -> Iterator[tuple[str, dict[str, Any]]]:
    from medfuncta_dist.submit.status.job_logs import find_stored_run, read_stored_log

    source = find_stored_run(root, name)
    return ((name, line) for line in read_stored_log(source, request, _say))


def _of_target(
    target: str,
    request: LogRequest,
    name: BackendName | None,
    address: str | None,
    context: str | None,
    namespace: str | None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    from medfuncta_dist.submit.status.job_logs import find_log_target, read_job_log

    backend = open_named_backend(name, address, context, namespace, target)
    found = find_log_target(target, backend, _say)
    return ((found.name, line) for line in read_job_log(found, backend, request, _say))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
