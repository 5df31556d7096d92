"""Fitting scans that are grids of patches: every patch once, whatever the ranges, and a scan whole or quarantined."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, QuarantineLimitError, WorkerDiedError
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fitting import fit_task as worker_side
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import fit, fit_digest, locate_table
from medfuncta_dist.fitting.fit_failures import DAMAGED_SHARD, ENDED_ITS_WORKER
from medfuncta_dist.fitting.fit_rows import DAMAGED_SAMPLE, NOT_FINITE
from medfuncta_dist.fitting.fit_task import fit_task
from medfuncta_dist.fitting.patched import patch_ledger
from medfuncta_dist.fitting.patched.patch_ledger import fitted_scans, patch_totals
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.latents.fit import fit_batch
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.patch_format import scan_rows
from medfuncta_dist.run.settle_task_size import settle_task_size
from medfuncta_dist.shards.snapshot import read_index
from medfuncta_dist.stages import fit_stage
from medfuncta_dist.stages.readiness import require_fitted
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.task_map import Done, Failed, map_here
from tests.kinds import KINDS
from tests.patched_runs import PATCHES, SHAPES, SIZE, patched_run
from tests.unit.latents.fitted import network

SCANS = len(SHAPES)


@pytest.fixture(scope="module", params=KINDS)
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    return patched_run(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def run(packed: RunFile, tmp_path: Path) -> RunFile:
    """The same, with a storage of its own."""
    shutil.copytree(packed.storage, tmp_path / "store")
    cluster = packed.cluster.model_copy(update={"cache": str(tmp_path / "cache")})
    return packed.model_copy(update={"storage": str(tmp_path / "store"), "cluster": cluster})


def objects(run: RunFile) -> dict[str, bytes]:
    store = ObjectStore(run.storage)
    return {o.path: store.read(o.path) for o in store.list(f"runs/{run.name}/latents")}


def shard_of(run: RunFile) -> Any:
    return locate_table(run, ObjectStore(run.storage)).works[0].shard


def keys(run: RunFile) -> list[str]:
    return read_index(ObjectStore(run.storage), shard_of(run))["key"].to_pylist()


def commits(run: RunFile) -> dict[str, latent_ledger.Commit]:
    store = ObjectStore(run.storage)
    return latent_ledger.read_commits(store, locate_table(run, store).folder)


def test_every_patch_gets_the_latent_that_fitting_it_gives(run):
    summary = fit(run, map_here)
    assert (summary.counts.packed, summary.counts.fitted, summary.patches) == (SCANS, SCANS, PATCHES)
    store = ObjectStore(run.storage)
    _, cache = worker_side.WorkerSettings.of(run).open()
    reader = SampleReader(store, [shard_of(run)], cache)
    table = LatentTable.open(run)
    source = worker_side.PatchSource(reader, locate_table(run, store).grids)
    targets = np.zeros((PATCHES, 125, 1), np.float32)
    places = [source.fill(unit, targets[unit]) for unit in range(PATCHES)]
    shared = network(run)
    settings = FitSettings() if run.field.kind == "basis" else FitSettings(4, 1.0, 1.0, 0, closed_form=True)
    weights = source.weights(range(PATCHES))
    assert [int(n) for n in weights.sum(1)] == [place.patch.points for place in places]
    given = torch.from_numpy(targets), settings, torch.from_numpy(weights)
    expected = fit_batch(shared.spec, shared.params, grid(SIZE), *given)
    for place, latent in zip(places, expected.latents, strict=True):
        found = table.patch_latents(place.key, [place.patch.number])[0]
        assert np.allclose(found, latent.numpy(), atol=1e-5)


def test_values_are_those_of_the_scan_and_beyond_it_those_of_its_edge(run):
    store = ObjectStore(run.storage)
    _, cache = worker_side.WorkerSettings.of(run).open()
    reader = SampleReader(store, [shard_of(run)], cache)
    grids = locate_table(run, store).grids
    source, unit = worker_side.PatchSource(reader, grids), 0
    for row, key in enumerate(keys(run)):
        members = reader.read(worker_side.SampleId(0, row))
        values = worker_side.decode(key, members["npy"], members["json"]).values()[0]
        whole = np.pad(values, [(0, max(0, n - m)) for n, m in zip(SIZE, values.shape, strict=True)], mode="edge")
        layout = grids.of(values.shape)
        for number in range(len(layout)):
            target = np.empty((125, 1), np.float32)
            place = source.fill(unit, target)
            corner = layout.corner(number)
            part = whole[tuple(slice(a, a + n) for a, n in zip(corner, SIZE, strict=True))]
            assert np.array_equal(target.reshape(SIZE), part)
            inside = values[layout.inside(corner)]
            assert (place.key, place.patch.number, place.patch.points) == (key, number, inside.size)
            unit += 1
    assert unit == PATCHES


@pytest.mark.parametrize("tasks_before_the_kill", [1, 3])
def test_killed_in_the_middle_of_a_scan_and_run_again_gives_the_same_bytes_and_fits_nothing_twice(
    run, tasks_before_the_kill
):
    class Killed(BaseException):
        pass

    done: list[str] = []

    def dying(task: Any, items: Sequence[Any]) -> Iterator[Done | Failed]:
        for number, outcome in enumerate(map_here(task, items), 1):
            done.append(outcome.item.name)
            yield outcome
            if number == tasks_before_the_kill:
                raise Killed

    with pytest.raises(Killed):
        fit(run, dying)
    left = PATCHES - 8 * tasks_before_the_kill
    assert fit(run, lambda task, items: map_here(task, items[::-1])).fitted_now == left
    resumed = objects(run)
    for path in resumed:
        ObjectStore(run.storage).delete(path)
    fit(run, map_here)
    assert objects(run) == resumed


def test_a_divided_range_has_the_same_latents(run):
    fit(run, map_here)
    whole = LatentTable.open(run)
    before = {key: whole.patch_latents(key) for key in whole.keys}
    store, target = ObjectStore(run.storage), locate_table(run, ObjectStore(run.storage))
    tasks: list[Any] = []
    store.delete(next(path for path in objects(run) if f"{target.works[1].name}.json" in path))
    with pytest.raises(RuntimeError, match="stop"):
        fit(run, lambda task, items: (_ for _ in ()).throw(tasks.extend(items) or RuntimeError("stop")))
    for piece in tasks[0].work.divided():
        fit_task(replace(tasks[0], work=piece))
    assert fit(run, map_here).counts.fitted == SCANS
    table = LatentTable.open(run)
    assert table.keys == whole.keys
    assert np.allclose(table.psnr, whole.psnr, atol=1e-5)
    assert all(np.array_equal(table.patch_latents(key), latents) for key, latents in before.items())


def damage(run: RunFile, row: int) -> None:
    """Another byte at the end of a scan, in the cached shard, after that was proved: as on a disk that rots."""
    index = read_index(ObjectStore(run.storage), shard_of(run))
    (file,) = Path(run.cluster.cache).rglob("*.tar")
    data, status = bytearray(file.read_bytes()), file.stat()
    data[index["npy_offset"][row].as_py() + index["npy_length"][row].as_py() - 1] ^= 1
    with file.open("r+b") as opened:
        opened.write(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_scan_with_damaged_bytes_is_quarantined_once_and_the_others_keep_their_bits(run):
    fit(run, map_here)
    before = LatentTable.open(run)
    latents = {key: before.patch_latents(key) for key in before.keys}
    clean = objects(run)
    for path in clean:
        ObjectStore(run.storage).delete(path)
    damage(run, 0)
    summary = fit(run, map_here)
    assert (summary.counts.fitted, summary.counts.quarantined, summary.counts.packed) == (SCANS - 1, 1, SCANS)
    assert [(q.key, q.reason) for q in summary.quarantined] == [(keys(run)[0], DAMAGED_SAMPLE)]
    table = LatentTable.open(run)
    assert set(table.keys) == set(keys(run)) - {keys(run)[0]}
    assert all(np.array_equal(table.patch_latents(key), latents[key]) for key in table.keys)
    assert len(table.numpy()) == sum(len(latents[key]) for key in table.keys)
    assert table.is_quarantined(keys(run)[0])


def test_one_patch_that_diverges_quarantines_its_scan_in_whatever_range_it_is(run, monkeypatch):
    """The second range holds the last four patches of the first scan: its others are fitted, and count for nothing."""
    fill = worker_side.PatchSource.fill
    ranges = [work.start for work in locate_table(run, ObjectStore(run.storage)).works]
    first = int(np.argmax([len(locate_table(run, ObjectStore(run.storage)).grids.of(s)) for s in SHAPES]))
    units = locate_table(run, ObjectStore(run.storage)).units[shard_of(run).sha256]
    large = max(range(units.scans), key=units.patches)
    poisoned = units.firsts[large + 1] - 1
    assert first is not None
    assert sum(units.firsts[large] < start <= poisoned for start in ranges) >= 1, "the scan is in several ranges"

    def spoiled(self: Any, unit: int, target: np.ndarray) -> Any:
        place = fill(self, unit, target)
        if unit == poisoned:
            target[...] = np.nan
        return place

    monkeypatch.setattr(worker_side.PatchSource, "fill", spoiled)
    summary = fit(run, map_here)
    assert (summary.counts.fitted, summary.counts.quarantined) == (SCANS - 1, 1)
    assert [(q.key, q.reason) for q in summary.quarantined] == [(keys(run)[large], NOT_FINITE)]
    assert summary.patches == PATCHES - 1
    assert keys(run)[large] not in LatentTable.open(run).keys


def test_a_scan_that_ends_its_workers_is_quarantined_once_and_costs_no_task_per_patch(run):
    units = locate_table(run, ObjectStore(run.storage)).units[shard_of(run).sha256]
    large = max(range(units.scans), key=units.patches)
    tried: list[str] = []

    def deadly(task: Any, items: Sequence[Any]) -> Iterator[Done | Failed]:
        for item in items:
            scans = {scan for scan, _, _ in units.scans_in(item.work.start, item.work.stop)}
            if large in scans:
                tried.append(item.name)
                yield Failed(item, WorkerDiedError("a worker died"), attempts=3)
            else:
                yield from map_here(task, [item])

    summary = fit(run, deadly)
    assert (summary.counts.fitted, summary.counts.quarantined, summary.counts.packed) == (SCANS - 1, 1, SCANS)
    assert [(q.key, q.reason) for q in summary.quarantined] == [(keys(run)[large], ENDED_ITS_WORKER)]
    assert fit(run, map_here).fitted_now == 0
    strict = run.model_copy(update={"data": run.data.model_copy(update={"max_quarantined": 0.1})})
    with pytest.raises(QuarantineLimitError, match="1 of 4"):
        fit(strict, map_here)


def test_a_missing_shard_is_quarantined_as_its_scans_and_tried_again(run):
    store, shard = ObjectStore(run.storage), shard_of(run)
    data = store.read(shard.uri)
    store.delete(shard.uri)
    every = run.model_copy(update={"data": run.data.model_copy(update={"max_quarantined": 1.0})})
    summary = fit(every, map_here)
    assert (summary.counts.fitted, summary.counts.quarantined) == (0, SCANS)
    assert {q.reason for q in summary.quarantined} == {DAMAGED_SHARD}
    store.write(shard.uri, data)
    assert fit(run, map_here).counts.fitted == SCANS


def test_a_lost_part_of_either_kind_is_fitted_again(run):
    fit(run, map_here)
    before = objects(run)
    for commit in list(commits(run).values())[:2]:
        path = f"{locate_table(run, ObjectStore(run.storage)).folder}/{commit.parts[-1].path}"
        ObjectStore(run.storage).delete(path)
    assert fit(run, map_here).lost_parts == 2
    assert objects(run) == before


def test_counts_that_do_not_balance_are_an_error(run):
    fit(run, map_here)
    store, target = ObjectStore(run.storage), locate_table(run, ObjectStore(run.storage))
    counts, psnr = patch_totals(store, target.folder, target.works, commits(run), target.units)
    assert (counts.packed, counts.fitted) == (SCANS, SCANS)
    scans = list(fitted_scans(store, target.folder, [c for _, c in sorted(commits(run).items())]))
    assert psnr["train"].mean == pytest.approx(np.mean([scan.psnr for scan in scans]))
    half = target.works[:2]
    partial, _ = patch_totals(store, target.folder, half, commits(run), target.units)
    assert partial.packed < SCANS
    short = {name: replace(commit, rows=commit.rows - 1) for name, commit in commits(run).items()}
    with pytest.raises(IntegrityError, match="quarantined ones"):
        patch_totals(store, target.folder, target.works, short, target.units)
    one = next(iter(sorted(commits(run))))
    without = commits(run) | {one: replace(commits(run)[one], patches=replace(commits(run)[one].patches, scans=None))}
    with pytest.raises(IntegrityError, match="have all of their patches"):
        patch_totals(store, target.folder, target.works, without, target.units)


def test_verify_reads_both_parts_of_every_range(run):
    fit(run, map_here)
    store, target = ObjectStore(run.storage), locate_table(run, ObjectStore(run.storage))
    assert patch_ledger.verify(store, target.folder, target.works, target.units).fitted == SCANS
    one, two = list(commits(run).values())[:2]
    swapped = replace(
        one, patches=replace(two.patches, footer=one.patches.footer, footer_sha256=one.patches.footer_sha256)
    )
    with pytest.raises(IntegrityError, match="a part of patches"):
        patch_ledger.check_parts(store, target.folder, swapped)


def test_a_scan_without_rows_is_a_damaged_part(run):
    fit(run, map_here)
    store, target = ObjectStore(run.storage), locate_table(run, ObjectStore(run.storage))
    one = next(iter(commits(run).values()))
    scans = scan_rows.read_part(store, target.folder, one.patches.scans)
    for rows in (0, -1):
        changed = pa.Table.from_pylist(
            [*scans.to_pylist(), scans.to_pylist()[-1] | {"rows": rows, "first_row": one.rows}], schema=scans.schema
        )
        part = scan_rows.write_part(store, target.folder, changed)
        patches = replace(one.patches, scans=part, scan_rows=changed.num_rows)
        with pytest.raises(IntegrityError, match="without rows"):
            patch_ledger.check_parts(store, target.folder, replace(one, patches=patches))


def test_the_psnr_of_a_scan_is_that_of_all_points_of_its_patches(run):
    fit(run, map_here)
    table = LatentTable.open(run)
    rows = table.rows.to_pylist()
    for key, psnr, worst in zip(table.keys, table.psnr, table.listing()["worst_patch"].to_pylist(), strict=True):
        mine = [row for row in rows if row["key"] == key]
        error = sum(10 ** (-row["psnr"] / 10) * row["points"] for row in mine) / sum(row["points"] for row in mine)
        assert psnr == pytest.approx(-10 * np.log10(error), abs=1e-4)
        assert worst == min(mine, key=lambda row: row["psnr"])["patch"]


def test_an_open_task_size_is_chosen_in_patches_and_known_again_by_the_ranges(run):
    store = ObjectStore(run.storage)
    left_open = run.model_copy(update={"fit": run.fit.model_copy(update={"scans_per_task": None})})
    chosen = settle_task_size(left_open, store, map_here, fence=ALONE)
    assert chosen.fit.range_scans < PATCHES
    assert chosen.fit.range_scans % run.fit.batch == 0
    assert fit(chosen, map_here).counts.fitted == SCANS
    store.delete(f"runs/{run.name}/run.yaml")
    assert settle_task_size(left_open, store, map_here, fence=ALONE).fit.range_scans == chosen.fit.range_scans


def test_the_stage_tells_scans_and_patches_and_writes_the_catalogue(run, monkeypatch):
    if run.field.kind == "basis":
        return  # the same, and its run file has no schedule of frequencies
    monkeypatch.setattr(fit_stage, "compute_fan_out", lambda _: map_here)
    answer = fit_stage.run_fit(run, ObjectStore(run.storage), ALONE)
    assert (answer["counts"]["fitted"], answer["patches"], answer["fitted_now"]) == (SCANS, PATCHES, PATCHES)
    assert f"{SCANS} of {SCANS} scans have latents of {PATCHES} patches, each of 24 numbers" in answer["said"][0]
    assert answer["said"][0].endswith("8 patches per task")
    assert any("/catalogue/" in path for path in objects(run))
    require_fitted(run, ObjectStore(run.storage))
    assert fit_stage.run_fit(run, ObjectStore(run.storage), ALONE)["fitted_now"] == 0


def test_its_records_have_a_version_of_their_own(run):
    """Which earlier versions refuse, for they would take patches for scans."""
    fit(run, map_here)
    records = [json.loads(data) for path, data in objects(run).items() if "/commits/" in path]
    assert {(record["format_version"], record["kind"]) for record in records} == {(2, "latents")}
    assert all(set(record["body"]["patches"]) >= {"footer", "scans", "lost"} for record in records)


def test_another_overlap_is_another_table_and_no_patches_leave_the_digest_as_it_was(run):
    other = run.data.patches.model_copy(update={"overlap": 2})
    changed = run.model_copy(update={"data": run.data.model_copy(update={"patches": other})})
    assert fit_digest(changed) != fit_digest(run)
    without = run.model_copy(update={"data": run.data.model_copy(update={"patches": None})})
    assert fit_digest(without) not in (fit_digest(run), fit_digest(changed))
