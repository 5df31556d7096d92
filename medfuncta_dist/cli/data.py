"""fingerprint and data-report: what is in an archive, and what is in a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from medfuncta_dist.cli.answer import JsonOption, RunFileArgument, SetOption, answer

FINGERPRINT = "Say what an archive holds, from a sample of its scans, and suggest shape and intensity window."
DATA_REPORT = "Write a page with counts, splits, duplicates and pictures of a packed data set."


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("fingerprint", help=FINGERPRINT)(fingerprint)
    app.command("data-report", help=DATA_REPORT)(data_report)


def fingerprint(
    what: str = typer.Argument(
        ..., metavar="RUN.yaml|SCANS", help="A run file, or a folder, glob or s3:// URI of scans.", show_default=False
    ),
    sample: int = typer.Option(
        512, "--sample", min=1, help="Largest number of scans to measure, and of files and DICOM series to read."
    ),
    out: str | None = typer.Option(None, "--out", help="Write the fingerprint to this JSON file too."),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """What an archive holds."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.fingerprint.fingerprint_driver import fingerprint_command

        return fingerprint_command(what, overrides, sample, None if out is None else Path(out))

    answer(work, as_json)


def data_report(
    run_file: str = RunFileArgument,
    out: str | None = typer.Option(
        None, "--out", help="Local folder to write to. Default: data-report in the private folder of the data set."
    ),
    pictures: int = typer.Option(8, "--pictures", min=0, help="Scans to show per modality."),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """What a data set holds."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.data_report.data_report_driver import data_report_command

        return data_report_command(load(run_file, overrides), out, pictures)

    answer(work, as_json)
