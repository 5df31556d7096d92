"""Files in an archive that are no scans to pack: counted by reason, and nothing of their names is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.packing.pack_driver import PackSummary, pack
from medfuncta_dist.packing.pack_preview import preview_pack
from medfuncta_dist.packing.pack_record import PackRecord
from medfuncta_dist.packing.sources.set_aside import ABOUT, HALF, SEGMENTATION, SIGNALS, SYSTEM
from medfuncta_dist.packing.sources.source_list import Listing, list_sources
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.task_map import map_here
from tests.unit.shards.samples import run_file
from tests.writers import write_dicom, write_nifti, write_nifti_pair, write_png

KEYS = KeyMaker(bytes(32))


def listed(folder: Path, records: tuple[PackRecord, ...] = (), **keys: object) -> Listing:
    return list_sources(Data.model_validate({"source": str(folder), "shape": [8, 8]} | keys), KEYS, records)


def names(listing: Listing) -> list[str]:
    return [Path(source.uri).name for source in listing.sources]


def test_foreign_files_are_counted_by_reason(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    write_dicom(tmp_path / "IM-0001")
    (tmp_path / "dicom.dir").mkdir()
    for name in ("Thumbs.db", "DICOMDIR", "report.pdf", "other.PDF", "sub.json", "dwi.bval", "README.txt", ".DS_Store"):
        (tmp_path / name).write_bytes(b"something")
    (tmp_path / "scan.Doe^Jane").write_bytes(b"something")
    found = listed(tmp_path)
    assert names(found) == ["IM-0001", "a.png"]
    assert found.aside == {
        SYSTEM: 2,
        "no reader takes .pdf": 2,
        "no reader takes .json": 1,
        "no reader takes .bval": 1,
        "no reader takes .txt": 1,
        "no reader takes its suffix": 1,
    }


def test_texts_about_the_data_set_are_no_dicom_files(tmp_path: Path) -> None:
    write_dicom(tmp_path / "IM-0001")
    for name in ("README", "LICENSE", "CHANGES", "RECORDS"):
        (tmp_path / name).write_text("words")
    found = listed(tmp_path)
    assert (names(found), found.aside) == (["IM-0001"], {ABOUT: 4})
    assert len(listed(tmp_path, reader="dicom").sources) == 5


def test_tables_beside_images_are_no_signals(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("Subject ID,Modality\n")
    (tmp_path / "ecg.hea").write_text("")
    found = listed(tmp_path)
    assert (names(found), found.aside) == (["a.png"], {SIGNALS: 2})
    assert len(listed(tmp_path, shape=[8]).sources) == 3
    assert len(listed(tmp_path, reader="ecg-csv").sources) == 3


def test_where_nothing_is_left_the_reasons_are_the_message(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf", "scan.Doe^Jane"):
        (tmp_path / name).write_bytes(b"something")
    with pytest.raises(RunFileError) as caught:
        listed(tmp_path)
    assert "none of 3 source files can be read" in caught.value.what
    assert "2 x no reader takes .pdf" in caught.value.what
    assert "medmnist" in caught.value.do
    assert "Doe" not in str(caught.value)


def test_a_named_reader_takes_every_suffix(tmp_path: Path) -> None:
    for name in ("a.txt", "b.1", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"something")
    found = listed(tmp_path, reader="ecg-csv")
    assert names(found) == ["a.txt", "b.1"]
    assert found.aside == {SYSTEM: 1}


@pytest.mark.parametrize("pattern", ["", "*.hdr", "*.img"])
def test_a_pair_is_one_source_with_one_key_however_it_is_listed(tmp_path: Path, pattern: str) -> None:
    write_nifti_pair(tmp_path, array=np.zeros((4, 4, 4), np.int16), affine=np.eye(4))
    found = listed(tmp_path / pattern)
    assert [source.key for source in found.sources] == [KEYS.source_key("pair.img")]
    assert found.aside == ({} if pattern else {HALF: 1})


def test_segmentations_are_set_aside_unless_they_are_kept(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    write_nifti(tmp_path / "imagesTr" / "case_1_0000.nii.gz")
    write_nifti(tmp_path / "labelsTr" / "case_1.nii.gz")
    write_dicom(tmp_path / "mask.dcm")  # a DICOM segmentation says what it is
    found = listed(tmp_path)
    assert names(found) == ["case_1_0000.nii.gz", "mask.dcm"]
    assert found.aside == {SEGMENTATION: 1}
    assert len(listed(tmp_path, masks="keep").sources) == 3
    with pytest.raises(RunFileError, match="1 x a segmentation by its name"):
        listed(tmp_path / "labelsTr")


def test_what_an_earlier_version_packed_stays_a_source(tmp_path: Path) -> None:
    write_png(tmp_path / "mask.png")
    write_png(tmp_path / "mask2.png")
    record = PackRecord("n", (KEYS.source_key("mask.png"),), {}, (), {})
    found = listed(tmp_path, (record,))
    assert names(found) == ["mask.png"]
    assert found.aside == {SEGMENTATION: 1}


def test_a_table_of_patients_needs_no_rows_for_what_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_png(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "notes.txt").write_text("notes")
    (tmp_path / "t.csv").write_text("source,group\nx.png,one\n")
    found = listed(tmp_path / "a", group={"table": str(tmp_path / "t.csv")})
    assert names(found) == ["x.png"]


def packed(run: RunFile) -> PackSummary:
    return pack(run, map_here, lambda progress: None)


def test_pack_and_its_plan_count_what_is_not_read_and_quarantine_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "archive" / "masks").mkdir(parents=True)
    for n in range(3):
        write_png(tmp_path / "archive" / f"{n}.png", seed=n)
        write_png(tmp_path / "archive" / "masks" / f"{n}.png", seed=n + 9)
    (tmp_path / "archive" / "Doe.pdf").write_bytes(b"a letter")
    run = run_file(tmp_path, shape=[8, 8])
    plan = preview_pack(run, lambda done, total: None)
    summary = packed(run)
    assert plan.aside == summary.aside == {"no reader takes .pdf": 1, SEGMENTATION: 3}
    assert summary.quarantined == []
    assert (summary.counts["packed"], summary.counts["sources"]) == (3, 3)
    kept = packed(run_file(tmp_path, shape=[8, 8], masks="keep"))
    assert (kept.counts["packed"], kept.aside) == (6, {"no reader takes .pdf": 1})
    again = packed(run)  # what is packed stays, and is no removed source
    assert (again.snapshot_digest, again.changes["removed"], again.new_sources) == (kept.snapshot_digest, 0, 0)
