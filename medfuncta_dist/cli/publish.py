"""publish: latents, network and data card as a folder for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from medfuncta_dist.cli.answer import JsonOption, RunFileArgument, SetOption, answer

StatementOption = typer.Option(
    None,
    "--statement",
    metavar="YAML",
    help="The owner's words: licence, intended_use and, as wished, title, description, limits, labels, source, "
    "licence_link.",
)
AcknowledgeOption = typer.Option(
    None,
    "--acknowledge",
    metavar="TEXT",
    help='Must be "latents decode to images": whoever gets the folder can decode pictures of the patients.',
)
SplitOption = typer.Option([], "--split", help="Publish only this split. Repeatable.")
WithOption = typer.Option(
    [],
    "--with",
    metavar="COLUMN",
    help="Also publish spacing, window, modality, slice or steps, which can tell the scanner or the site. Repeatable.",
)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        "publish",
        help="Write latents, network, data card and decoder as a new folder that others use without this package. "
        "Latents decode to images of patients.",
    )(publish)


def publish(
    run_file: str = RunFileArgument,
    target: str = typer.Argument(
        ..., metavar="DIR|URI", help="The folder or s3:// prefix to make; nothing may be there.", show_default=False
    ),
    statement: Path | None = StatementOption,
    licence: str | None = typer.Option(None, "--licence", help="As Hugging Face lists them, for example cc-by-4.0."),
    intended_use: str | None = typer.Option(None, "--intended-use", help="What the data set may be used for."),
    acknowledge: str | None = AcknowledgeOption,
    splits: list[str] = SplitOption,
    labels: bool = typer.Option(False, "--labels", help="Publish the labels, too."),
    columns: list[str] = WithOption,
    keep_keys: bool = typer.Option(
        False, "--keep-keys", help="Use keys as ids, which the salt links to files. Default: ids drawn at random."
    ),
    leave_out_burned_in: bool = typer.Option(
        False, "--leave-out-burned-in", help="Publish without the scans that data.burned_in: keep has let in."
    ),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Publish a run's latents."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.publication.publication_driver import Wanted
        from medfuncta_dist.publication.publish_command import run_publish
        from medfuncta_dist.publication.published_rows import Columns
        from medfuncta_dist.publication.statement import statement_of

        said = statement_of(statement, {"licence": licence, "intended_use": intended_use})
        kept = Columns(labels=labels, keys=keep_keys, named=tuple(dict.fromkeys(columns)))
        wanted = Wanted(said, kept, tuple(dict.fromkeys(splits)) or None, leave_out_burned_in)
        return run_publish(load(run_file, overrides), target, wanted, acknowledge)

    answer(work, as_json)
