"""``medfuncta-dist``: every command, by group. Imports typer and nothing else, so that ``--help`` answers at once."""

from __future__ import annotations

import typer

from medfuncta_dist.cli import doctor, look, quickstart, run, submit, watch

app = typer.Typer(
    help="Turn archives of medical scans into compact neural representations, at cluster scale.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
quickstart.add_to(app)
run.add_to(app)
look.add_to(app)
submit.add_to(app)
watch.add_to(app)
doctor.add_to(app)


def main() -> None:
    """Entry point of the installed command."""
    app()
