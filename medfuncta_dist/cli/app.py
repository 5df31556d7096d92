"""``medfuncta-dist``: every command, by group. Imports typer and nothing else, so that ``--help`` answers at once."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from medfuncta_dist.cli import doctor, jobs, quickstart, results, run, submit

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
run.add_to(app)
results.add_to(app)
submit.add_to(app)
jobs.add_to(app)
doctor.add_to(app)


def main() -> None:
    """Entry point of the installed command."""
    try:
        app()
    except SystemExit as end:
        _leave(end)


def _leave(end: SystemExit) -> NoReturn:
    """End with the code that was promised.

    Ray's end can change it: where one of its threads still has a question when its core is taken down, the process ends
    with code 1 (GetCoreWorker in core_worker_process.cc). A cluster that is not ours needs no goodbye: it sees us go.
    """
    if "ray" in sys.modules and os.environ.get("RAY_ADDRESS") and isinstance(end.code, int):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)
    raise end
