"""A data set of which nothing could be packed locks nothing, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import NothingPackedError, RunChangedError
from medfuncta_dist.packing.pack_driver import PackSummary, pack
from medfuncta_dist.packing.pack_preview import preview_pack
from medfuncta_dist.packing.sources.set_aside import SEGMENTATION
from medfuncta_dist.shards.snapshot import newest_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.mapping_rows import read_mapping
from tests.unit.shards.samples import objects, run_file
from tests.writers import PATIENT, write_ecg_csv, write_png


def packed(run: RunFile) -> PackSummary:
    return pack(run, map_here, lambda progress: None)


def of_shape(folder: Path, shape: list[int], **data: object) -> RunFile:
    return run_file(folder, shape=shape, max_quarantined=1.0, **data)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "archive").mkdir()
    for n in range(3):
        write_ecg_csv(tmp_path / "archive" / f"{PATIENT}-{n}.csv", rows=2, samples=100, seed=n)
    (tmp_path / "archive" / "empty.csv").touch()
    return tmp_path


def test_the_reasons_and_their_counts_are_the_message(archive: Path) -> None:
    with pytest.raises(NothingPackedError) as caught:
        packed(of_shape(archive, [187]))
    assert caught.value.what == (
        "no usable scan in 4 sources; 4 were quarantined because of:\n"
        "    3 x rows of 100 numbers, where data.shape declares 187 (data.length allows others)\n"
        "    1 x a CSV file without rows"
    )
    assert caught.value.exit_code == 2
    assert "Doe" not in str(caught.value)


def test_segmentations_that_could_not_be_packed_may_be_set_aside_after_that(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    write_png(tmp_path / "archive" / "mask.png")
    (tmp_path / "archive" / "a.png").touch()
    with pytest.raises(NothingPackedError):
        packed(of_shape(tmp_path, [8, 8, 8], masks="keep"))
    write_png(tmp_path / "archive" / "a.png")
    corrected = of_shape(tmp_path, [8, 8])
    assert preview_pack(corrected, lambda done, total: None).aside == {SEGMENTATION: 1}
    summary = packed(corrected)
    assert (summary.aside, summary.counts["packed"]) == ({SEGMENTATION: 1}, 1)


def test_another_shape_can_be_packed_after_that(archive: Path) -> None:
    with pytest.raises(NothingPackedError):
        packed(of_shape(archive, [187]))
    corrected = of_shape(archive, [100])
    assert preview_pack(corrected, lambda done, total: None).to_read == 4
    summary = packed(corrected)
    assert summary.counts | {"scans": 6, "packed": 6, "sources": 4, "sources_quarantined": 1} == summary.counts
    snapshot = newest_snapshot(ObjectStore(corrected.storage), corrected.dataset)
    assert snapshot is not None
    assert (snapshot.contract["shape"], snapshot.parent) == ([100], None)
    rows = read_mapping(archive / "private")
    assert len(rows) == len({*rows}), "each source is in it once"


def test_the_same_bytes_as_if_the_first_attempt_had_not_been(archive: Path) -> None:
    corrected, elsewhere = of_shape(archive, [100]), of_shape(archive, [100], dataset="other")
    with pytest.raises(NothingPackedError):
        packed(of_shape(archive, [187]))
    packed(corrected)
    packed(elsewhere)

    def shards(name: str) -> set[str]:
        return {p.rpartition("/")[2] for p in objects(ObjectStore(corrected.storage)) if f"{name}/shards/" in p}

    assert shards("ecg") == shards("other") != set()


def test_a_repaired_archive_is_read_again_under_the_same_run_file(archive: Path) -> None:
    run = of_shape(archive, [187])
    with pytest.raises(NothingPackedError):
        packed(run)
    write_ecg_csv(archive / "archive" / f"{PATIENT}-0.csv", rows=2)
    assert packed(run).counts["packed"] == 2


def test_a_data_set_with_one_scan_keeps_its_shape(archive: Path) -> None:
    write_ecg_csv(archive / "archive" / "good.csv", rows=1)
    packed(of_shape(archive, [187]))
    with pytest.raises(RunChangedError, match=r"data\.shape"):
        packed(of_shape(archive, [100]))
    with pytest.raises(RunChangedError, match=r"data\.shape"):
        preview_pack(of_shape(archive, [100]), lambda done, total: None)
