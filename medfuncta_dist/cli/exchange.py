"""import-network, export-network, import-latents and export-latents: to and from the public MedFuncta code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from medfuncta_dist.cli.answer import JsonOption, RunFileArgument, SetOption, answer
from medfuncta_dist.cli.results import parse_shape

RunOption = typer.Option(None, "--run", metavar="RUN.yaml", help="The run that gets it as its shared network.")
ShapeOption = typer.Option(None, "--shape", help="Points per axis of the scans, for example 64x64.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(
        "import-network",
        help="Take a network of the public MedFuncta code: as the shared network of a run, or into a folder.",
    )(import_network)
    app.command("export-network", help="Write a run's shared network as a state dict of the public MedFuncta code.")(
        export_network
    )
    app.command(
        "import-latents",
        help="Take latents of the public MedFuncta code as a run's latent table. If you run it again, it takes only "
        "what is missing.",
    )(import_latents)
    app.command("export-latents", help="Write a run's latent table as files of the public MedFuncta code.")(
        export_latents
    )


def import_network(
    file: str = typer.Argument(
        ..., metavar="FILE", help="A state dict (best.model) or a whole module (model.pt).", show_default=False
    ),
    run_file: str | None = RunOption,
    out: str | None = typer.Option(None, "--out", help="Or a new folder, for network.safetensors and network.json."),
    w0: float | None = typer.Option(None, "--w0", min=0, help="With --out: ω of the first layer (w0)."),
    increment: float = typer.Option(0.0, "--w0-increment", help="With --w0: what each layer adds (w0_increment)."),
    skips: bool = typer.Option(
        True, "--skip-connections/--no-skip-connections", help="With --w0: enable_skip_connections."
    ),
    shape: str | None = ShapeOption,
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """A public network, here."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.errors import RunFileError
        from medfuncta_dist.exchange.import_network import import_to_folder, import_to_run
        from medfuncta_dist.exchange.public_network import Schedule

        if (run_file is None) == (out is None):
            raise RunFileError(
                "give --run or --out", do="--run RUN.yaml makes it the run's network, --out writes a folder"
            )
        if run_file is not None:
            if w0 is not None or shape is not None:
                raise RunFileError("the run file says ω and shape", do="leave out --w0 and --shape")
            return import_to_run(load(run_file, overrides), file)
        schedule = None if w0 is None else Schedule(w0, increment, skips)
        return import_to_folder(file, Path(str(out)), schedule, parse_shape(shape))

    answer(work, as_json)


def export_network(
    run_file: str = RunFileArgument,
    out: str = typer.Option(..., "--out", help="File to write, for example best.model."),
    shape: str | None = ShapeOption,
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """A network, for the public code."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.exchange.export_network import export_network, network_of_run

        return export_network(network_of_run(load(run_file, overrides)), Path(out), parse_shape(shape))

    answer(work, as_json)


def import_latents(
    run_file: str = RunFileArgument,
    folder: str = typer.Argument(
        ..., metavar="FOLDER", help="Local or s3://, with a folder of files for each split.", show_default=False
    ),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """Public latents, as a table."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.exchange.import_latents import COMMAND, import_latents
        from medfuncta_dist.telemetry.progress_bar import ProgressBar

        with ProgressBar(COMMAND) as bar:
            return import_latents(load(run_file, overrides), folder, on_progress=bar.show)

    answer(work, as_json)


def export_latents(
    run_file: str = RunFileArgument,
    out: str = typer.Option(..., "--out", help="A new folder; or one that this command has begun, to go on."),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """A table, for the public code."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.load import load
        from medfuncta_dist.exchange.export_latents import COMMAND, export_latents
        from medfuncta_dist.telemetry.progress_bar import ProgressBar

        with ProgressBar(COMMAND) as bar:
            return export_latents(load(run_file, overrides), Path(out), bar.show)

    answer(work, as_json)
