from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunChangedError
from medfuncta_dist.shards.data_contract import (
    KIND,
    SplitsBy,
    about_splits,
    contract_of,
    differences,
    open_dataset,
    require_contract,
    splits_by,
)
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, NewRecord, publish

DATA = Data(source="s3://archive/Doe^Jane/*.nii", shape=[28, 28])


def changed(**fields: object) -> Data:
    return Data.model_validate(DATA.model_dump() | fields)


def test_where_scans_come_from_and_how_they_are_grouped_is_no_part_of_it() -> None:
    moved = changed(source="s3://elsewhere/*.nii", sources_per_task=1, shard_scans=5, private="/p", max_quarantined=1.0)
    assert contract_of(moved) == contract_of(DATA)
    assert "Doe" not in str(contract_of(DATA))


def test_a_chosen_volume_is_and_each_is_what_earlier_versions_had() -> None:
    assert "volume" not in contract_of(DATA)
    assert contract_of(changed(volume=2))["volume"] == 2
    lines = differences(contract_of(changed(volume=0)), contract_of(DATA))
    assert lines == ["data.volume: 0 in the run file, each in the data set"]


def test_a_data_set_packed_before_burned_in_text_was_a_key_goes_on_with_either_value() -> None:
    for value in ("refuse", "keep"):
        assert "burned_in" not in contract_of(changed(burned_in=value))


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": [28, 29]},
        {"channels": 3},
        {"aspect": "crop"},
        {"spacing": [2.0, 2.0]},
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


def test_a_new_data_set_is_split_by_patient_and_its_contract_says_so(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    assert open_dataset(store, "d", DATA, "salt", fence=ALONE).group == "patient"
    assert open_dataset(store, "d", changed(group="patient"), "salt", fence=ALONE).group == "patient"
    with pytest.raises(RunChangedError, match=r"data\.group: source in the run file, patient in the data set"):
        open_dataset(store, "d", changed(group="source"), "salt", fence=ALONE)


def test_a_data_set_without_the_key_is_one_by_source(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    earlier = contract_of(DATA)
    assert "group" not in earlier
    publish(store, ALONE, NewRecord("datasets/d/dataset.json", KIND, {"name": "d", "contract": earlier, "salt": "s"}))
    written = store.read("datasets/d/dataset.json")
    assert open_dataset(store, "d", DATA, "s", fence=ALONE).group == "source"
    assert open_dataset(store, "d", changed(group="source"), "s", fence=ALONE).group == "source"
    with pytest.raises(RunChangedError, match="leave it out to go on as the data set was begun"):
        open_dataset(store, "d", changed(group="patient"), "s", fence=ALONE)
    assert store.read("datasets/d/dataset.json") == written


def test_slabs_need_no_patients(tmp_path: Path) -> None:
    store, slabs = ObjectStore(str(tmp_path)), changed(slices={}, slabs={})
    assert open_dataset(store, "d", slabs, "s", fence=ALONE).group == "source"
    assert open_dataset(store, "d", slabs, "s", fence=ALONE).group == "source"
    require_contract(slabs, contract_of(slabs), "here")


def test_a_rule_is_in_the_contract_by_its_digest() -> None:
    rules: list[dict[str, object]] = [
        {"path": "Ward-7/(.*)-"},
        {"path": "Ward-8/(.*)-"},
        {"table": "/Ward-7.csv"},
        {"table": "/Ward-7.csv", "group": "mrn"},
        {"table": "/Ward-7.csv", "split": "fold"},
    ]
    contracts = [contract_of(changed(group=rule)) for rule in rules]
    assert len({str(contract["group"]) for contract in contracts}) == 5
    assert not any("Ward" in str(contract) or "mrn" in str(contract) for contract in contracts)
    moved = contract_of(changed(group={"table": "/elsewhere.csv"}))
    assert moved == contracts[2]


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"group": "source"}, SplitsBy.SOURCE),
        ({"group": "patient"}, SplitsBy.PATIENT),
        ({"group": {"path": "(a)"}}, SplitsBy.RULE),
        ({"group": {"table": "t.csv"}}, SplitsBy.RULE),
        ({"group": {"table": "t.csv", "split": "s"}}, SplitsBy.GIVEN),
        ({"group": "patient", "source": None, "splits": {"train": "a"}}, SplitsBy.GIVEN),
        ({"slices": {}, "slabs": {}}, SplitsBy.SLABS),
    ],
)
def test_a_contract_tells_by_what_the_splits_were_made(fields: dict[str, object], what: SplitsBy) -> None:
    assert splits_by(contract_of(changed(**fields))) is what
    assert about_splits(contract_of(changed(**fields))).startswith("splits ")


def test_where_the_run_file_leaves_it_open_a_snapshot_is_taken_as_it_was_split() -> None:
    for group in ("source", "patient", {"path": "(a)"}):
        require_contract(DATA, contract_of(changed(group=group)), "here")


def test_a_snapshot_of_another_contract_is_refused() -> None:
    require_contract(DATA, contract_of(DATA), "here")
    with pytest.raises(RunChangedError, match="aspect"):
        require_contract(DATA, contract_of(changed(aspect="crop")), "here")


SIGNALS = Data(source="s3://archive/*.csv", shape=[187])


def signals(**fields: object) -> Data:
    return Data.model_validate(SIGNALS.model_dump() | fields)


def test_a_new_data_set_of_signals_refuses_other_lengths_and_goes_on_so(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    assert open_dataset(store, "d", SIGNALS, "salt", ALONE).length == "exact"
    assert open_dataset(store, "d", SIGNALS, "salt", ALONE).length == "exact"
    with pytest.raises(RunChangedError, match=r"data\.length: resample in the run file, exact in the data set"):
        open_dataset(store, "d", signals(length="resample"), "salt", ALONE)
    assert open_dataset(store, "images", DATA, "salt", ALONE).length is None
    assert "length" not in contract_of(DATA)


def test_a_data_set_of_an_earlier_version_goes_on_resampling_signals(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    earlier = contract_of(SIGNALS)
    assert not {"length", "leads", "csv"} & earlier.keys()
    publish(store, ALONE, NewRecord("datasets/d/dataset.json", KIND, {"name": "d", "contract": earlier, "salt": "s"}))
    assert open_dataset(store, "d", SIGNALS, "s", ALONE).length is None
    assert open_dataset(store, "d", signals(length="resample"), "s", ALONE).length == "resample"
    for fields in ({"length": "exact"}, {"leads": ["II"]}, {"csv": {"skip": [0]}}):
        with pytest.raises(RunChangedError, match=f"data\\.{next(iter(fields))}"):
            open_dataset(store, "d", signals(**fields), "s", ALONE)


def test_ct_has_a_hounsfield_window_in_a_new_data_set_and_its_contract_says_so(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    assert open_dataset(store, "d", DATA, "s", fence=ALONE).ct_window == [-1000, 1000]
    assert open_dataset(store, "d", changed(ct_window=[-1000, 1000]), "s", fence=ALONE).ct_window == [-1000, 1000]
    require_contract(DATA, contract_of(changed(ct_window=[-1000, 1000])), "here")
    with pytest.raises(RunChangedError, match=r"data\.ct_window: off in the run file, \[-1000"):
        open_dataset(store, "d", changed(ct_window="off"), "s", fence=ALONE)


def test_a_data_set_without_a_ct_window_keeps_percentiles(tmp_path: Path) -> None:
    store, earlier = ObjectStore(str(tmp_path)), contract_of(changed(group="patient"))
    assert "ct_window" not in earlier
    assert contract_of(changed(group="patient", ct_window="off")) == earlier
    publish(store, ALONE, NewRecord("datasets/d/dataset.json", KIND, {"name": "d", "contract": earlier, "salt": "s"}))
    assert open_dataset(store, "d", DATA, "s", fence=ALONE).ct_window == "off"
    with pytest.raises(RunChangedError, match=r"data\.ct_window"):
        open_dataset(store, "d", changed(ct_window=[-160, 240]), "s", fence=ALONE)


def test_another_mode_needs_no_ct_window(tmp_path: Path) -> None:
    store, data = ObjectStore(str(tmp_path)), changed(intensity={"mode": "minmax"})
    assert open_dataset(store, "d", data, "s", fence=ALONE).ct_window == "off"
    assert open_dataset(store, "d", data, "s", fence=ALONE).ct_window == "off"
    with pytest.raises(ValueError, match=r"ct_window does nothing where intensity\.mode is 'minmax'"):
        changed(intensity={"mode": "minmax"}, ct_window=[-1000, 1000])
    with pytest.raises(ValueError, match="low must be below high"):
        changed(ct_window=[1000, -1000])
