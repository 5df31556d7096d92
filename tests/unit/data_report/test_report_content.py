"""The check for leakage: loud wherever a patient or a scan is on both sides."""

from __future__ import annotations

from typing import Any

import pytest

from medfuncta_dist.data_report.equal_samples import EqualSamples
from medfuncta_dist.data_report.report_content import Check, check
from medfuncta_dist.shards.split_patients import SplitPatients

NONE = EqualSamples(3, 0)
APART = SplitPatients(20, 0, {"patient": 60})
LEAKING = SplitPatients(20, 2, {"patient": 60})


@pytest.mark.parametrize(
    ("contract", "patients", "equal", "state", "words"),
    [
        ({"group": "patient"}, APART, NONE, Check.PASSED, "0 of 20 patients are in several splits"),
        ({"group": "patient"}, LEAKING, NONE, Check.FAILED, "2 of 20 patients are in several splits. That is a bug"),
        ({"group": "patient", "splits": ["a"]}, LEAKING, NONE, Check.WARNING, "as the splits were given"),
        ({}, None, NONE, Check.UNKNOWN, "split by source"),
        ({"slabs": {}}, None, NONE, Check.WARNING, "Every patient is in several splits"),
        ({"group": "patient"}, SplitPatients(0, 0, {"scan": 5}), NONE, Check.UNKNOWN, "5 scans name no patient"),
        ({"group": "patient"}, SplitPatients(0, 0, {"file": 5}), NONE, Check.UNKNOWN, "that their file gives"),
        ({"group": "patient"}, APART, EqualSamples(9, 4), Check.WARNING, "4 scans are in one split and"),
        ({"group": "patient"}, LEAKING, EqualSamples(9, 4), Check.FAILED, "4 scans are in one split and"),
    ],
)
def test_check(
    contract: dict[str, Any], patients: SplitPatients | None, equal: EqualSamples, state: Check, words: str
) -> None:
    found, text = check(contract, patients, equal)
    assert found is state
    assert words in text
