"""train-prior and sample: a generative model over a run's latents, and new scans drawn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from medfuncta_dist.cli.answer import JsonOption, RunFileArgument, SetOption, answer
from medfuncta_dist.cli.results import parse_shape
from medfuncta_dist.cli.run import KeyOption


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(
        "train-prior",
        help="Fit a generative model to the latents of the split train, and judge it. If you run it again, it resumes.",
    )(train_prior)
    app.command("sample", help="Draw new scans from a run's prior: synthetic ones, marked as such in every file.")(
        sample
    )


def train_prior(
    run_file: str = RunFileArgument,
    overrides: list[str] = SetOption,
    key: str | None = KeyOption,
    as_json: bool = JsonOption,
) -> None:
    """The stage prior."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.stages.chain import run_stages

        return run_stages(load(run_file, overrides), ["prior"], key)

    answer(work, as_json)


def sample(
    run_file: str = RunFileArgument,
    out: str = typer.Option(..., "--out", help="New or empty folder to write to.", show_default=False),
    count: int = typer.Option(64, "--count", min=1, max=100_000, help="How many scans to draw."),
    label: int | None = typer.Option(
        None, "--label", help="Label of all of them. Default: labels as often as training scans have them."
    ),
    shape: str | None = typer.Option(None, "--shape", help="Points per axis, for example 128x128. Default: as packed."),
    seed: int = typer.Option(0, "--seed", min=0, help="The same seed gives the same scans."),
    file_format: str | None = typer.Option(
        None,
        "--format",
        help="csv, png, nii, nii.gz or npy. Default: csv, png (of 1 or 3 channels) or nii.gz, by the number of axes.",
    ),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """New scans."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.prior.sample_files import SampleRequest, write_samples

        points = parse_shape(shape)
        asked = SampleRequest(count, Path(out), label, None if points is None else tuple(points), seed, file_format)
        return write_samples(load(run_file, overrides), asked)

    answer(work, as_json)
