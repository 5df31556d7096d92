"""lookup and forget: for the owner of the archive, who has the private folder."""

from __future__ import annotations

from typing import Any

import typer

from medfuncta_dist.cli.answer import JsonOption, RunFileArgument, SetOption, answer

PatientOption = typer.Option(
    [],
    "--patient",
    metavar="ID",
    help="All scans of a patient: the ID as the archive says it, or the patient's key; - reads IDs from standard "
    "input, one in a line, so that they are in no shell history. Repeatable.",
)
KeysArgument = typer.Argument(
    None, metavar="[KEY]...", help="Keys of scans, or their first digits if they are unique.", show_default=False
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("lookup", help="From the key of a scan to its file, or from a file to the keys of its scans.")(lookup)
    app.command(
        "forget",
        help="Remove scans, or all scans of a patient, from a data set and from all that runs have made of them; "
        "delete them, prove it, and never pack them again. Networks do not unlearn.",
    )(forget)


def lookup(
    run_file: str = RunFileArgument,
    text: str = typer.Argument(..., metavar="KEY|PATH", help="The first digits of a key, or a part of a path."),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Keys and files."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.forget.lookup import look_up

        return look_up(load(run_file, overrides), text)

    answer(work, as_json)


def forget(
    run_file: str = RunFileArgument,
    keys: list[str] = KeysArgument,
    patients: list[str] = PatientOption,
    issuer: str = typer.Option("", "--issuer", help="The issuer of the patient's ID, where DICOM files name one."),
    plan: bool = typer.Option(False, "--plan", help="Say what would be done, and do nothing."),
    yes: bool = typer.Option(False, "--yes", help="Do it. It cannot be undone."),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Forget scans."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.forget.forget_command import run_forget

        return run_forget(load(run_file, overrides), keys or [], patients, issuer, plan=plan, yes=yes)

    answer(work, as_json)
