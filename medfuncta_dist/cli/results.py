"""decode, probe and verify: use and check what a run has produced."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from medfuncta_dist.cli.answer import JsonOption, RunFileArgument, SetOption, answer


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("decode", help="Decode a latent to NIfTI, PNG, CSV or npy, at any resolution.")(decode)
    app.command("probe", help="Classify scans from their latents, and as well from their pixels.")(probe)
    app.command("verify", help="Check every checksum and count of shards, checkpoints and latents again.")(verify)


def decode(
    run_file: str = RunFileArgument,
    key: str = typer.Option(..., "--key", help="The scan's key, or its first digits if they are unique."),
    out: str = typer.Option(..., "--out", help="File to write: .nii.gz, .nii, .png, .csv or .npy."),
    shape: str | None = typer.Option(None, "--shape", help="Points per axis, for example 128x128. Default: as packed."),
    region: str | None = typer.Option(
        None, "--region", help="Only these points of the shape, per axis first:end, the end excluded: 0:64,32:96,: ."
    ),
    keep: int | None = typer.Option(
        None, "--keep", help="Decode only this many numbers of the latent, the first ones (field.kind basis)."
    ),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """A latent back to a scan."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.evaluation.decode import decode_to_file

        run, points = load(run_file, overrides), parse_region(region)
        return decode_to_file(run, key, Path(out), parse_shape(shape), keep, points)

    answer(work, as_json)


def probe(
    run_file: str = RunFileArgument,
    label: str | None = typer.Option(
        None,
        "--label",
        help="Place of the label, from 0 (the default). Of labels that are 0 or 1 several, as 0,3, or all.",
    ),
    target: int | None = typer.Option(None, "--target", min=0, help="Place of a measurement, to be predicted instead."),
    train_split: str = typer.Option("train", "--train-split", help="Split to learn from."),
    validation_split: str | None = typer.Option(
        None, "--validation-split", help="Split to choose settings on. Default: cross-validation on the training split."
    ),
    test_split: str = typer.Option("test", "--test-split", help="Split to score."),
    classifiers: str = typer.Option(
        "k-nn,linear,mlp", "--classifiers", help="Those whose settings are chosen, with commas between."
    ),
    pixels: bool = typer.Option(True, "--pixels/--no-pixels", help="The same on PCA of pixels and on small scans."),
    most_scans: int | None = typer.Option(None, "--most-scans", min=2, help="Largest number of scans of each split."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of folds, resamples and the MLP's first weights."),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Classify from latents."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.probe.probe_driver import ProbeOptions
        from medfuncta_dist.probe.probed_scans import MOST_SCANS
        from medfuncta_dist.probe.question import question_of
        from medfuncta_dist.stages.probe_command import probe_command

        options = ProbeOptions(
            question=question_of(label, target),
            train_split=train_split,
            validation_split=validation_split,
            test_split=test_split,
            classifiers=tuple(name.strip() for name in classifiers.split(",") if name.strip()),
            seed=seed,
            pixels=pixels,
            most_scans=most_scans or MOST_SCANS,
        )
        return probe_command(load(run_file, overrides), options)

    answer(work, as_json)


def verify(
    what: str = typer.Argument(
        ..., metavar="RUN.yaml|URI", help="A run file, or the URI of a storage root, to verify everything in it."
    ),
    repair: bool = typer.Option(False, "--repair", help="Restore damaged objects if possible."),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Re-check every checksum and count."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.integrity.verify import verify_target

        return verify_target(what, overrides, repair)

    answer(work, as_json)


def parse_shape(text: str | None) -> list[int] | None:
    """``128x128`` as numbers; None where nothing is given. RunFileError for anything else."""
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,5}(x\d{1,5}){0,2}", text):
        from medfuncta_dist.errors import RunFileError

        raise RunFileError(f"{text!r} is not a shape", where="--shape", do="for example --shape 128x128")
    return [int(n) for n in text.split("x")]


def parse_region(text: str | None) -> list[slice] | None:
    """``0:64,:`` as slices; None where nothing is given. RunFileError for anything else."""
    if text is None:
        return None
    if not re.fullmatch(r"\d{0,5}:\d{0,5}(,\d{0,5}:\d{0,5}){0,2}", text):
        from medfuncta_dist.errors import RunFileError

        raise RunFileError(f"{text!r} is not a region", where="--region", do="for example --region 0:64,32:96,:")
    ends = [part.split(":") for part in text.split(",")]
    return [slice(int(first) if first else None, int(last) if last else None) for first, last in ends]
