"""The end of a command: one answer on stdout, everything else on stderr, and a documented exit code.

0 done · 1 any other error · 2 usage, or invalid run file · 3 finished, with quarantined scans · 4 integrity failure
5 preempted or interrupted; the same command resumes

Inside a submitted job 3 becomes 0, as the cluster would take it for a failure. The answer and summary.json have the
counts.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

RunFileArgument = typer.Argument(..., metavar="RUN.yaml", help="The run file.", show_default=False)
SetOption = typer.Option(
    [],
    "--set",
    metavar="KEY=VALUE",
    help="Override a key of the run file, for example --set train.steps=100. Repeatable.",
)
JsonOption = typer.Option(False, "--json", help="Print one JSON object on stdout, and nothing else.")


def answer(work: Callable[[], dict[str, Any]], as_json: bool) -> NoReturn:
    """Run ``work``, print what it returns, and exit.

    ``work`` returns the object that --json prints. In it, ``said`` is a list of lines, printed without --json;
    ``exit_code`` is the exit code; and ``quarantined`` > 0 makes the exit code 3.
    """
    with _redirect_stdout() as write_answer:
        try:
            signal.signal(signal.SIGTERM, _interrupt)
            figures = work()
            code = figures.pop("exit_code", 0)
            if "said" in figures:
                figures["said"] = [_with_run_file(line) for line in figures["said"]]
            if figures.get("quarantined"):
                code = _choose_quarantined_exit_code()
        except BaseException as error:
            figures, code = _describe_failure(error)
        write_answer(_to_json(figures, code) if as_json else "\n".join(figures.get("said", [])))
    sys.exit(code)


def stream(lines: Callable[[], Iterable[str]], as_json: bool) -> NoReturn:
    """Print lines as they arrive, and exit: with the code that a generator returns, else with 0. With ``as_json``, an
    error is the last line."""
    with _redirect_stdout() as write_answer:
        code = 0
        try:
            code = _write_lines(iter(lines()), write_answer)
        except BrokenPipeError:
            pass  # the reader has closed the pipe, as `head` does
        except BaseException as error:
            figures, code = _describe_failure(error)
            if as_json:
                write_answer(_to_json(figures, code))
    sys.exit(code)


def _write_lines(lines: Iterator[str], write: Callable[[str], None]) -> int:
    """Write each line; the exit code that the lines' generator returns, or 0."""
    while True:
        try:
            line = next(lines)
        except StopIteration as end:
            return int(end.value or 0)
        write(line)


def _choose_quarantined_exit_code() -> int:
    from medfuncta_dist.config.submission_id import submission_id

    return 3 if submission_id() is None else 0


def _describe_failure(error: BaseException) -> tuple[dict[str, Any], int]:
    from medfuncta_dist.errors import MedfunctaError

    error = _in_our_words(error)
    if isinstance(error, MedfunctaError):
        print(f"error: {error}", file=sys.stderr)
        kind = type(error).__name__
        return {"error": {"kind": kind, "what": error.what, "where": error.where, "do": error.do}}, error.exit_code
    # Once Ray has started, its own handler turns SIGTERM, with which a cluster stops a pod, into this exit.
    terminated = isinstance(error, SystemExit) and error.code == signal.SIGTERM
    if terminated or isinstance(error, KeyboardInterrupt):
        what, do = "interrupted", "run the same command again: it resumes"
        print(f"error: {what}\n  do:    {do}", file=sys.stderr)
        return {"error": {"kind": "Interrupted", "what": what, "where": "", "do": do}}, 5
    if isinstance(error, SystemExit):
        return {}, error.code if isinstance(error.code, int) else 1
    traceback.print_exception(error)
    return {"error": {"kind": type(error).__name__, "what": str(error), "where": "", "do": ""}}, 1


def _in_our_words(error: BaseException) -> BaseException:
    """A full disk can show anywhere: in a library, in Ray's start, in a temporary file."""
    if not isinstance(error, Exception):
        return error
    from medfuncta_dist.errors import MedfunctaError
    from medfuncta_dist.storage.scratch import disk_full

    error = disk_full(error) or error
    if isinstance(error, MedfunctaError):
        error.do = _with_run_file(error.do)
    return error


def _with_run_file(text: str) -> str:
    """A message with the run file that this command was given, as a shell takes it, so that commands in it work as they
    stand."""
    given = [argument for argument in sys.argv[1:] if argument.endswith((".yaml", ".yml")) and os.path.isfile(argument)]
    return text.replace(" RUN.yaml", f" {shlex.quote(given[0])}") if given else text


def _to_json(figures: dict[str, Any], code: int) -> str:
    return json.dumps({**figures, "exit_code": code}, sort_keys=True, allow_nan=False)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def _redirect_stdout() -> Iterator[Callable[[str], None]]:
    """Send file descriptor 1 to stderr: libraries and Ray's workers print to stdout, where only the answer belongs."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)

    def write(text: str) -> None:
        if text:
            os.write(real, text.encode() + b"\n")

    yield write
