"""Which scans are never published: those that may name their patient, forgotten ones, quarantined ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, LostObjectError, RunFileError
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.packing.pack_record import read_packs, write_pack
from medfuncta_dist.publication import row_stream
from medfuncta_dist.publication.checked_table import CheckedTable
from medfuncta_dist.publication.privacy_gate import released_scans
from medfuncta_dist.scans.private.forgotten_list import Act, keep_act
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.mapping_rows import read_mapping
from tests.unit.latents.fitted import network, run_file
from tests.unit.latents.fitted import publish as publish_network
from tests.unit.publication.published import keys_by_id, publish
from tests.writers import write_dicom

SCANS, AT_RISK = 8, 2
DATA = {"reader": "dicom", "series": "file", "sources_per_task": 3, "fractions": {"train": 1.0}, "max_quarantined": 1.0}


def archive(folder: Path) -> None:
    """Eight X-rays of as many patients, of which two say that there is text in them."""
    (folder / "archive").mkdir()
    for number in range(SCANS):
        elements: dict[str, Any] = {"PatientID": f"P{number}", "SOPInstanceUID": pydicom.uid.generate_uid()}
        elements["SeriesInstanceUID"] = elements["StudyInstanceUID"] = pydicom.uid.generate_uid()
        elements["BurnedInAnnotation"] = "YES" if number < AT_RISK else "NO"
        write_dicom(folder / "archive" / f"{number}.dcm", (12, 12), number, elements=elements)


def run_of(folder: Path, **data: Any) -> RunFile:
    return run_file(folder, data={"source": str(folder / "archive"), **DATA, **data})


def packed(folder: Path, **data: Any) -> RunFile:
    archive(folder)
    run = run_of(folder, **data)
    pack(run, map_here, lambda _: None)
    publish_network(run, network(run))
    fit(run, map_here)
    return run


def records_like_earlier_versions(run: RunFile) -> None:
    store = ObjectStore(run.storage)
    for record in read_packs(store, run.dataset):
        write_pack(store, run.dataset, replace(record, burned_in="", released={}), ALONE)


def test_scans_that_may_name_their_patient_are_refused_or_left_out(tmp_path: Path) -> None:
    run = packed(tmp_path, burned_in="keep")
    at_risk = {row.key for row in read_mapping(tmp_path / "private") if row.uri.endswith(("/0.dcm", "/1.dcm"))}
    assert (
        released_scans(ObjectStore(run.storage), run, load_snapshot(ObjectStore(run.storage), "small", None)) == at_risk
    )
    with pytest.raises(RunFileError, match=r"2 scans of the data set come from files that may name") as refused:
        publish(run, tmp_path / "published")
    assert "--leave-out-burned-in" in refused.value.do
    assert not (tmp_path / "published").exists()
    # It is the record that counts, and not what the run file says now.
    publication = publish(run_of(tmp_path, burned_in="refuse"), tmp_path / "published", leave_out_burned_in=True)
    assert publication.left_out == AT_RISK
    keys = set(keys_by_id(publication).values())
    assert len(keys) == SCANS - AT_RISK
    assert not keys & at_risk


def test_what_stays_of_a_pack_record_still_tells_them(tmp_path: Path) -> None:
    run = packed(tmp_path, burned_in="keep")
    store = ObjectStore(run.storage)
    before = load_snapshot(store, "small", None)
    for number in range(AT_RISK, SCANS):
        (tmp_path / "archive" / f"{number}.dcm").unlink()
    pack(run_of(tmp_path, removed="drop"), map_here, lambda _: None)
    after = load_snapshot(store, "small", None)
    assert after.packs != before.packs
    assert len(released_scans(store, run, after)) == AT_RISK == after.samples
    assert released_scans(store, run, after) == released_scans(store, run, before)


def test_what_was_packed_without_them_is_published(tmp_path: Path) -> None:
    run = packed(tmp_path)
    publication = publish(run, tmp_path / "published")
    assert publication.left_out == 0
    assert sum(split.scans for split in publication.splits) == SCANS - AT_RISK


def test_records_of_earlier_versions_are_enough_only_where_no_run_says_keep(tmp_path: Path) -> None:
    run = packed(tmp_path)
    records_like_earlier_versions(run)
    publish(run, tmp_path / "published")
    keeping = run_of(tmp_path, burned_in="keep")
    with pytest.raises(RunFileError, match="packed by an earlier version"):
        publish(keeping, tmp_path / "other")
    # A run of another name on the same data set, as storage knows it.
    text = dump(
        keeping.model_copy(update={"name": "other", "data": keeping.data.model_copy(update={"dataset": "small"})})
    )
    ObjectStore(run.storage).write("runs/other/run.yaml", text.encode())
    with pytest.raises(RunFileError, match="packed by an earlier version"):
        publish(run, tmp_path / "other", leave_out_burned_in=True)


def test_without_a_pack_record_nobody_can_tell(tmp_path: Path) -> None:
    run = packed(tmp_path)
    store = ObjectStore(run.storage)
    snapshot = load_snapshot(store, "small", None)
    store.delete(store.list("datasets/small/packs")[0].path)
    with pytest.raises(LostObjectError, match="1 pack records of the snapshot are missing"):
        released_scans(store, run, snapshot)


def test_scans_that_are_forgotten_meanwhile_are_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = packed(tmp_path)
    require_different = row_stream.RowStream._require_different

    def forget_one(self: row_stream.RowStream) -> None:
        require_different(self)
        key = self._keys[0][0].ljust(32, b"\0").hex()
        keep_act(tmp_path / "private", Act("a" * 32, "small", "2026-01-01T00:00:00Z", (key,), done=True))

    monkeypatch.setattr(row_stream.RowStream, "_require_different", forget_one)
    with pytest.raises(IntegrityError, match="were forgotten while"):
        publish(run, tmp_path / "published")
    assert not (tmp_path / "published").exists()


def test_while_forgetting_is_not_done_nothing_is_published(tmp_path: Path) -> None:
    run = packed(tmp_path)
    keep_act(tmp_path / "private", Act("a" * 32, "small", "2026-01-01T00:00:00Z", ("b" * 64,)))
    with pytest.raises(RunFileError, match="`forget` was interrupted"):
        publish(run, tmp_path / "published")


@pytest.mark.parametrize("reason", ["quarantined", "forgotten"])
def test_a_table_with_a_scan_that_must_not_be_there_is_not_published(tmp_path: Path, reason: str) -> None:
    table = CheckedTable.open(packed(tmp_path))
    _, rows = next(table.parts(["key"]))
    never = replace(table.never, **{reason: frozenset({rows["key"][0].as_py()})})
    with pytest.raises(IntegrityError, match=f"1 scans of the latent table are {reason}"):
        never.require_none(rows["key"].to_pylist())
    table.never.require_none(rows["key"].to_pylist())
