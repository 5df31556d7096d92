"""A table of patches as people use it: scans as ever, and the latents of chosen patches, and of little else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, RunFileError
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.integrity.verify_catalogue import verify_catalogue
from medfuncta_dist.latent_table.catalogue.catalogue_reader import Catalogue
from medfuncta_dist.latent_table.catalogue.catalogue_store import write_catalogue
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.latent_table.patched_scans import PatchedScans
from medfuncta_dist.latent_table.scan_list import ListedScans
from medfuncta_dist.latents.patch_format.row_groups import GroupedFile
from medfuncta_dist.latents.table_format import latents_of
from medfuncta_dist.patches.patch_grid import PatchGrid
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.patched_runs import OVERLAP, PATCHES, SHAPES, SIZE, patched_run
from tests.unit.latents.fitted import LATENT


@pytest.fixture(scope="module", params=["float32", "int8"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    run = patched_run(tmp_path_factory.mktemp("run"), "basis", storage_type=request.param)
    fit(run, map_here)
    return run


@pytest.fixture
def table(run: RunFile) -> LatentTable:
    return LatentTable.open(run)


def test_scans_are_listed_as_ever_with_their_grids(table):
    assert len(table) == len(table.keys) == len(table.psnr) == len(SHAPES)
    grids = {key: table.patches(key) for key in table.keys}
    assert {grid.shape for grid in grids.values()} == set(SHAPES)
    assert all(grid == PatchGrid(grid.shape, SIZE, (OVERLAP,) * 3) for grid in grids.values())
    listing = table.listing()
    assert listing["patches"].to_pylist() == [len(grids[key]) for key in table.keys]
    assert all(psnr >= worst for psnr, worst in zip(table.psnr, listing["worst_psnr"].to_pylist(), strict=True))
    facts = table.row(table.keys[0]).to_pylist()[0]
    assert (facts["key"], tuple(facts["shape"])) == (table.keys[0], grids[table.keys[0]].shape)
    assert table.is_patched
    assert len(table.filter(splits="test")) == 0
    assert table.filter(splits="test").numpy().shape == (0, LATENT)


def test_every_reader_gives_a_row_per_patch(table):
    whole = table.numpy()
    assert whole.shape == (PATCHES, LATENT)
    assert np.array_equal(whole, np.concatenate([table.patch_latents(key) for key in table.keys]))
    arrow = table.arrow(["key", "patch", "latent"]).read_all()
    found = {(row["key"], row["patch"]): row["latent"] for row in arrow.to_pylist()}
    expected = [(key, patch) for key in table.keys for patch in range(len(table.patches(key)))]
    assert sorted(found) == sorted(expected)
    assert np.array_equal(np.array([found[one] for one in expected], np.float32), whole)
    rows = table.rows
    order = pa.compute.sort_indices(rows, [("key", "ascending"), ("patch", "ascending")])
    assert np.array_equal(latents_of(rows.take(order)), whole)
    dataset = table.torch_dataset()
    assert len(dataset) == PATCHES
    batch = dataset.batch([PATCHES - 1, 0])
    assert torch.equal(batch["latent"], torch.from_numpy(whole[[PATCHES - 1, 0]]))
    assert batch["place"].tolist() == [len(SHAPES) - 1, 0]


def test_of_a_part_only_the_row_groups_that_hold_the_patches_are_read(run, monkeypatch):
    monkeypatch.setattr("medfuncta_dist.latents.patch_format.patch_rows.GROUP_BYTES", 2 * 4 * LATENT)
    monkeypatch.setattr("medfuncta_dist.latents.patch_format.patch_rows.LARGEST_GROUP", 2)
    again = run.model_copy(update={"fit": run.fit.model_copy(update={"min_psnr": 4.0})})  # another table
    fit(again, map_here)
    table = LatentTable.open(again)
    large = max(table.keys, key=lambda key: len(table.patches(key)))
    whole = table.patch_latents(large)
    table, asked = LatentTable.open(again), []
    table.patches(large)
    read = ObjectStore.read_range
    monkeypatch.setattr(ObjectStore, "read_range", lambda s, p, a, n: asked.append((p, n)) or read(s, p, a, n))
    assert np.array_equal(table.patch_latents(large, [1, 0]), whole[[1, 0]])
    parts = [(p, n) for p, n in asked if "/parts/" in p]
    (part,) = {p for p, _ in parts}
    opened = next(
        GroupedFile(table._source.store, table._source.folder, one.grouped)
        for one in table._source.parts
        if part.endswith(one.path)
    )
    assert opened._metadata.num_row_groups == 4
    groups = [stop - start for start, stop in opened._spans]
    assert sum(n for _, n in parts) - opened._ref.footer <= 2 * max(groups)
    asked.clear()
    table.patch_latents(large, [1, 0])
    assert len([p for p, _ in asked if "/parts/" in p]) == 1, "the footer is read once"


def test_what_there_is_not_is_refused(table):
    with pytest.raises(RunFileError, match="patches, from 0"):
        table.patch_latents(table.keys[0], [len(table.patches(table.keys[0]))])
    with pytest.raises(RunFileError, match="patches, from 0"):
        table.patch_latents(table.keys[0], [-1])
    with pytest.raises(RunFileError, match="no fitted scans"):
        table.patches("0" * 64)
    with pytest.raises(RunFileError, match="several latents each"):
        table.pandas(latents=True)
    assert "patches" in table.pandas().columns


def test_the_catalogue_in_storage_is_that_of_the_parts_and_the_same_each_time(run):
    store, target = ObjectStore(run.storage), locate_table(run, ObjectStore(run.storage))
    written = write_catalogue(store, target.folder, target.shards, ALONE)
    assert verify_catalogue(store, target.folder, target.shards) == ("whole", [])
    before = store.read(written.path)
    for info in store.list(f"{target.folder}/catalogue"):
        store.delete(info.path)
    assert store.read(write_catalogue(store, target.folder, target.shards, ALONE).path) == before
    table = LatentTable.open(run)
    entry = table.find(table.keys[1][:10])
    assert (entry.key, entry.patches) == (table.keys[1], len(table.patches(table.keys[1])))
    path = f"{target.folder}/{written.record.files[0].path}"
    data = store.read(path)
    middle = len(data) // 2
    store.write(path, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    assert verify_catalogue(store, target.folder, target.shards)[0] == "damaged"
    store.write(path, data)


def test_a_damaged_group_is_noticed_when_it_is_read(run, tmp_path: Path):

    shutil.copytree(run.storage, tmp_path / "store")
    moved = run.model_copy(update={"storage": str(tmp_path / "store")})
    table = LatentTable.open(moved)
    part = table._source.parts[0]
    path = tmp_path / "store" / table._source.folder / part.path
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))
    holds = next(key for key in table.keys if table.find(key).part == 0)
    with pytest.raises(IntegrityError, match="not the one that was committed"):
        table.patch_latents(holds, [0])


def test_a_shape_that_does_not_have_the_catalogue_s_patches_is_refused(table, monkeypatch):
    key, facts = table.keys[0], table.row(table.keys[0])
    shape = facts["shape"].to_pylist()[0]
    for wrong in ([2**31 - 1] * 3, [*shape[:2], 0], shape[:2], [*shape[:2], -1], [*shape[:2], None]):
        changed = facts.set_column(
            facts.schema.get_field_index("shape"), "shape", pa.array([wrong], pa.list_(pa.int32()))
        )
        monkeypatch.setattr(PatchedScans, "facts", lambda self, key, found=changed: found)
        with pytest.raises(IntegrityError, match="does not have the patches"):
            table.patches(key)


def test_more_patches_than_the_parts_hold_are_refused(run, monkeypatch):
    for wrong in (2**31 - 1, 0, -1):
        before, table = LatentTable.open(run), LatentTable.open(run)
        entry, narrow = before.find(before.keys[0]), before.listing()
        patches = pa.array([wrong, *narrow["patches"].to_pylist()[1:]], pa.int32())
        changed = narrow.set_column(narrow.schema.get_field_index("patches"), "patches", patches)
        monkeypatch.setattr(ListedScans, "narrow", changed)
        with pytest.raises(IntegrityError, match="do not hold"):
            table.numpy()
        damaged = entry._replace(patches=wrong)
        monkeypatch.setattr(Catalogue, "find", lambda *_, found=damaged: [found])
        with pytest.raises(IntegrityError, match="do not hold"):
            table.patch_latents(entry.key)
        monkeypatch.undo()
