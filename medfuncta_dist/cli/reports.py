"""report and compare: pages about runs that were evaluated."""

from __future__ import annotations

from typing import Any

import typer

from medfuncta_dist.cli.answer import JsonOption, RunFileArgument, SetOption, answer

REPORT = "Write the report of an evaluated run again, with what has come since, such as a probe."
COMPARE = "Compare two evaluated runs on the scans that both have: quality, size, settings, the worst losers."


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("report", help=REPORT)(report)
    app.command("compare", help=COMPARE)(compare)


def report(run_file: str = RunFileArgument, overrides: list[str] = SetOption, as_json: bool = JsonOption) -> None:
    """The report, again."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.stages.report_again import report_command

        return report_command(load(run_file, overrides))

    answer(work, as_json)


def compare(
    a: str = typer.Argument(..., metavar="RUN_A.yaml", help="The run file to compare with.", show_default=False),
    b: str = typer.Argument(..., metavar="RUN_B.yaml", help="The run file of the other run.", show_default=False),
    split: str | None = typer.Option(None, "--split", help="Split to compare. Default: evaluate.split of the first."),
    out: str | None = typer.Option(
        None, "--out", help="Local folder to write to. Default: comparisons/A-B in the first run's private folder."
    ),
    pictures: int = typer.Option(4, "--pictures", min=0, help="Scans to show of those that lose most and gain most."),
    as_json: bool = JsonOption,
) -> None:
    """Two runs on the same scans."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.evaluation.comparison.comparison_driver import compare_command

        return compare_command(load(a), load(b), split, out, pictures)

    answer(work, as_json)
