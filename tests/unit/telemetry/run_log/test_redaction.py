"""What leaves a machine in a log: nothing that names a person, a file of theirs, or a secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.forget.object_search import SHORTEST
from medfuncta_dist.telemetry.run_log.redaction import (
    LONGEST_LINE,
    ForeignLines,
    Scrubber,
    code_place,
    describe_error,
)

SECRET = "wJalrXUtnFEMIK7MDENG"
SCRUBBER = Scrubber.of("s3://bucket/medfuncta", {"AWS_SECRET_ACCESS_KEY": SECRET, "HOME": "/root", "X_TOKEN": "ab"})

OWN = {
    "where: s3://bucket/medfuncta/runs/x/lease.json": "where: storage:runs/x/lease.json",
    "where: s3://other/archive/mueller.dcm": "where: <uri>",
    "no file matches /data/archive/Müller Hans/*.dcm": "no file matches <path>",
    "not there: /data/Müller Hans/t1 scan/of her": "not there: <path> her",
    "no file matches scans/mueller_hans.nii.gz": "no file matches <file>",
    "~/.aws/credentials is not readable": "<path> is not readable",
    r"C:\scans\doe is not there": "<path> is not there",
    "AWS_SESSION_TOKEN=abcdef": "AWS_SESSION_TOKEN=<secret>",
    f"it was {SECRET}": "it was <secret>",
    "key AKIAIOSFODNN7EXAMPLE": "key <secret>",
    "Authorization: Bearer abc.def": "Authorization: <secret> <secret>",
    "sent to jane.doe@hospital.org": "sent to <address>",
    "UID 1.2.840.113619.2.55.3": "UID <uid>",
    "patient DOE^JANE": "patient <name>",
    "born 1961-04-23, seen 20240131": "born <date>, seen <date>",
    f"scan {'ab12' * 16}": "scan ab12ab12ab…",
    "train 40/200  time left 0:05:31  loss 0.00213  psnr 38.41 dB": None,
    "another driver holds it until 2026-11-28T10:15:00Z (token 1795860000)": None,
    "10.0.0.7:4711 does not answer": None,
    "set train.rate or meta.inner_rate, and/or train.clip": None,
    "attempt 0003 of 000012": None,
}
FOREIGN = {
    "WARNING: cannot open 'Jane Doe'": ("warning", "WARNING: cannot open <text>"),
    'ERROR reader.py: "Doe, Jane" is no number': ("error", "ERROR reader.py: <text> is no number"),
    "2026-11-28 10:00:00,123 ERROR scan study/doe.dcm 12345678": (
        "error",
        "<date> 10:00:00,123 ERROR scan <file> <number>",
    ),
    "[2026-11-28 10:00:00,123 E 12 34] core_worker.cc:7: lost": (
        "error",
        "[<date> 10:00:00,123 E 12 34] core_worker.cc:7: lost",
    ),
    "[W1128 10:00:00.1 socket.cpp:200] slow": ("warning", "[W1128 10:00:00.1 socket.cpp:200] slow"),
    "/opt/lib/x.py:3: UserWarning: bad tag (0010,0010) 'DOE'": ("warning", "UserWarning: bad tag (0010,0010) <text>"),
    "Fatal Python error: Segmentation fault": ("error", "Fatal Python error: Segmentation fault"),
    "terminate called after throwing an instance of 'std::bad_alloc'": (
        *("error", "terminate called after throwing an instance of <text>"),
    ),
    "reading patient Jane Doe": None,
    "[I1128 10:00:00.1 socket.cpp:200] connected": None,
    "the scan of Jane Doe, with a long text before it, which says much and nothing and names her: ERROR": None,
    "": None,
}


@pytest.mark.parametrize(("line", "stored"), OWN.items())
def test_our_own_lines_lose_what_they_may_name(line, stored):
    assert SCRUBBER.own(line) == (line if stored is None else stored)


@pytest.mark.parametrize(("line", "stored"), FOREIGN.items())
def test_of_other_software_only_warnings_and_errors_stay(line, stored):
    assert ForeignLines(SCRUBBER).admit(line) == stored


def test_a_traceback_of_other_software_keeps_places_and_the_class():
    text = """Traceback (most recent call last):
  File "/home/jane/venv/lib/python3.11/site-packages/nibabel/loadsave.py", line 104, in load
    raise FileNotFoundError(f"No such file: '{filename}'")
FileNotFoundError: No such file: '/archive/DOE_JANE/t1.nii'
  and DOE_JANE in the second line of the message
"""
    lines = ForeignLines(SCRUBBER)
    assert [found.text for line in text.splitlines() if (found := lines.admit(line))] == [
        *("Traceback (most recent call last):", "  nibabel/loadsave.py:104 in load", "FileNotFoundError"),
    ]


def test_an_unexpected_error_is_told_by_places_and_class():
    try:
        try:
            Path("/archive/DOE_JANE.dcm").read_bytes()
        except OSError as error:
            raise KeyError("DOE^JANE") from error
    except KeyError as error:
        found = list(describe_error(error, SCRUBBER.own))
    assert [line for line in found if not line.startswith("  ")][1:] == ["FileNotFoundError", "KeyError"]
    assert "DOE" not in "\n".join(found)


def test_an_error_of_ours_is_told_whole():
    error = RunFileError("not a key: fit.stepz", where="s3://bucket/medfuncta/runs/x/run.yaml", do="correct it")
    assert list(describe_error(error, SCRUBBER.own)) == [
        *("error: not a key: fit.stepz", "  where: storage:runs/x/run.yaml", "  do:    correct it"),
    ]


@given(st.text(), st.text("0123456789abcdef", min_size=SHORTEST, max_size=64), st.text())
@example("a", "0" * 64, "b")
def test_no_key_that_forget_could_find_is_left(before, key, after):
    for text in (SCRUBBER.own(before + key + after), SCRUBBER.foreign(f"{before} {key} {after}")):
        assert not re.search(rf"[0-9a-f]{{{SHORTEST},}}", text)


@given(st.text(max_size=5000))
def test_a_line_stays_one_short_line(text):
    assert len(SCRUBBER.own(text)) <= LONGEST_LINE + 1
    assert not set("\r\x1b\0") & set(SCRUBBER.own(text))


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("/home/x/medfuncta_dist/fitting/fit_task.py", "medfuncta_dist/fitting/fit_task.py:3 in f"),
        ("/usr/lib/python3.11/threading.py", "python3.11/threading.py:3 in f"),
        ("/home/jane/scripts/mine.py", "another file:3 in f"),
    ],
)
def test_a_place_in_code_does_not_name_its_folder(file, place):
    assert code_place(file, "3", "f") == place
