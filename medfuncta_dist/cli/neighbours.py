"""index, neighbours and near-duplicates: which scans are alike."""

from __future__ import annotations

from typing import Any

import typer

from medfuncta_dist.cli.answer import JsonOption, RunFileArgument, SetOption, answer

MetricOption = typer.Option(
    "image",
    "--metric",
    help="What a distance is: image (of what latents decode to), plain (of their numbers) or whitened.",
)

SplitOption = typer.Option([], "--split", help="Look only in this split. Repeatable.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("index", help="Make the index that neighbours and near-duplicates search.")(index)
    app.command("neighbours", help="The scans that are most like a scan.")(neighbours)
    app.command("near-duplicates", help="Pairs of scans that are nearly the same, and in which splits they are.")(
        near_duplicates
    )


def index(
    run_file: str = RunFileArgument,
    metric: str = MetricOption,
    kind: str | None = typer.Option(
        None,
        "--kind",
        help="exact, reduced or compressed. Default: exact below 100 000 scans, compressed from 500 000.",
    ),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Make the index."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.stages.neighbour_commands import index_run

        return index_run(load(run_file, overrides), metric, kind)

    answer(work, as_json)


def neighbours(
    run_file: str = RunFileArgument,
    key: str = typer.Option(..., "--key", help="The scan's key, or its first digits if they are unique."),
    count: int = typer.Option(10, "--count", min=1, help="How many."),
    metric: str = MetricOption,
    split: list[str] = SplitOption,
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Search the index."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.stages.neighbour_commands import find_neighbours

        return find_neighbours(load(run_file, overrides), key, count, metric, split)

    answer(work, as_json)


def near_duplicates(
    run_file: str = RunFileArgument,
    metric: str = MetricOption,
    threshold: float | None = typer.Option(
        None, "--threshold", min=0, help="Largest distance of a pair. Default: from the distances of the table."
    ),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Report pairs."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.stages.neighbour_commands import find_near_duplicates

        return find_near_duplicates(load(run_file, overrides), metric, threshold)

    answer(work, as_json)
