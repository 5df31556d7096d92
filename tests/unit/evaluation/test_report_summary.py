from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from medfuncta_dist.evaluation.report_summary import MOST_GROUPS, by_group
from medfuncta_dist.evaluation.score_task import TASK_SCHEMA
from tests.unit.evaluation.made_scores import scores


def known(count: int = 12, **columns: Any) -> pa.Table:
    """Scores with what the latent table knows of scans; a column is a function of the row."""
    given = {"modality": lambda i: "CT", "spacing": lambda i: [1.0, 1.0], "labels": lambda i: [i % 2], **columns}
    rows = scores(count, psnr=lambda i: 20.0 + i).to_pylist()
    for row in rows:
        row |= {"psnr_mask": None} | {name: of(row["row"]) for name, of in given.items()}
    return pa.Table.from_pylist(rows, schema=TASK_SCHEMA)


def test_scans_are_grouped_by_what_differs_between_them():
    found = by_group(known(modality=lambda i: "MR" if i % 3 else "CT", spacing=lambda i: [0.5, 0.71234]), "test", [])
    assert set(found) == {"modality"}
    assert found["modality"]["CT"]["psnr"]["scans"] == 4
    assert found["modality"]["CT"]["psnr"]["mean"] == pytest.approx(np.mean([20, 23, 26, 29]))


def test_spacing_is_told_in_three_digits():
    found = by_group(known(spacing=lambda i: [0.5, 0.71234] if i else [2.0, 2.0]), "test", [])
    assert set(found["spacing"]) == {"0.5 × 0.712", "2 × 2"}


def test_each_of_several_columns_of_labels_is_a_group_with_its_name():
    labelled = known(labels=lambda i: [i % 2, i % 3] if i else [])
    named = by_group(labelled, "test", ["finding", "site"])
    assert list(named) == ["finding", "site"]
    assert set(named["site"]) == {"0", "1", "2", "none"}
    assert named["site"]["none"]["psnr"]["scans"] == 1
    assert list(by_group(labelled, "test", [])) == ["label 1", "label 2"]
    assert by_group(known(), "test", ["finding"]) == {}


def test_what_differs_everywhere_is_no_group_and_other_splits_do_not_count():
    assert by_group(known(MOST_GROUPS + 1, spacing=lambda i: [1.0 + i]), "test", []) == {}
    assert by_group(known(modality=lambda i: str(i % 2)), "train", []) == {}
