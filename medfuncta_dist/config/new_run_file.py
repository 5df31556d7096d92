"""A first run file, with comments, from five answers."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medfuncta_dist.config.load import parse
from medfuncta_dist.errors import RunFileError

QUESTIONS = {
    "name": ("Name of the run (letters, digits, dashes)", "my-scans"),
    "source": ("Where are the scans? A folder, a glob, or s3://bucket/prefix", "scans"),
    "storage": ("Where do results go? s3://bucket/prefix, or a folder", "results"),
    "shape": (
        "Points of a packed scan along each axis: 64x64 for images, 32x32x32 for volumes, 187 for signals",
        "64x64",
    ),
    "gpus": ("How many GPUs? 0: train on this machine's CPUs", "0"),
}
"""By answer: question and what an empty line means."""
CPUS_PER_GPU = 4

Ask = Callable[[str, str], str]
"""(question, default) -> answer"""


@dataclass(frozen=True)
class Answers:
    """``shape``: points along each axis."""

    name: str
    source: str
    storage: str
    shape: tuple[int, ...]
    gpus: int

    @classmethod
    def complete(cls, given: Mapping[str, Any], ask: Ask | None) -> Answers:
        """The answers; what is not ``given`` is asked for. RunFileError where nobody can be asked, or an answer is
        wrong."""
        missing = [name for name in QUESTIONS if given.get(name) is None]
        if ask is not None and sys.stdin.isatty():
            asked = {name: ask(*QUESTIONS[name]) for name in missing}
        elif needed := [name for name in missing if name != "gpus"]:
            raise RunFileError(
                f"nobody can be asked here for {', '.join(needed)}",
                do=f"give {' '.join(f'--{name} ...' for name in needed)}",
            )
        else:
            asked = {name: QUESTIONS[name][1] for name in missing}
        found = {name: str(value) for name, value in {**given, **asked}.items()}
        return cls(
            found["name"], found["source"], found["storage"], _shape(found["shape"]), _number(found["gpus"], "--gpus")
        )


def write_run_file(out: str, answers: Answers) -> dict[str, Any]:
    """Write the run file; RunFileError where there is a file already, or an answer does not fit."""
    text, path = run_file_text(answers), Path(out)
    try:
        run = parse(text, where=out)
    except RunFileError as error:
        # There is no file whose keys the user could correct.
        do = f"give other answers, such as fewer points in --shape where memory is short; {out} was not written"
        raise RunFileError(error.what, where="the answers", do=do) from None
    try:
        path.touch(exist_ok=False)
        path.write_text(text)
    except FileExistsError:
        raise RunFileError("there is a file already, and it is not replaced", where=out, do="name another") from None
    except OSError as error:
        raise RunFileError(f"the run file cannot be written: {error.strerror}", where=out, do="name another") from None
    stages = f"medfuncta-dist run {out} pack train fit evaluate"
    return {
        "run_file": out,
        "name": run.name,
        "said": [
            f"written: {out}",
            f"look at the archive before you pack it: medfuncta-dist fingerprint {out}",
            f"what packing would do: medfuncta-dist pack {out} --plan",
            f"everything, here: {stages}",
            f"everything, as a job: medfuncta-dist submit {out} pack train fit evaluate",
        ],
    }


def run_file_text(answers: Answers) -> str:
    """A run file that says at each key what it is for."""
    axes = len(answers.shape)
    return f"""\
# Written by `medfuncta-dist init`. `medfuncta-dist explain KEY` says what a key means and what else it may be.

# Another name is another run. Results are under runs/{answers.name}/ in the storage.
name: {_yaml(answers.name)}

# Shards, checkpoints, latents and the report. On S3, credentials come from the environment, never from this file.
storage: {_yaml(answers.storage)}

# Network and training settings for scans of {axes} {"axis" if axes == 1 else "axes"}.
preset: {axes}d

data:
  # Files of any format that has a reader, zip and tar files too; they are only read.
  source: {_yaml(answers.source)}
  # Points of a packed scan along each axis. It cannot change later: `medfuncta-dist fingerprint` suggests one.
  shape: {list(answers.shape)}
  # Patients in each part; all scans of a patient are in one.
  fractions: {{train: 0.8, val: 0.1, test: 0.1}}
  # One of 100 scans may be unusable; with more, packing stops and says why.
  # max_quarantined: 0.01

{_cluster(answers.gpus)}"""


def _cluster(gpus: int) -> str:
    if not gpus:
        return """\
cluster:
  # Processes that train and fit.
  workers: 1
  # CPUs that each may use, and its threads.
  cpus_per_worker: 1
  threads: 1
"""
    return f"""\
cluster:
  # A worker per GPU.
  workers: {gpus}
  gpus_per_worker: 1
  cpus_per_worker: {CPUS_PER_GPU}
  threads: {CPUS_PER_GPU}
"""


def _yaml(text: str) -> str:
    """The text as a YAML scalar, quoted where it has to be."""
    return yaml.safe_dump(text, width=10**6).removesuffix("...\n").strip()


def _shape(text: str) -> tuple[int, ...]:
    parts = re.split(r"\s*[x×,]\s*", text.strip("[]() "))
    if not all(part.isdecimal() for part in parts) or not 1 <= len(parts) <= 3:
        raise RunFileError(f"{text!r} is no shape", where="--shape", do="for example 64x64, 32x32x32 or 187")
    return tuple(int(part) for part in parts)


def _number(text: str, where: str) -> int:
    if not text.isdecimal():
        raise RunFileError(f"{text!r} is no number", where=where, do="for example 0 or 8")
    return int(text)
