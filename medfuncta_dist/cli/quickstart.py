"""quickstart: the whole job on this machine, on a real scan."""

from __future__ import annotations

import typer

from medfuncta_dist.cli.answer import JsonOption, SetOption, answer


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("quickstart", help="Run the whole job on this machine, with a real MRI, and write a report.")(
        quickstart
    )


def quickstart(
    workdir: str = typer.Option("quickstart-run", "--workdir", help="Folder for everything the job writes."),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Pack, train, fit and evaluate the MNI152 MRI volume."""

    def work() -> dict[str, object]:
        from medfuncta_dist.quickstart.example_job import run_quickstart

        return run_quickstart(workdir, overrides)

    answer(work, as_json)
