from __future__ import annotations

from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.evaluation.comparison.settings_difference import APART, differing_settings


def run(**changes: Any) -> RunFile:
    known: dict[str, Any] = {"name": "a", "storage": "/s", "data": {"source": "/scans/*.png", "shape": [8, 8]}}
    return RunFile.model_validate({**known, **changes})


def test_keys_that_decide_results_are_told_with_both_values():
    found = differing_settings(
        run(), run(name="b", storage="/t", train={"steps": 7}, cluster={"threads": 3}, evaluate={"pictures": 9})
    )
    assert {"key": "train.steps", "a": run().train.steps, "b": 7} in found
    assert not {"name", "storage", "cluster.threads", "evaluate.pictures"} & {row["key"] for row in found}


def test_a_value_that_may_name_a_person_is_not_told():
    named = run(data={"source": "/scans/JANE-DOE/*.png", "shape": [8, 8]})
    found = differing_settings(run(), named)
    assert found == [{"key": "data.source", "a": APART, "b": APART}]


def test_a_run_has_no_differences_from_itself():
    assert differing_settings(run(), run(name="b")) == []


def test_a_run_on_the_data_set_of_another_has_no_other_settings():
    data = {"source": "/scans/*.png", "shape": [8, 8], "dataset": "a"}
    assert differing_settings(run(), run(name="b", data=data)) == []
