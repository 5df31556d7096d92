"""A scan that is a grid of patches is forgotten with all of them, in whatever ranges they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medfuncta_dist.config.load import dump
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.forget.forget_driver import Asked, forget, open_place
from medfuncta_dist.latent_table.catalogue.catalogue_store import write_catalogue
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.scans.private.private_folder import load_salt
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.native_scans import AFFINE, volume
from tests.patched_runs import SHAPES, patched_run
from tests.traces import holding
from tests.unit.latents.fitted import network, publish
from tests.writers import write_nifti


def test_no_patch_of_it_is_left_and_the_others_are_fitted_again(tmp_path: Path):
    run = patched_run(tmp_path, "basis")
    store = ObjectStore(run.storage)
    store.write(f"runs/{run.name}/run.yaml", dump(run).encode())
    fit(run, map_here)
    target = locate_table(run, store)
    write_catalogue(store, target.folder, target.shards, ALONE)
    table = LatentTable.open(run)
    gone = max(table.keys, key=lambda key: len(table.patches(key)))
    before = {key: table.patch_latents(key) for key in table.keys}

    forget(open_place(run), Asked(keys=(gone,)), map_here)
    assert holding(Path(run.storage), [gone[:12].encode(), *(latent.tobytes() for latent in before[gone])]) == {}
    assert fit(run, map_here).counts.fitted == len(SHAPES) - 1
    left = LatentTable.open(run)
    assert set(left.keys) == set(before) - {gone}
    # In the new shard they have other places in their batches: the same latents up to rounding.
    assert all(np.allclose(left.patch_latents(key), before[key], atol=1e-4) for key in left.keys)


def test_patches_of_air_make_no_scan_equal_but_equal_latents_of_all_patches_do(tmp_path: Path):
    run = patched_run(tmp_path, "basis", [(12, 12, 12)] * 3)
    first, other = (np.zeros((12, 12, 12), np.int16) for _ in range(2))
    first[5:10, 5:10, 5:10], other[5:10, 5:10, 5:10] = volume(0, (5, 5, 5)), volume(1, (5, 5, 5))
    for number, array in enumerate((first, other, first * 2)):  # the third one has another window, and the same values
        write_nifti(tmp_path / "archive" / f"volume-{number}.nii", affine=AFFINE, array=array)
    data = {"dataset": "bordered", "shard_scans": 1}
    run = run.model_copy(update={"data": run.data.model_copy(update=data)})
    pack(run, map_here, lambda progress: None)
    publish(run, network(run))
    fit(run, map_here)
    table, maker = LatentTable.open(run), KeyMaker(load_salt(tmp_path / "private"))
    keys = [maker.scan_key(f"volume-{number}.nii", "") for number in range(3)]
    latents = [table.patch_latents(key) for key in keys]
    assert (latents[0] == latents[1]).all(axis=1).any()
    assert np.array_equal(latents[0], latents[2])

    for gone, same in ((keys[0], (keys[2],)), (keys[2], ())):
        (done,) = forget(open_place(run), Asked(keys=(gone,)), map_here)
        assert (done.equal, done.proof.equal) == (same, len(same))
