from __future__ import annotations

import pytest

from medfuncta_dist.publication.data_card import about_patients
from medfuncta_dist.shards.split_patients import SplitPatients


@pytest.mark.parametrize(
    ("contract", "found", "said"),
    [
        ({"group": "patient"}, SplitPatients(0, 0, {"file": 9}), "The patients of 9 scans are not known: several"),
        ({"group": "patient"}, SplitPatients(4, 0, {"patient": 9}), "4 patients or examinations are known"),
        (
            {"splits": ["a"], "group": "patient"},
            SplitPatients(4, 2, {"patient": 9}),
            "Splits as given. In the data set that they come from",
        ),
        ({"group": "patient"}, SplitPatients(4, 0, {"patient": 8, "scan": 1}), "The patients of 1 scans are not known"),
        ({}, None, "Splits by source: several scans of a patient may be in different splits."),
    ],
)
def test_the_card_says_no_more_of_patients_than_is_known(
    contract: dict[str, object], found: SplitPatients | None, said: str
) -> None:
    assert said in about_patients(contract, found)
    assert about_patients(contract, found).startswith("Splits") or not (found and found.patients)
