"""Verifying and repairing a table of patches: both kinds of parts, and the counts of scans."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.integrity import repair, verify
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.patched_runs import SHAPES, patched_run


@pytest.fixture
def run(tmp_path: Path):
    return patched_run(tmp_path, "basis")


@pytest.mark.parametrize("kind", ["patches", "scans"])
def test_a_damaged_part_is_told_its_record_removed_and_its_range_fitted_again(run, kind):
    store = ObjectStore(run.storage)
    fit(run, map_here)
    figures, line, faults = verify._latents(run, store)
    assert (figures["packed"], figures["fitted"], figures["unfitted"], faults) == (len(SHAPES), len(SHAPES), 0, [])
    assert f"packed {len(SHAPES)} = fitted {len(SHAPES)} + quarantined 0" in line
    folder = locate_table(run, store).folder
    before = {info.path: store.read(info.path) for info in store.list(folder)}
    commit = next(iter(latent_ledger.read_commits(store, folder).values()))
    path = f"{folder}/{commit.parts[kind == 'scans'].path}"
    store.write(path, before[path][:-1] + b"x")
    faults = verify._latents(run, store)[2]
    assert len(faults) == 1
    assert "not the one that was committed" in faults[0].what
    said, left = repair._latents(run, store, faults)
    assert left == {}
    assert "1 of 1 damaged commit records removed" in said[0]
    assert fit(run, map_here).fitted_now == commit.rows
    after = {info.path: store.read(info.path) for info in store.list(folder)}
    assert {path: after[path] for path in before if "/catalogue/" not in path} == {
        path: data for path, data in before.items() if "/catalogue/" not in path
    }


def test_what_is_not_fitted_yet_is_counted_in_patches(run):
    store = ObjectStore(run.storage)

    def two(task, items):
        yield from map_here(task, items[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(run, two)
    figures, line, faults = verify._latents(run, store)
    assert figures["unfitted"] == 27 - 2 * 8
    assert "11 patches of packed scans are not fitted yet" in line
    assert faults == []
