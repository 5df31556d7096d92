"""What the comment at the head of a run file in jobs/ says of it, and what it resolves to."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from medfuncta_dist.config.load import load
from medfuncta_dist.config.run_file import RunFile

JOBS = sorted((Path(__file__).parents[3] / "jobs").glob("*.yaml"))
SAID: dict[str, Callable[[RunFile], str]] = {
    r"(\d[\d ]*) outer steps": lambda run: str(run.train.steps),
    r"outer steps \((\d[\d ]*)\)": lambda run: str(run.train.steps),
    r"batch of (\d+)": lambda run: str(run.train.batch),
    r"at most (\d+) workers": lambda run: str(run.train.batch),
    r"latent of (\d+) numbers": lambda run: str(run.field.latent),
    r"(\d+(?: x \d+)+)": lambda run: " x ".join(map(str, run.data.shape)),
    r"of (\d+) samples": lambda run: str(run.data.points),
}
"""Words, and the number in them."""


def head(job: Path) -> str:
    lines = job.read_text().splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_the_head_of_a_job_says_what_it_resolves_to(job: Path):
    run = load(job)
    found = [(words, number) for words in SAID for number in re.findall(words, head(job))]
    assert found or job.stem == "quickstart"  # which states none
    for words, number in found:
        assert re.sub(r"(?<=\d) (?=\d)", "", number) == SAID[words](run), words


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_a_job_uses_the_field_that_our_presets_use(job: Path):
    assert load(job).field.kind == "basis"
