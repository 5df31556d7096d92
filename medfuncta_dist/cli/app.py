"""``medfuncta-dist``: every command, by group. It imports only light modules, so that ``--help`` is immediate."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from medfuncta_dist.cli import (
    data,
    deploy,
    doctor,
    exchange,
    jobs,
    logs,
    neighbours,
    owner,
    prior,
    publish,
    quickstart,
    reports,
    results,
    run,
    run_files,
    submit,
    wandb,
)

app = typer.Typer(
    help="Turn archives of medical scans into compact neural representations, at cluster scale.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        from medfuncta_dist.cli.version import version

        typer.echo(version())
        raise typer.Exit


VersionOption = typer.Option(
    False, "--version", is_eager=True, callback=_show_version, help="Print the version, and the code's commit if known."
)


@app.callback()
def options(version: bool = VersionOption) -> None:
    """What comes before any command."""


quickstart.add_to(app)
run_files.add_to(app)
run.add_to(app)
data.add_to(app)
results.add_to(app)
prior.add_to(app)
exchange.add_to(app)
reports.add_to(app)
wandb.add_to(app)
publish.add_to(app)
neighbours.add_to(app)
owner.add_to(app)
submit.add_to(app)
jobs.add_to(app)
logs.add_to(app)
doctor.add_to(app)
deploy.add_to(app)


def main() -> None:
    """Entry point of the installed command."""
    try:
        app()
    except SystemExit as end:
        _exit_now(end)


def _exit_now(end: SystemExit) -> NoReturn:
    """Exit with the documented code.

    Ray's shutdown can change it: if one of its threads makes a call after its core is torn down, the process ends with
    code 1 (GetCoreWorker in core_worker_process.cc). A cluster that this process did not start notices by itself that
    it is gone, so the shutdown is skipped.
    """
    if "ray" in sys.modules and os.environ.get("RAY_ADDRESS") and isinstance(end.code, int):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)
    raise end


if __name__ == "__main__":
    main()
