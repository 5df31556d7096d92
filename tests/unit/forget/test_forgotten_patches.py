"""A scan that is a grid of patches is forgotten with all of them, in whatever ranges they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medfuncta_dist.config.load import dump
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.forget.forget_driver import Asked, forget, open_place
from medfuncta_dist.latent_table.catalogue.catalogue_store import write_catalogue
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.patched_runs import SHAPES, patched_run
from tests.traces import holding


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
