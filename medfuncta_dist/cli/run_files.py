"""init, fork and explain: writing a run file."""

from __future__ import annotations

from typing import Any

import typer

from medfuncta_dist.cli.answer import JsonOption, RunFileArgument, SetOption, answer


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("init", help="Write a run file with comments, from five questions or from options.")(init)
    app.command(
        "fork",
        help="Write the run file of a new run, on the same scans, that starts from the trained network of another.",
    )(fork)
    app.command("explain", help="Say what a key, or a section, of the run file means.")(explain)


def fork(
    run_file: str = RunFileArgument,
    new: str = typer.Argument(..., metavar="NEW", help="Name of the new run.", show_default=False),
    out: str | None = typer.Option(None, "--out", help="The file to write; default: NEW.yaml.", show_default=False),
    overrides: list[str] = SetOption,
    as_json: bool = JsonOption,
) -> None:
    """A run file of a new run that starts from another."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.stages.fork_run import fork_run

        return fork_run(run_file, new, overrides, out or f"{new}.yaml")

    answer(work, as_json)


def init(
    out: str = typer.Argument("run.yaml", help="The file to write."),
    name: str | None = typer.Option(None, "--name", help="Name of the run.", show_default=False),
    source: str | None = typer.Option(
        None, "--source", help="Where the scans are: a folder, a glob or s3://bucket/prefix.", show_default=False
    ),
    storage: str | None = typer.Option(
        None, "--storage", help="Where results go: s3://bucket/prefix or a folder.", show_default=False
    ),
    shape: str | None = typer.Option(
        None, "--shape", help="Points of a packed scan along each axis: 64x64, 32x32x32, 187.", show_default=False
    ),
    gpus: int | None = typer.Option(None, "--gpus", min=0, help="GPUs to train and fit on.", show_default=False),
    as_json: bool = JsonOption,
) -> None:
    """Questions are asked for what no option gives, where someone can answer."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.new_run_file import Answers, write_run_file

        given = {"name": name, "source": source, "storage": storage, "shape": shape, "gpus": gpus}
        return write_run_file(out, Answers.complete(given, None if as_json else _ask))

    answer(work, as_json)


def explain(
    key: str = typer.Argument("", help="For example data.shape, shape or data.", show_default=False),
    as_json: bool = JsonOption,
) -> None:
    """What a key means."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.config.explain_key import explain

        return explain(key)

    answer(work, as_json)


def _ask(question: str, default: str) -> str:
    return str(typer.prompt(question, default=default, err=True))
