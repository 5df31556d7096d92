"""wandb: a run's training and its latent table as runs of Weights & Biases, from storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from medfuncta_dist.cli.answer import JsonOption, RunFileArgument, SetOption, answer


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("wandb", help="Write a run's numbers, network and table as runs of Weights & Biases.")(wandb)


def wandb(
    run_file: str = RunFileArgument,
    out: str = typer.Option(".", "--out", metavar="DIR", help="Folder for offline runs: they go into DIR/wandb."),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Offline unless the run file, or WANDB_API_KEY, says otherwise."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.stages.tracked_stages import track_run

        return track_run(load(run_file, overrides), Path(out))

    answer(work, as_json)
