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
    app.command("probe", help="Classify scans from their latents, with k-NN and logistic regression.")(probe)
    app.command("verify", help="Check every checksum and count of shards, checkpoints and latents again.")(verify)


def decode(
    run_file: str = RunFileArgument,
    key: str = typer.Option(..., "--key", help="The scan's key, or its first digits if they are unique."),
    out: str = typer.Option(..., "--out", help="File to write: .nii.gz, .nii, .png, .csv or .npy."),
    shape: str | None = typer.Option(None, "--shape", help="Points per axis, for example 128x128. Default: as packed."),
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

        return decode_to_file(load(run_file, overrides), key, Path(out), parse_shape(shape), keep)

    answer(work, as_json)


def probe(run_file: str = RunFileArgument, overrides: list[str] = SetOption, as_json: bool = JsonOption) -> None:
    """Classify from latents."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.evaluation.probe import describe, probe_run

        found = probe_run(load(run_file, overrides))
        return {**found, "said": describe(found)}

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
