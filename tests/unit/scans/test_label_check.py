from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.scans import label_check
from medfuncta_dist.scans.label_check import risk_of_columns, risk_of_texts, risk_of_values


@pytest.mark.parametrize("labels", [(), (0,), (13,), (-1, 4), (0, 1, 1, 0), (999_999,)])
def test_classes_are_no_identifiers(labels: tuple[int, ...]) -> None:
    assert risk_of_values(labels) is None


@pytest.mark.parametrize(
    ("labels", "risk"),
    [
        ((123_456_789,), label_check.AS_NUMBER),
        (
            (
                0,
                -4_711_815,
            ),
            label_check.AS_NUMBER,
        ),
        ((20240131,), label_check.AS_DATE),
        ((20241331,), label_check.AS_NUMBER),
        ((20240131, 1_706_659_200), label_check.AS_NUMBER),
    ],
)
def test_numbers_that_name_a_patient_or_a_day(labels: tuple[int, ...], risk: str) -> None:
    assert risk_of_values(labels) == risk


def test_a_column_that_numbers_its_scans() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 14, (500, 1))
    assert risk_of_columns(classes) is None
    assert risk_of_columns(np.hstack([classes, rng.permutation(500)[:, None]])) == label_check.AS_NUMBERING
    assert risk_of_columns(np.arange(19)[:, None]) is None  # so few may all be of other classes
    assert risk_of_columns(np.arange(20)[:, None]) == label_check.AS_NUMBERING
    assert risk_of_columns(np.arange(20_000)[:, None] // 3) == label_check.TOO_MANY
    assert risk_of_columns(np.array([[0], [987654321]])) == label_check.AS_NUMBER


@pytest.mark.parametrize(
    ("texts", "risk"),
    [
        (["normal", "pneumonia", "normal"], None),
        (["grade 2", "grade 3"], None),
        (["2024-01-31", "x"], label_check.TEXT_DATE),
        (["31.1.24"], label_check.TEXT_DATE),
        (["Case 4711815"], label_check.TEXT_NUMBER),
        (["Doe^Jane"], label_check.TEXT_NAME),
        (["1.2.840.113619.2.55.3"], label_check.TEXT_UID),
        (["The heart is enlarged and there is an effusion"], label_check.TEXT_LONG),
        ([f"Ward {n}" for n in range(20)], label_check.TEXT_NUMBERING),
    ],
)
def test_texts(texts: list[str], risk: str | None) -> None:
    assert risk_of_texts(texts) == risk


def test_reasons_are_fixed_words(tmp_path: Path) -> None:
    secret = ["Doe^Jane", "2024-01-31"]
    assert not any(text in str(risk_of_texts([text])) for text in secret)
    assert "20240131" not in str(risk_of_values([20240131]))
