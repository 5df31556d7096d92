"""Runs the sections, each in a process of its own, and keeps what they tell as soon as they tell it."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT, commit, file_part, processor
from benchmarks.gpu.page import markdown, record_of
from benchmarks.gpu.plan import LEAST_SECONDS, TRAINING_SECONDS, USUAL_SECONDS, Budget, Job, Section, chosen
from benchmarks.gpu.probe import NEEDED, WANTED
from benchmarks.gpu.result_lines import append, excerpt, read

OLDEST_TORCH = (2, 11)
DRY_SECONDS, DRY_TRAINING_SECONDS = 600.0, 30.0
"""Far more than the half minute that it takes: the machine may be busy."""
PROBE_SECONDS = 180.0
OVERRIDES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")
"""Variables that the product refuses (``meta/machine/precision.py``): the sections run without them."""
GRACE_SECONDS = 1.0
"""Beyond its limit: a section that keeps to it has ended by itself."""
MISSING, DONE = 2, 0


@dataclass(frozen=True)
class Call:
    """One call of the command."""

    sections: Sequence[Section]
    budget: Budget
    folder: Path
    data: str | None
    dry: bool
    command: str


def main(words: Sequence[str] | None = None) -> int:
    """Check what is there, run, render. The exit code: 2 where something is missing."""
    given = _parser().parse_args(words)
    if given.render:
        for results in Path(given.out or RESULTS).glob("gpu-*.jsonl"):
            render(results)
        return DONE
    call = _call(given)
    found = _probe()
    if problems := _missing(call, found):
        print("\n".join(f"make gpu: {line}" for line in problems), file=sys.stderr)
        return MISSING
    for line in _left_out(call, found):
        print(line, file=sys.stderr)
    Runner(call, found).run()
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU: shows that every section works")
    parser.add_argument(
        "--render", action="store_true", help="only write the pages again, from the results of a run cut off"
    )
    parser.add_argument("--seconds", help=f"for all sections but the training; {USUAL_SECONDS:g}")
    parser.add_argument("--training-seconds", help=f"for the training, beside what is left; {TRAINING_SECONDS:g}")
    parser.add_argument("--only", default="", help="names of sections, with commas")
    parser.add_argument("--out", help="the folder of results; benchmarks/results, for --dry a new one")
    parser.add_argument("--data", help="a MedMNIST .npz file")
    return parser


def _call(given: argparse.Namespace) -> Call:
    try:
        sections = chosen([name.strip() for name in given.only.split(",") if name.strip()])
        usual = (DRY_SECONDS, DRY_TRAINING_SECONDS) if given.dry else (USUAL_SECONDS, TRAINING_SECONDS)
        budget = Budget(float(given.seconds or usual[0]), float(given.training_seconds or usual[1]))
    except ValueError as error:
        raise SystemExit(_said(str(error))) from error
    folder = Path(given.out or (tempfile.mkdtemp(prefix="gpu-dry-") if given.dry else RESULTS))
    return Call(sections, budget, folder, given.data or None, given.dry, _command(given))


def _said(text: str) -> int:
    print(f"make gpu: {text}", file=sys.stderr)
    return MISSING


def _command(given: argparse.Namespace) -> str:
    """As somebody would type it. Of paths the last part."""
    if given.dry:
        return "python -m benchmarks.gpu --dry" + (f" --only {given.only}" if given.only else "")
    named = {
        "GPU_SECONDS": given.seconds,
        "TRAIN_SECONDS": given.training_seconds,
        "ONLY": given.only,
        "DATA": given.data and Path(given.data).name,
    }
    return " ".join(["make gpu", *(f"{name}={shlex.quote(str(value))}" for name, value in named.items() if value)])


def _probe() -> dict[str, Any]:
    asked = [sys.executable, "-m", "benchmarks.gpu.probe"]
    how: dict[str, Any] = {"cwd": ROOT, "env": _environment(), "timeout": PROBE_SECONDS, "check": False}
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, **how)
    except subprocess.TimeoutExpired:
        why = f"importing torch and asking for a card took more than {PROBE_SECONDS:.0f} s"
        return {"packages": {}, "missing": [], "cuda": {"available": False, "why": why}}
    try:
        found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return {"packages": {}, "missing": [], "cuda": {"available": False, "why": excerpt(answer.stderr)}}
    return found


def _environment() -> dict[str, str]:
    """Ours, with the repository where Python looks first after what the caller has put there, and without what would
    decide over torch's head how matrices are multiplied."""
    path = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    kept = {name: value for name, value in os.environ.items() if name not in OVERRIDES}
    return {**kept, "PYTHONPATH": os.pathsep.join([*path, str(ROOT)])}


def _missing(call: Call, found: dict[str, Any]) -> list[str]:
    """Whatever makes a run senseless, with what to do about it."""
    problems = []
    if absent := found.get("missing"):
        problems.append(f"{sys.executable} lacks {', '.join(absent)}: pip install {' '.join(NEEDED)} triton")
    torch = found["packages"].get("torch", "")
    if torch and tuple(int(part) for part in torch.split("+")[0].split(".")[:2]) < OLDEST_TORCH:
        problems.append(f"torch {torch} is too old: 2.11 or newer is needed")
    if not call.dry and not absent and not found["cuda"]["available"]:
        driver = f"driver {found['driver']}" if found.get("driver") else "no NVIDIA driver"
        problems.append(
            f"no GPU can be used: {found['cuda']['why']}; torch {torch or 'unknown'}, {driver}. Run it where "
            "`nvidia-smi` lists a card, with a CUDA build of torch (PYTHON=… chooses the interpreter); "
            "`python -m benchmarks.gpu --dry` tries all of it on a CPU"
        )
    if call.data is not None and not Path(call.data).is_file():
        problems.append(f"DATA={call.data} is no file: give a MedMNIST .npz file, or leave it out")
    try:
        call.folder.mkdir(parents=True, exist_ok=True)
        (call.folder / ".writable").touch()
        (call.folder / ".writable").unlink()
    except OSError as error:
        problems.append(f"results cannot be written: {error}; give another folder with OUT=…")
    return problems


def _left_out(call: Call, found: dict[str, Any]) -> list[str]:
    """What will be skipped for want of something, said before any time is spent."""
    why = {"triton": "compiled steps will be skipped", "deepspeed": "DeepSpeed will be skipped; carry its wheel"}
    lines = [f"{name} is not installed: {why[name]}" for name in WANTED if name not in found["packages"]]
    lines += [f"{name} is left out of the sections' environment" for name in OVERRIDES if name in os.environ]
    if call.data is None:
        lines.append("no DATA: scans are smooth noise, and the training will be skipped; give DATA=<MedMNIST .npz>")
    return lines


def render(results: Path) -> None:
    """One record and one page from a file of results, each replaced at once."""
    record = record_of(read(results))
    texts = {".json": json.dumps(record, indent=1, ensure_ascii=False) + "\n", ".md": markdown(record)}
    for suffix, text in texts.items():
        new = results.with_suffix(suffix + ".new")
        new.write_text(text)
        new.replace(results.with_suffix(suffix))


class Runner:
    """Runs the sections one after the other, and renders the results after each."""

    def __init__(self, call: Call, found: dict[str, Any]) -> None:
        self._call, self._began = call, time.monotonic()
        self._run = secrets.token_hex(4)
        card = "dry" if call.dry else file_part(found["cuda"]["name"])
        self._results = call.folder / f"gpu-{card}.jsonl"
        self._spent = 0.0
        self._scratch = Path()
        append(self._results, {"run": self._run, "where": self._where(found)})

    def run(self) -> None:
        """All sections. Ended from outside, it ends the section that runs; what was measured is on disk."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        with tempfile.TemporaryDirectory(prefix="gpu-") as scratch:
            self._scratch = Path(scratch)
            waiting: _Process | None = None
            try:
                for number, section in enumerate(self._call.sections):
                    process, waiting = waiting or _Process(section, self._scratch), None
                    following = self._call.sections[number + 1 : number + 2]
                    # The next one imports torch meanwhile; on a single core that would only take time from this one.
                    if following and not self._call.dry:
                        waiting = _Process(following[0], self._scratch)
                    self._one(section, process, number)
            finally:
                if waiting is not None:
                    waiting.kill()
                render(self._results)
        print(f"results: {self._results.with_suffix('.md')}", file=sys.stderr)

    def _one(self, section: Section, process: _Process, number: int) -> None:
        allowed = self._call.budget.allowed(self._call.sections, number, self._spent)
        head = f"[{number + 1}/{len(self._call.sections)}] {section.name}: {section.title}"
        if allowed < LEAST_SECONDS:
            process.kill()
            outcome = {"status": "not run", "why": "no time left"}
            print(f"{head}: not run, no time left", file=sys.stderr, flush=True)
        else:
            print(f"{head}, at most {allowed:.0f} s …", end=" ", file=sys.stderr, flush=True)
            outcome = self._outcome(section, process, allowed)
            print(_told(outcome), file=sys.stderr, flush=True)
        append(self._results, {"run": self._run, "section": section.name, "outcome": outcome})
        render(self._results)

    def _outcome(self, section: Section, process: _Process, allowed: float) -> dict[str, Any]:
        began = time.monotonic()
        try:
            how = process.result(self._job(section, allowed), allowed + GRACE_SECONDS)
        finally:
            process.kill()
        seconds = time.monotonic() - began
        self._spent += 0.0 if section.own_time else seconds
        told = [line["outcome"] for line in read(self._results) if self._told_by(line, section.name)]
        return {**(told[-1] if told else how), "seconds": seconds}

    def _told_by(self, line: dict[str, Any], section: str) -> bool:
        return line.get("run") == self._run and line.get("section") == section and "outcome" in line

    def _job(self, section: Section, allowed: float) -> Job:
        device = "cpu" if self._call.dry else "cuda"
        data = None if self._call.data is None else str(Path(self._call.data).resolve())
        results = str(self._results.resolve())
        return Job(section.name, self._run, device, self._call.dry, allowed, results, str(self._scratch), data)

    def _where(self, found: dict[str, Any]) -> dict[str, Any]:
        cuda = found.get("cuda", {})
        machine = {
            "name": "dry run, no GPU" if self._call.dry else cuda["name"],
            "gpu_memory_gb": cuda.get("memory_gb"),
            "capability": cuda.get("capability"),
            "driver": found.get("driver"),
            "processor": processor(),
            "cores": os.cpu_count(),
        }
        versions = {"python": found.get("python"), "cuda": cuda.get("built"), **found["packages"]}
        return {
            "machine": machine,
            "versions": {name: number for name, number in versions.items() if number is not None},
            "commit": os.environ.get("MEDFUNCTA_COMMIT") or commit(),
            "command": self._call.command,
            "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        }


class _Process:
    """The process of one section, with all that it starts: imports at once, begins when it is given its job."""

    def __init__(self, section: Section, scratch: Path) -> None:
        self._log = scratch / f"{section.name}.log"
        command = [sys.executable, "-m", "benchmarks.gpu.worker", section.module]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=_environment(), stdin=subprocess.PIPE, stdout=log, stderr=log, text=True,
                start_new_session=True,
            )  # fmt: skip

    def result(self, job: Job, seconds: float) -> dict[str, str]:
        """How it ended, for a process that does not tell it itself."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job.as_json()) + "\n")
            self._process.stdin.flush()
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return {"status": "stopped", "why": f"took more than its {job.seconds:.0f} s"}
        except BrokenPipeError:
            code = self._process.wait()
        return {"status": "crashed", "why": f"{_exit(code)}: {excerpt(self._log.read_text(errors='replace'))}"}

    def kill(self) -> None:
        """End it and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _exit(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _told(outcome: dict[str, Any]) -> str:
    why = f": {outcome['why']}" if outcome.get("why") else ""
    return f"{outcome['status']}{why} ({outcome['seconds']:.1f} s)"


if __name__ == "__main__":
    sys.exit(main())
