from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunChangedError
from medfuncta_dist.shards.data_contract import contract_of, differences, open_dataset, require_contract
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE

DATA = Data(source="s3://archive/Doe^Jane/*.nii", shape=[28, 28])


def changed(**fields: object) -> Data:
    return Data.model_validate(DATA.model_dump() | fields)


def test_where_scans_come_from_and_how_they_are_grouped_is_no_part_of_it() -> None:
    moved = changed(source="s3://elsewhere/*.nii", sources_per_task=1, shard_scans=5, private="/p", max_quarantined=1.0)
    assert contract_of(moved) == contract_of(DATA)
    assert "Doe" not in str(contract_of(DATA))


def test_a_data_set_packed_before_burned_in_text_was_a_key_goes_on_with_either_value() -> None:
    for value in ("refuse", "keep"):
        assert "burned_in" not in contract_of(changed(burned_in=value))


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": [28, 29]},
        {"channels": 3},
        {"aspect": "crop"},
        {"reader": "dicom"},
        {"slices": {"axis": 1}},
        {"intensity": {"mode": "minmax"}},
        {"fractions": {"train": 1.0}},
        {"source": None, "splits": {"train": "s3://a/*.nii"}},
    ],
)
def test_what_decides_a_packed_scan_is(fields: dict[str, object]) -> None:
    assert contract_of(changed(**fields)) != contract_of(DATA)


def test_differences_name_key_and_both_values() -> None:
    theirs = contract_of(changed(shape=[64, 64], channels=3))
    assert differences(contract_of(DATA), theirs) == [
        "data.channels: 1 in the run file, 3 in the data set",
        "data.shape: [28, 28] in the run file, [64, 64] in the data set",
    ]
    assert differences(theirs, theirs) == []


def test_a_data_set_has_one_contract(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    open_dataset(store, "d", DATA, "salt-1", fence=ALONE)
    written = store.read("datasets/d/dataset.json")
    open_dataset(store, "d", changed(source="s3://elsewhere/*"), "salt-1", fence=ALONE)
    with pytest.raises(RunChangedError, match=r"data\.shape: \[32, 32\] in the run file, \[28, 28\] in the data set"):
        open_dataset(store, "d", changed(shape=[32, 32]), "salt-1", fence=ALONE)
    assert store.read("datasets/d/dataset.json") == written


def test_a_data_set_has_one_salt(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    open_dataset(store, "d", DATA, "salt-1", fence=ALONE)
    with pytest.raises(RunChangedError, match="another salt"):
        open_dataset(store, "d", DATA, "salt-2", fence=ALONE)
    open_dataset(store, "e", DATA, "salt-2", fence=ALONE)


def test_a_snapshot_of_another_contract_is_refused() -> None:
    require_contract(DATA, contract_of(DATA), "here")
    with pytest.raises(RunChangedError, match="aspect"):
        require_contract(DATA, contract_of(changed(aspect="crop")), "here")
