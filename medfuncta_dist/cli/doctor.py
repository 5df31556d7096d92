"""doctor: find what is missing or misconfigured, and how to fix it."""

from __future__ import annotations

from typing import Any

import typer

from medfuncta_dist.cli.answer import JsonOption, SetOption, answer


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("doctor", help="Find what is missing or misconfigured, and how to fix it.")(doctor)


def doctor(
    run_file: str | None = typer.Argument(None, metavar="[RUN.yaml]", help="Also check what this run file needs."),
    context: str | None = typer.Option(None, "--context", help="Context of the kubeconfig. Default: the current one."),
    clean: bool = typer.Option(
        False, "--clean", help="Remove what ended commands have left on this machine, and check nothing."
    ),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Check this machine, the storage, Ray and Kubernetes."""

    def work() -> dict[str, Any]:
        if clean:
            from medfuncta_dist.doctor.doctor import clean_machine

            return clean_machine()
        from medfuncta_dist.config.load import load
        from medfuncta_dist.doctor.doctor import run_doctor

        return run_doctor(None if run_file is None else load(run_file, overrides), context)

    answer(work, as_json)
