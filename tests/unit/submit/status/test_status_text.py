"""The table of jobs, and the keys of a status."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medfuncta_dist.submit.backends.backend import Job, JobState
from medfuncta_dist.submit.manifest.job_names import make_labels
from medfuncta_dist.submit.status.run_status import RunStatus
from medfuncta_dist.submit.status.status_text import format_age, render_job_table, sort_newest_first

NOW = 1_000_000.0


def job(name: str, submitted: float | None) -> Job:
    return Job(name, JobState.RUNNING, make_labels("x", "fit", 1, name, "d", "c"), submitted=submitted)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (119.9, "119s"),
        (120, "2m"),
        (59 * 60, "59m"),
        (3600, "1h"),
        (3 * 3600 + 12 * 60, "3h12m"),
        (86400, "1d"),
        (2 * 86400 + 4 * 3600 + 59 * 60, "2d4h"),
        (86400 + 59 * 60, "1d"),
        (-5, "0s"),
    ],
)
def test_an_age_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


def test_the_newest_job_is_first_and_each_has_its_age() -> None:
    jobs = [job("old", NOW - 90000), job("unknown", None), job("new", NOW - 45)]
    table = render_job_table(sort_newest_first(jobs), NOW)
    assert table == [
        "NAME     RUN  STAGES  STATE    AGE",
        "new      x    fit     running  45s",
        "old      x    fit     running  1d1h",
        "unknown  x    fit     running",
    ]


def test_every_key_of_the_json_answer_is_documented() -> None:
    page = (Path(__file__).parents[4] / "docs/submitting.md").read_text()
    table = page.split("### For programs")[1].split("## logs")[0]
    named = {key for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    of_failures = {"log"}  # status/job_logs.py adds it
    assert named == set(RunStatus("x", "x", JobState.DONE, "fit").as_dict()) | of_failures
