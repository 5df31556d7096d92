"""From files to the report: what looks alike in different splits is told, and nothing is removed."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.ndimage import gaussian_filter

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.packing.pack_driver import PackSummary, pack
from medfuncta_dist.shards.shard_looks import looks_path, read_looks
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.shards.split_look_alikes import FILE, SplitLookAlikes
from medfuncta_dist.stages.pack_stage import figures_of
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.mapping_rows import read_mapping
from tests.unit.shards.samples import run_file
from tests.writers import write_nifti


def packed(run: RunFile) -> PackSummary:
    return pack(run, map_here, lambda progress: None)


def write_npz(path: Path, **splits: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **{f"{split}_images": images for split, images in splits.items()})  # type: ignore[arg-type]


def pictures(count: int, first: int = 0) -> np.ndarray:
    smooth = [gaussian_filter(np.random.default_rng(first + n).random((28, 28)), 1.5) for n in range(count)]
    return np.stack([np.rint((s - s.min()) / np.ptp(s) * 255).astype(np.uint8) for s in smooth])


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    train, test = pictures(20), pictures(8, 100)
    test[0] = train[3]
    test[1] = np.clip(train[4] * 0.9 + np.random.default_rng(0).normal(6, 3, (28, 28)), 0, 255)
    write_npz(tmp_path / "archive" / "a.npz", train=train, test=test)
    return run_file(tmp_path, shape=[28, 28], shard_scans=6)


def of_version(looks: bytes, version: bytes) -> bytes:
    table, sink = pq.read_table(pa.BufferReader(looks)), pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"format_version": version}), sink)
    return bytes(sink.getvalue())


def listed(tmp_path: Path) -> list[list[str]]:
    with (tmp_path / "private" / FILE).open(newline="") as file:
        rows = list(csv.reader(file))
    return rows[rows.index(["key", "split", "key", "split", "likeness"]) + 1 :]


def test_pairs_across_splits_are_counted_and_listed_for_the_owner(run: RunFile, tmp_path: Path) -> None:
    summary = packed(run)
    assert summary.look_alikes == SplitLookAlikes(28, 0, 2, 0, 1, 0)
    assert summary.splits == {"train": 20, "test": 8}  # nothing is removed
    items = {row.key: row.item for row in read_mapping(tmp_path / "private")}
    rows = listed(tmp_path)
    assert {(items[a], items[b]) for a, _, b, _, _ in rows} == {("test/0", "train/3"), ("test/1", "train/4")}
    assert [(a, b) for _, a, _, b, _ in rows] == [("test", "train")] * 2
    assert float(rows[0][4]) == 1
    assert (tmp_path / "private" / FILE).stat().st_mode & 0o077 == 0
    assert "2 pairs of scans look alike in different splits" in "\n".join(figures_of(summary)["said"])


def test_the_list_is_made_once_for_a_snapshot(run: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = packed(run)
    monkeypatch.setattr("medfuncta_dist.shards.split_look_alikes.look_alikes", None)
    assert packed(run).look_alikes == first.look_alikes
    (tmp_path / "private" / FILE).write_text("format_version,1\n")
    monkeypatch.undo()
    assert packed(run).look_alikes == first.look_alikes


def test_later_scans_are_compared_with_earlier_ones(run: RunFile, tmp_path: Path) -> None:
    packed(run)
    write_npz(tmp_path / "archive" / "b.npz", test=pictures(3))
    found = packed(run).look_alikes
    assert found is not None
    assert (found.compared, found.across_splits) == (31, 5)


def test_off_writes_and_compares_nothing(tmp_path: Path, run: RunFile) -> None:
    off = run_file(tmp_path, shape=[28, 28], look_alikes="off")
    assert packed(off).look_alikes is None
    assert not list((tmp_path / "store" / "datasets" / "ecg").glob("looks/*"))
    found = packed(run_file(tmp_path, shape=[28, 28])).look_alikes
    assert found == SplitLookAlikes(0, 28, 0, 0, 1, 0)


def test_shards_have_the_same_bytes_with_looks_and_without(tmp_path: Path, run: RunFile) -> None:
    on = packed(run).snapshot_digest
    other = run.model_copy(
        update={"storage": str(tmp_path / "other"), "data": run.data.model_copy(update={"look_alikes": "off"})}
    )
    assert packed(other).snapshot_digest == on


def test_damaged_looks_are_scans_that_were_not_compared(run: RunFile, tmp_path: Path) -> None:
    packed(run)
    store = ObjectStore(run.storage)
    shard = load_snapshot(store, run.dataset, None).splits["test"][0]
    whole = store.read(looks_path(run.dataset, shard.sha256))
    assert read_looks(store, run.dataset, shard) is not None
    for damage in (b"", whole[:-20], of_version(whole, b"2")):
        store.write(looks_path(run.dataset, shard.sha256), damage)
        assert read_looks(store, run.dataset, shard) is None
    (tmp_path / "private" / FILE).unlink()
    found = packed(run).look_alikes
    assert found is not None
    assert found.uncompared == shard.samples


def test_slices_of_one_volume_are_no_pairs(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    path = write_nifti(tmp_path / "archive" / "sub-1.nii.gz", shape=(16, 16, 24))
    run = run_file(tmp_path, shape=[16, 16], slices={}, slabs={"size": 3, "period": 3, "gap": 1})
    assert packed(run).look_alikes == SplitLookAlikes(24, 0, 0, 0, 1, 0)
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(image.get_fdata() * 1.01, image.affine), tmp_path / "archive" / "sub-2.nii.gz")  # type: ignore[attr-defined]
    found = packed(run).look_alikes
    assert found is not None
    assert found.across_splits + found.across_patients >= 12
