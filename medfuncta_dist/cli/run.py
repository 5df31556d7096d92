"""pack, train, fit, evaluate and run: stages, in this process and on its Ray cluster."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from medfuncta_dist.cli.answer import JsonOption, RunFileArgument, SetOption, answer
from medfuncta_dist.config.stage_names import KNOWN, STAGES

if TYPE_CHECKING:
    from medfuncta_dist.config.run_file import RunFile

STAGE_HELP = {
    "pack": "Pack scans into shards. If you run it again, it packs only what is missing or has changed.",
    "train": "Meta-learn the shared network. If you run it again, it resumes.",
    "fit": "Fit a latent for every scan. If you run it again, it fits only what is missing.",
    "evaluate": "Compute metrics, and write a report with pictures.",
}


KeyOption = typer.Option(
    None,
    "--idempotency-key",
    help="Any text. A request with the same key runs once; repeating it returns the same answer.",
)
PlanOption = typer.Option(
    False,
    "--plan",
    help="Say what would be packed, and pack nothing. Headers are read; what they say stays in the private folder.",
)
StagesArgument = typer.Argument(
    ..., metavar="STAGE...", help=f"One or more of {', '.join(KNOWN)}, in this order.", show_default=False
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for stage in STAGES:
        if stage == "pack":
            app.command(stage, help=STAGE_HELP[stage])(pack)
            continue
        app.command(stage, help=STAGE_HELP[stage])(_make_stage_command(stage))
    app.command("run", help="Run several stages in order. Submitted jobs use this command.")(run)


def pack(
    run_file: str = RunFileArgument,
    overrides: list[str] = SetOption,
    plan: bool = PlanOption,
    key: str | None = KeyOption,
    as_json: bool = JsonOption,
) -> None:
    """Pack scans into shards."""
    answer(lambda: _plan(run_file, overrides) if plan else _run_stages(run_file, ["pack"], overrides, key), as_json)


def _make_stage_command(stage: str) -> Any:
    def command(
        run_file: str = RunFileArgument,
        overrides: list[str] = SetOption,
        key: str | None = KeyOption,
        as_json: bool = JsonOption,
    ) -> None:
        answer(lambda: _run_stages(run_file, [stage], overrides, key), as_json)

    return command


def run(
    run_file: str = RunFileArgument,
    stages: list[str] = StagesArgument,
    overrides: list[str] = SetOption,
    key: str | None = KeyOption,
    as_json: bool = JsonOption,
) -> None:
    """Run several stages in order."""
    answer(lambda: _run_stages(run_file, stages, overrides, key), as_json)


def _plan(run_file: str, overrides: list[str]) -> dict[str, Any]:
    from medfuncta_dist.stages.pack_stage import plan_pack

    return plan_pack(_load_to_pack(run_file, overrides)[0])


def _load_to_pack(run_file: str, overrides: list[str]) -> tuple[RunFile, bool]:
    """The run file, and whether all of it is valid; where only later stages' sections are not, a warning says so."""
    from medfuncta_dist.config.load import load_to_pack

    run, faults = load_to_pack(run_file, overrides)
    if faults:
        print(
            f"warning: packing does not need it, but later stages will refuse this run file: {faults}", file=sys.stderr
        )
    return run, not faults


def _run_stages(run_file: str, stages: list[str], overrides: list[str], key: str | None) -> dict[str, Any]:
    from medfuncta_dist.config.load import load
    from medfuncta_dist.stages.chain import run_stages

    if stages == ["pack"]:
        run, whole = _load_to_pack(run_file, overrides)
        return run_stages(run, stages, key, freezing=whole)
    return run_stages(load(run_file, overrides), stages, key)
