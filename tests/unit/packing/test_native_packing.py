"""Scans that keep their own resolution (``data.patches``), through the pack stage and back out of their shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import IntegrityError, RunChangedError, RunFileError
from medfuncta_dist.exchange.export_latents import export_latents
from medfuncta_dist.exchange.import_latents import import_latents
from medfuncta_dist.integrity.verify_shards import ShardCheck, check_shard
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.scans.private.private_folder import load_salt
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.sample import Sample, decode
from medfuncta_dist.shards.shard_index import index_bytes
from medfuncta_dist.shards.shard_looks import read_looks
from medfuncta_dist.shards.snapshot import Shard, load_snapshot, read_index
from medfuncta_dist.stages.preflight import check_snapshot
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache
from medfuncta_dist.task_map import map_here
from tests.native_scans import AFFINE, SHAPES, packed_volumes, volume
from tests.writers import write_ecg_csv, write_nifti, write_wfdb


def shards_of(run: RunFile) -> list[Shard]:
    snapshot = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    return [shard for shards in snapshot.splits.values() for shard in shards]


def reader_of(run: RunFile, folder: Path) -> SampleReader:
    store = ObjectStore(run.storage)
    return SampleReader(store, shards_of(run), ShardCache(store, folder / "cache", 10**9))


def samples(run: RunFile, folder: Path) -> Iterator[Sample]:
    reader = reader_of(run, folder)
    for number, shard in enumerate(shards_of(run)):
        for row in range(shard.samples):
            members = reader.read(SampleId(number, row))
            yield decode(members["__key__"], members["npy"], members["json"])


def test_scans_are_packed_as_they_are(tmp_path: Path) -> None:
    run = packed_volumes(tmp_path)
    found = {sample.key: sample for sample in samples(run, tmp_path)}
    keys = KeyMaker(load_salt(tmp_path / "private"))
    for number, shape in enumerate(SHAPES):
        sample = found[keys.scan_key(f"volume-{number}.nii", "")]
        np.testing.assert_array_equal(sample.array, volume(number, shape)[None])
        np.testing.assert_array_equal(sample.meta["affine"], AFFINE)
        assert sample.meta["spacing"] == [2.0, 1.5, 3.0]
        assert 0 < sample.window.high <= 1000
    assert len(found) == len(SHAPES)


def test_regions_are_read_by_the_shapes_in_the_index(tmp_path: Path) -> None:
    run = packed_volumes(tmp_path)
    reader = reader_of(run, tmp_path)
    assert sorted(reader.shapes(0)) == sorted(SHAPES)
    for row, (sample, shape) in enumerate(zip(samples(run, tmp_path), reader.shapes(0), strict=True)):
        region = tuple(slice(n // 3, n - 1) for n in shape)
        np.testing.assert_array_equal(reader.region(SampleId(0, row), region), sample.array[:, *region])
        assert reader.meta(SampleId(0, row)) == sample.meta


def test_a_given_spacing_is_that_of_all_and_covers_them_whole(tmp_path: Path) -> None:
    run = packed_volumes(tmp_path, spacing=[2.0, 2.0, 2.0])
    for sample in samples(run, tmp_path):
        assert sample.meta["spacing"] == pytest.approx([2.0, 2.0, 2.0])
    wanted = [
        tuple(int(np.ceil((n - 1) * s / 2 - 1e-6)) + 1 for n, s in zip(x, (2, 1.5, 3), strict=True)) for x in SHAPES
    ]
    assert sorted(reader_of(run, tmp_path).shapes(0)) == sorted(wanted)


def test_masks_keep_the_scan_s_shape(tmp_path: Path) -> None:
    run = packed_volumes(tmp_path, shapes=[(12, 10, 9)])
    classes = np.zeros((12, 10, 9), np.uint8)
    classes[3:7, 2:8, 1:4] = 2
    write_nifti(tmp_path / "archive" / "volume-0-seg.nii", affine=AFFINE, array=classes)
    with_masks = run.model_copy(
        update={"data": run.data.model_copy(update={"masks": "pair", "dataset": "masked"}), "name": "masked"}
    )
    pack(with_masks, map_here, lambda progress: None)
    [sample] = samples(with_masks, tmp_path)
    np.testing.assert_array_equal(sample.mask(), classes)


def test_the_contract_names_the_axes_and_not_the_patches(tmp_path: Path) -> None:
    run = packed_volumes(tmp_path)
    snapshot = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    assert snapshot.contract["shape"] == {"axes": 3}
    assert "patches" not in snapshot.contract
    other = run.model_copy(
        update={
            "data": run.data.model_validate(run.data.model_dump() | {"shape": [8] * 3, "patches": {"size": [8] * 3}})
        }
    )
    assert pack(other, map_here, lambda progress: None).snapshot_digest == snapshot.digest
    check_snapshot(other, snapshot)


def test_with_and_without_patches_are_other_data_sets(tmp_path: Path) -> None:
    run = packed_volumes(tmp_path)
    plain = run.model_copy(update={"data": run.data.model_copy(update={"patches": None})})
    with pytest.raises(RunChangedError, match=r"data\.shape: \[16, 16, 16\] in the run file, \{'axes': 3\}"):
        pack(plain, map_here, lambda progress: None)
    snapshot = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    with pytest.raises(RunFileError, match=r"in their own shape") as caught:
        check_snapshot(plain, snapshot)
    assert "data.patches with a size of 3 axes" in caught.value.do
    flat = run.model_copy(update={"data": run.data.model_validate({"source": "/x", "patches": {"size": [8, 8]}})})
    with pytest.raises(RunFileError, match=r"data\.shape is \{'axes': 2\}"):
        check_snapshot(flat, snapshot)


def test_a_scan_larger_than_a_shard_is_a_shard_of_its_own(tmp_path: Path) -> None:
    run = packed_volumes(tmp_path, shapes=[(10, 10, 10), (90, 90, 90), (11, 10, 10), (12, 10, 10)], shard_megabytes=1)
    reader, shards = reader_of(run, tmp_path), shards_of(run)
    found = sorted(sorted(reader.shapes(number)) for number in range(len(shards)))
    assert [(90, 90, 90)] in found
    assert max(map(len, found)) > 1


def test_all_of_it_is_verified_and_damage_in_any_brick_is_found(tmp_path: Path) -> None:
    run = packed_volumes(tmp_path, shapes=[(90, 90, 90), (20, 21, 22)])
    [shard] = shards_of(run)
    store = ObjectStore(run.storage)
    assert len(check_shard(ShardCheck(run.storage, shard)).keys) == 2
    index = read_index(store, shard)
    other = index.to_pylist()
    other[0]["brick_crc32c"][-1] ^= 1
    data = index_bytes(pa.Table.from_pylist(other, schema=index.schema))
    store.write("other.parquet", data)
    wrong = replace(shard, index_uri="other.parquet", index_size=len(data), index_sha256=sha256_bytes(data))
    with pytest.raises(IntegrityError, match="shape or bricks do not match"):
        check_shard(ShardCheck(run.storage, wrong))
    path = tmp_path / "store" / shard.uri
    row = max(index.to_pylist(), key=lambda row: row["npy_length"])
    tar = bytearray(path.read_bytes())
    tar[row["npy_offset"] + 2**20 + 5] ^= 1
    path.write_bytes(tar)
    with pytest.raises(IntegrityError, match="does not match the snapshot"):
        check_shard(ShardCheck(run.storage, shard))


def test_looks_of_scans_of_different_shapes_are_kept_beside_them(tmp_path: Path) -> None:
    run = packed_volumes(tmp_path)
    looks = read_looks(ObjectStore(run.storage), run.dataset, shards_of(run)[0])
    assert looks is not None
    assert looks.shape == (3, 64)
    assert all(look.any() for look in looks)


def test_signals_keep_their_own_length(tmp_path: Path) -> None:
    run = packed_volumes(tmp_path, shapes=[(9, 9, 9)])
    (tmp_path / "signals").mkdir()
    write_ecg_csv(tmp_path / "signals" / "a.csv", rows=2, samples=150)
    write_ecg_csv(tmp_path / "signals" / "b.csv", rows=1, samples=187)
    data = {
        "source": str(tmp_path / "signals"),
        "patches": {"size": [64]},
        "private": str(tmp_path / "private"),
        "dataset": "ecg",
        "fractions": {"train": 1.0},
    }
    run = run.model_copy(update={"data": run.data.model_validate(data)})
    pack(run, map_here, lambda progress: None)
    shapes = [shape for number in range(len(shards_of(run))) for shape in reader_of(run, tmp_path).shapes(number)]
    assert sorted(shapes) == [(150,), (150,), (187,)]


@pytest.mark.parametrize("reader", ["wfdb", "csv"])
def test_signals_that_come_later_keep_theirs_too(tmp_path: Path, reader: str) -> None:
    (tmp_path / "signals").mkdir()
    data = {"source": str(tmp_path / "signals"), "patches": {"size": [64]}, "private": str(tmp_path / "private")}
    data |= {"channels": 2 if reader == "wfdb" else 1}
    run = RunFile.model_validate(
        {"name": "ecg", "storage": str(tmp_path / "store"), "data": data | {"fractions": {"train": 1.0}}}
    )
    for samples in (150, 187):
        name = tmp_path / "signals" / f"{samples}.{'hea' if reader == 'wfdb' else 'csv'}"
        if reader == "wfdb":
            write_wfdb(name.with_suffix(""), samples=samples)
        else:
            write_ecg_csv(name, rows=1, samples=samples)
        pack(run, map_here, lambda progress: None)
    shapes = [shape for number in range(len(shards_of(run))) for shape in reader_of(run, tmp_path).shapes(number)]
    assert sorted(shapes) == [(150,), (187,)]


def test_slabs_of_a_volume_are_scans_in_splits_and_gaps_are_dropped(tmp_path: Path) -> None:
    slabs = {"size": 4, "period": 3, "gap": 1}
    run = packed_volumes(tmp_path, shapes=[(9, 10, 27)], slabs=slabs)
    keys, whole = KeyMaker(load_salt(tmp_path / "private")), volume(0, (9, 10, 27))
    # Slabs 2 and 5 are held out; slabs beside them lose a slice, and the last one has three.
    expected = {
        0: ("train", 0, 4),
        1: ("train", 4, 7),
        2: ("test", 8, 12),
        3: ("train", 13, 16),
        4: ("train", 16, 19),
        5: ("test", 20, 24),
        6: ("train", 25, 27),
    }
    snapshot = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    found = {sample.key: sample for sample in samples(run, tmp_path)}
    splits = {
        key: split
        for split, shards in snapshot.splits.items()
        for shard in shards
        for key in read_index(ObjectStore(run.storage), shard)["key"].to_pylist()
    }
    assert len(found) == len(expected)
    windows = {sample.window for sample in found.values()}
    assert len(windows) == 1  # the volume's
    for number, (split, first, stop) in expected.items():
        key = keys.scan_key("volume-0.nii", f"slab/{number}")
        assert splits[key] == split
        np.testing.assert_array_equal(found[key].array, whole[None, :, :, first:stop])
        corner = np.array(found[key].meta["affine"]) @ [0, 0, 0, 1]
        np.testing.assert_allclose(corner, AFFINE @ [0, 0, first, 1])
    assert snapshot.counts["blank"] == 4


def test_masks_are_cut_into_slabs_too(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    classes = np.zeros((8, 9, 8), np.uint8)
    classes[2:5, 3:6, 2:7] = 3
    write_nifti(tmp_path / "archive" / "a.nii", affine=AFFINE, array=volume(0, (8, 9, 8)))
    write_nifti(tmp_path / "archive" / "a-seg.nii", affine=AFFINE, array=classes)
    section = {
        "source": str(tmp_path / "archive"),
        "private": str(tmp_path / "private"),
        "patches": {"size": [4, 4, 4]},
        "slabs": {"size": 4, "period": 2, "gap": 0},
        "masks": "pair",
    }
    run = RunFile.model_validate({"name": "masked", "storage": str(tmp_path / "store"), "data": section})
    pack(run, map_here, lambda progress: None)
    masks = {sample.meta["affine"][2][3]: sample.mask() for sample in samples(run, tmp_path)}
    np.testing.assert_array_equal(np.concatenate([masks[z] for z in sorted(masks)], axis=2), classes)


def test_slabs_need_slices_or_patches_of_volumes() -> None:
    for shape in ([8], [8, 8]):
        with pytest.raises(ValueError, match="slabs need slices, or patches of volumes"):
            Data.model_validate({"source": "x", "patches": {"size": shape}, "slabs": {}})


def test_latents_of_whole_scans_are_refused_for_a_run_with_patches(tmp_path: Path) -> None:
    run = packed_volumes(tmp_path, shapes=[(9, 9, 9)])
    for call in (lambda: import_latents(run, str(tmp_path)), lambda: export_latents(run, tmp_path / "out")):
        with pytest.raises(RunFileError, match="one latent per scan") as caught:
            call()
        assert caught.value.where == "data.patches"


def test_what_stays_of_a_changed_pack_keeps_its_shapes_and_bricks(tmp_path: Path) -> None:
    run = packed_volumes(tmp_path)
    before = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    write_nifti(tmp_path / "archive" / "volume-0.nii", affine=AFFINE, array=volume(9, (13, 8, 11)))
    pack(run, map_here, lambda progress: None)
    after = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    assert after.parent == before.digest
    reader, shards = reader_of(run, tmp_path), shards_of(run)
    for shard in shards:
        check_shard(ShardCheck(run.storage, shard))
    shapes = [shape for number in range(len(shards)) for shape in reader.shapes(number)]
    assert sorted(shapes) == sorted([(13, 8, 11), *SHAPES[1:]])
