from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import (
    FormatVersionError,
    IntegrityError,
    LimitReachedError,
    MedfunctaError,
    QuarantineLimitError,
    RunFileError,
    StageOrderError,
    StorageError,
)
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fitting import fit_task as worker_side
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.fitting.fit_failures import DAMAGED_SHARD
from medfuncta_dist.fitting.fit_rows import NOT_FINITE, NOT_STORABLE
from medfuncta_dist.fitting.fit_task import WRONG_SHAPE, FitTask, fit_task
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.fit import fit_batch
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.network.network_loader import network_here
from medfuncta_dist.shards.sample import Sample
from medfuncta_dist.stages.fit_stage import run_fit
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.streaming.stream import points
from medfuncta_dist.task_map import Done, Failed, limited, map_here
from medfuncta_dist.telemetry.progress_report import ProgressReport
from tests.kinds import BY_KIND, KINDS
from tests.unit.latents.fitted import COUNTS, FIELD, LATENT, network, packed, publish, ready, run_file

SCANS = sum(COUNTS.values())
CPU = torch.device("cpu")


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunFile:
    return ready(tmp_path, request.param)


def objects(run: RunFile) -> dict[str, bytes]:
    """Everything in the run's latent folder."""
    store = ObjectStore(run.storage)
    return {o.path: store.read(o.path) for o in store.list(f"runs/{run.name}/latents")}


def whole(run: RunFile) -> Any:
    store = ObjectStore(run.storage)
    return latent_ledger.load_table(store, locate_table(run, store).folder)


def counted(done: list[str]) -> Callable[..., Iterator[Done | Failed]]:
    """The local fan-out, noting the ranges that it ran."""

    def fan_out(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        for outcome in map_here(task, items):
            done.append(outcome.item.work.name)
            yield outcome

    return fan_out


def test_every_scan_gets_the_latent_that_fitting_it_gives(run):
    summary = fit(run, map_here)
    assert (summary.counts.packed, summary.counts.fitted, summary.counts.quarantined) == (SCANS, SCANS, 0)
    rows = whole(run)
    assert rows.num_rows == SCANS
    assert rows["key"].to_pylist() == sorted(rows["key"].to_pylist())

    store = ObjectStore(run.storage)
    work = locate_table(run, store).works[0]
    _, cache = worker_side.WorkerSettings.of(run).open()
    reader = worker_side.SampleReader(store, [work.shard], cache)
    samples = [worker_side.read_scan(reader, 0, row, reader.keys(0)[row], (1, 12, 12)) for row in range(3)]
    targets = torch.from_numpy(np.stack([points(sample) for sample in samples]))
    shared = network(run)
    settings = FitSettings() if run.field.kind == "basis" else FitSettings(4, 1.0, 1.0, 0, closed_form=True)
    expected = fit_batch(shared.spec, shared.params, grid([12, 12]), targets, settings)
    fitted = {row["key"]: row for row in rows.to_pylist()}
    for sample, latent, psnr in zip(samples, expected.latents, expected.psnr, strict=True):
        row = fitted[sample.key]
        assert row["latent"] == latent.tolist()
        assert row["psnr"] == float(psnr)
        assert (row["labels"], row["window_low"], row["window_high"]) == (list(sample.labels), 0.0, 255.0)


def test_a_scan_of_other_channels_or_points_is_no_scan_of_this_network(run):
    work = locate_table(run, ObjectStore(run.storage)).works[0]
    store, cache = worker_side.WorkerSettings.of(run).open()
    reader = worker_side.SampleReader(store, [work.shard], cache)
    key = reader.keys(0)[0]
    for shape in ((3, 12, 12), (1, 12, 11)):
        assert worker_side.read_scan(reader, 0, 0, key, shape) == latent_ledger.Quarantined(key, WRONG_SHAPE)


def test_a_task_is_small_and_pickles(run, monkeypatch):
    tasks: list[FitTask] = []
    fit(run, lambda task, items: iter([tasks.append(i) or Done(i, task(i)) for i in items]))
    assert len(pickle.dumps(tasks[0])) < 3000
    assert fit_task(pickle.loads(pickle.dumps(tasks[0]))).rows == 5


def test_a_gpu_that_is_visible_but_not_granted_is_left_alone(run, visible_gpu):
    network_here.cache_clear()
    products = run.model_copy(update={"meta": run.meta.model_copy(update={"products": Arithmetic.best(CPU).products})})
    assert fit(products, map_here).counts.fitted == SCANS
    task = network_here(run.storage, locate_table(run, ObjectStore(run.storage)).network, CPU)
    assert {tensor.device for tensor in task.params.values()} == {CPU}


def test_a_granted_gpu_that_torch_cannot_use_is_an_error_and_not_the_cpu(run):
    granted = run.model_copy(update={"fit": run.fit.model_copy(update={"gpus_per_task": 0.5})})
    with pytest.raises(MedfunctaError, match="was granted a GPU, but torch") as found:
        fit(granted, map_here)
    assert "cluster.gpus_per_worker" in found.value.do
    assert "fit.gpus_per_task" in found.value.do


def test_a_task_has_the_device_that_fit_asks_for_and_not_that_of_training(run):
    trained_on_gpu = run.model_copy(
        update={
            "cluster": run.cluster.model_copy(update={"gpus_per_worker": 1.0}),
            "fit": run.fit.model_copy(update={"gpus_per_task": 0.0}),
        }
    )
    assert fit(trained_on_gpu, map_here).counts.fitted == SCANS


@pytest.mark.gpu
def test_a_granted_gpu_fits_the_same_scans(run):
    granted = run.model_copy(update={"cluster": run.cluster.model_copy(update={"gpus_per_worker": 1.0})})
    on_gpu = fit(granted, map_here)
    assert on_gpu.counts.fitted == SCANS
    ref = locate_table(granted, ObjectStore(run.storage)).network
    assert {t.device.type for t in network_here(run.storage, ref, torch.device("cuda")).params.values()} == {"cuda"}


def test_a_range_whose_worker_died_after_its_commit_is_not_fitted_again(run, monkeypatch):
    tasks: list[FitTask] = []
    fit(run, lambda task, items: iter([tasks.append(i) or Done(i, task(i)) for i in items]))
    before = objects(run)
    monkeypatch.setattr(worker_side, "fitter_here", lambda *_: pytest.fail("fitted twice"))
    assert fit_task(tasks[0]).rows == 5
    assert objects(run) == before


def test_run_again_does_nothing_and_changes_nothing(run):
    first = fit(run, map_here)
    before = objects(run)
    done: list[str] = []
    again = fit(run, counted(done))
    assert done == []
    assert (first.fitted_now, again.fitted_now) == (SCANS, 0)
    assert (again.counts, again.psnr) == (first.counts, first.psnr)
    assert objects(run) == before


def test_stopped_at_a_limit_and_run_again_gives_the_same_bytes_and_fits_no_range_twice(run):
    done: list[str] = []
    reached = lambda: LimitReachedError("2 of 2 hours") if len(done) >= 3 else None  # noqa: E731
    with pytest.raises(LimitReachedError):
        fit(run, limited(counted(done), reached))
    assert len(done) == 3
    store = ObjectStore(run.storage)
    assert len(latent_ledger.read_commits(store, locate_table(run, store).folder)) == 3
    fit(run, counted(done))
    assert len(done) == len(set(done))
    resumed = objects(run)
    for path in resumed:
        ObjectStore(run.storage).delete(path)
    fit(run, map_here)
    assert objects(run) == resumed


@pytest.mark.parametrize("tasks_before_the_kill", [1, 3])
def test_killed_and_run_again_gives_the_same_bytes_and_fits_no_range_twice(run, tmp_path, tasks_before_the_kill):
    class Killed(BaseException):
        pass

    done: list[str] = []

    def dying(task: Any, items: Sequence[Any]) -> Iterator[Done | Failed]:
        for number, outcome in enumerate(counted(done)(task, items), 1):
            yield outcome
            if number == tasks_before_the_kill:
                raise Killed

    with pytest.raises(Killed):
        fit(run, dying)
    fit(run, counted(done))
    assert len(done) == len(set(done))
    resumed = objects(run)
    for path in resumed:
        ObjectStore(run.storage).delete(path)
    fit(run, lambda task, items: map_here(task, items[::-1]))
    assert objects(run) == resumed


def test_a_part_without_its_commit_record_is_as_if_it_were_not_there(run):
    fit(run, map_here)
    before = objects(run)
    ObjectStore(run.storage).delete(next(path for path in before if "/commits/" in path))
    assert fit(run, map_here).fitted_now <= 5
    assert objects(run) == before


def test_a_newer_snapshot_costs_only_its_new_scans(run, tmp_path):
    fit(run, map_here)
    before = objects(run)
    packed(run, tmp_path, seed=1, counts={"train": 6})
    summary = fit(run, map_here)
    assert (summary.fitted_now, summary.counts.fitted) == (6, SCANS + 6)
    assert before.items() <= objects(run).items()


def test_latents_of_superseded_scans_are_not_in_the_newer_snapshots_table(run, tmp_path):
    packed(run, tmp_path, seed=1, counts={"train": 6})
    fit(run, map_here)
    store = ObjectStore(run.storage)
    before = locate_table(run, store)
    old = latent_ledger.load_table(store, before.folder, shards=before.shards)
    packed(run, tmp_path, seed=1, counts={"train": 7, "test": 1})  # the same file, grown
    assert fit(run, map_here).counts.fitted == SCANS + 8
    after = locate_table(run, store)
    new = latent_ledger.load_table(store, after.folder, shards=after.shards)
    assert new.num_rows == len(set(new["key"].to_pylist())) == SCANS + 8
    assert latent_ledger.load_table(store, before.folder, shards=before.shards).equals(old)
    assert latent_ledger.verify(store, after.folder, after.works).fitted == SCANS + 8


def test_only_the_splits_asked_for(run):
    only_test = run.model_copy(update={"fit": run.fit.model_copy(update={"splits": ["test"]})})
    assert fit(only_test, map_here).counts.packed == COUNTS["test"]
    assert fit(run, map_here).fitted_now == COUNTS["train"]


def test_other_settings_are_another_table(run):
    fit(run, map_here)
    other = run.model_copy(update={"fit": run.fit.model_copy(update={"steps": 5})})
    assert fit(other, map_here).fitted_now == SCANS


def test_a_scan_that_diverges_is_quarantined_and_its_neighbours_keep_their_bits(run, monkeypatch):
    fit(run, map_here)
    clean = {row["key"]: row for row in whole(run).to_pylist()}
    poisoned = sorted(clean)[3]
    for path in objects(run):
        ObjectStore(run.storage).delete(path)
    fill = Sample.fill

    def filled(sample: Sample, points: np.ndarray) -> None:
        fill(sample, points)
        if sample.key == poisoned:
            points *= np.nan

    monkeypatch.setattr(Sample, "fill", filled)
    summary = fit(run, map_here)
    assert (summary.counts.fitted, summary.counts.quarantined) == (SCANS - 1, 1)
    assert [(q.key, q.reason) for q in summary.quarantined] == [(poisoned, NOT_FINITE)]
    del clean[poisoned]
    assert {row["key"]: row for row in whole(run).to_pylist()} == clean
    done: list[str] = []
    fit(run, counted(done))
    assert done == []


def test_a_damaged_sample_is_quarantined_alone(run, monkeypatch):
    read = worker_side.SampleReader.read

    def failing(self: Any, sample: Any) -> Any:
        if sample.row == 2:
            raise IntegrityError("a sample's bytes are damaged (CRC-32C)")
        return read(self, sample)

    monkeypatch.setattr(worker_side.SampleReader, "read", failing)
    data = run.data.model_copy(update={"max_quarantined": 0.5})
    summary = fit(run.model_copy(update={"data": data}), map_here)
    shards = {work.shard for work in locate_table(run, ObjectStore(run.storage)).works}
    assert summary.counts.quarantined == sum(shard.samples > 2 for shard in shards)
    assert summary.counts.fitted == SCANS - summary.counts.quarantined


def damage(run: RunFile) -> int:
    """Flip a bit of the first shard; returns how many scans it holds."""
    store = ObjectStore(run.storage)
    shard = locate_table(run, store).works[0].shard
    data = bytearray(store.read(shard.uri))
    data[len(data) // 2] ^= 1
    store.write(shard.uri, bytes(data))
    return shard.samples


def test_a_damaged_shard_is_quarantined_whole_and_tried_again_when_repaired(run):
    store = ObjectStore(run.storage)
    shard = locate_table(run, store).works[0].shard
    good = store.read(shard.uri)
    lost = damage(run)
    lenient = run.model_copy(update={"data": run.data.model_copy(update={"max_quarantined": 0.9})})
    summary = fit(lenient, map_here)
    assert (summary.counts.quarantined, summary.counts.fitted) == (lost, SCANS - lost)
    assert {q.reason for q in summary.quarantined} == {DAMAGED_SHARD}
    store.write(shard.uri, good)
    assert fit(lenient, map_here).fitted_now == lost
    repaired = objects(run)
    for path in repaired:
        store.delete(path)
    fit(lenient, map_here)
    assert objects(run) == repaired


def test_a_shard_whose_index_is_lost_too_is_reported_when_the_rest_is_done(run):
    store = ObjectStore(run.storage)
    shard = locate_table(run, store).works[0].shard
    store.write(shard.index_uri, store.read(shard.index_uri)[:-1])
    with pytest.raises(IntegrityError, match="index"):
        fit(run, map_here)
    assert whole(run).num_rows == SCANS - shard.samples


def test_a_sample_of_an_unknown_format_stops_the_stage_and_is_not_quarantined(run, monkeypatch):
    def unknown(*_: object) -> None:
        raise FormatVersionError("sample format_version 9 is unknown")

    monkeypatch.setattr(worker_side, "decode", unknown)
    with pytest.raises(FormatVersionError):
        fit(run, map_here)
    assert objects(run) == {}


def test_too_many_quarantined_scans_fail_the_stage_after_the_rest_is_fitted(run):
    lost = damage(run)
    with pytest.raises(QuarantineLimitError, match=f"{lost} of {SCANS}"):
        fit(run, map_here)
    assert whole(run).num_rows == SCANS - lost


def test_an_error_that_says_nothing_about_scans_is_raised_when_everything_else_is_done(run):
    def flaky(task: Any, items: Sequence[Any]) -> Iterator[Done | Failed]:
        yield Failed(items[0], StorageError("storage is down"))
        yield from map_here(task, items[1:])

    with pytest.raises(StorageError, match="storage is down"):
        fit(run, flaky)
    assert whole(run).num_rows == SCANS - 5
    assert fit(run, map_here).fitted_now == 5


def test_progress_counts_what_earlier_runs_did(run):
    seen: list[ProgressReport] = []
    fit(run, map_here, seen.append)
    assert (seen[0].done, seen[-1].done, seen[-1].total) == (0, SCANS, SCANS)
    ranges = len(seen) - 1
    assert [p.notes["tasks"] for p in seen] == [f"{done}/{ranges}" for done in range(ranges + 1)]
    seen.clear()
    fit(run, map_here, seen.append)
    assert [p.done for p in seen] == [SCANS]


def test_psnr_of_a_split_is_the_mean_over_its_scans_and_low_ones_are_flagged(run):
    fit(run, map_here)
    limit = float(np.median(whole(run)["psnr"].to_numpy()))
    run = run.model_copy(update={"fit": run.fit.model_copy(update={"min_psnr": limit})})
    summary = fit(run, map_here)
    rows = whole(run).to_pylist()
    for split, spread in summary.psnr.items():
        psnr = [row["psnr"] for row in rows if row["split"] == split]
        assert (spread.scans, spread.mean, spread.std) == pytest.approx((len(psnr), np.mean(psnr), np.std(psnr)))
    flagged = [row["psnr"] < limit for row in rows]
    assert [row["below_min"] for row in rows] == flagged
    assert summary.counts.flagged == sum(flagged)
    assert 0 < sum(flagged) < SCANS


@BY_KIND
@pytest.mark.parametrize(("storage_type", "number"), [("float16", "halffloat"), ("int8", "int8")])
def test_small_latents_are_judged_as_they_are_stored(tmp_path, storage_type, number, kind):
    run = ready(tmp_path, kind, fit={"storage_type": storage_type})
    fit(run, map_here)
    rows, shared = whole(run), network(run)
    assert rows.schema.field("latent").type.value_type == number
    row = rows.to_pylist()[0]
    decoded = shared.decode(torch.from_numpy(table_format.latents_of(rows[:1])), (12, 12)).clamp(0, 1)
    store = ObjectStore(run.storage)
    work = locate_table(run, store).works
    _, cache = worker_side.WorkerSettings.of(run).open()
    shards = list({w.shard.sha256: w.shard for w in work}.values())
    reader = worker_side.SampleReader(store, shards, cache)
    place = next((i, keys.index(row["key"])) for i in range(len(shards)) if row["key"] in (keys := reader.keys(i)))
    members = reader.read(worker_side.SampleId(*place))
    values = worker_side.decode(row["key"], members["npy"], members["json"]).values()
    assert row["psnr"] == pytest.approx(-10 * np.log10(np.square(decoded[0].numpy() - values).mean()), abs=1e-4)


def test_steps_without_a_factor_are_in_the_records_the_summary_and_what_the_stage_says(tmp_path):
    """Sixteen shifts for 24 numbers, and next to no damping: the first step has no factor."""
    run = ready(tmp_path, field=FIELD, fit={"method": "gauss-newton", "steps": 3, "damping": 1e-12})
    answer = run_fit(run, ObjectStore(run.storage), ALONE)
    assert answer["unsolved"] == {"steps": SCANS, "scans": SCANS}
    assert f"{SCANS} steps of {SCANS} scans had no Cholesky factor" in answer["said"][1]
    again = run_fit(run, ObjectStore(run.storage), ALONE)
    assert (again["fitted_now"], again["unsolved"]) == (0, answer["unsolved"])


def test_a_record_without_such_steps_is_as_it_always_was(tmp_path):
    run = ready(tmp_path, field=FIELD)
    answer = run_fit(run, ObjectStore(run.storage), ALONE)
    assert (answer["unsolved"], len(answer["said"])) == ({"steps": 0, "scans": 0}, 1)
    records = [data for path, data in objects(run).items() if "/commits/" in path]
    assert records
    assert not any(b"unsolved" in record for record in records)


def test_every_scan_has_its_own_number_of_steps(tmp_path):
    run = ready(tmp_path)
    fit(run, map_here)
    target = float(np.median(whole(run)["psnr"].to_numpy()))
    run = run.model_copy(update={"fit": run.fit.model_copy(update={"target_psnr": target})})
    fit(run, map_here)
    early = [row for row in whole(run).to_pylist() if row["steps"] < 4]
    assert 0 < len(early) < SCANS
    assert all(row["psnr"] >= target for row in early)


def test_learned_rates_are_used_where_the_run_file_gives_none(tmp_path):
    run = run_file(tmp_path, fit={"rate": None}, meta={"inner_rate": 1.0})
    packed(run, tmp_path)
    shared = network(run)
    publish(run, replace(shared, extras={"inner.rates": torch.full((1, LATENT), 0.25)}))
    learned, given = (
        run.model_copy(update={"fit": run.fit.model_copy(update={"rate": rate})}) for rate in (None, 0.25)
    )
    for one in (learned, given):
        fit(one, map_here)
    assert table_format.latents_of(whole(learned)).tolist() == table_format.latents_of(whole(given)).tolist()


def test_only_the_first_numbers_of_a_basis_fields_latent_where_the_run_file_says_so(tmp_path):
    run = ready(tmp_path, "basis", fit={"keep": 5})
    fit(run, map_here)
    kept = whole(run)
    assert table_format.latents_of(kept).shape == (SCANS, 5)
    everything = run.model_copy(update={"fit": run.fit.model_copy(update={"keep": None})})
    assert fit(everything, map_here).fitted_now == SCANS, "another table"
    assert table_format.latents_of(whole(everything)).shape == (SCANS, LATENT)
    better = np.array(whole(everything)["psnr"]) - np.array(kept["psnr"])
    assert better.min() > 0


def test_latents_beyond_float16_are_quarantined_not_stored_as_infinite(tmp_path):
    run = ready(tmp_path, fit={"storage_type": "float16", "rate": 1e9, "steps": 1}, data={"max_quarantined": 1.0})
    reasons = {q.reason for q in fit(run, map_here).quarantined}
    assert reasons == {NOT_STORABLE}


def test_nothing_is_fitted_before_there_is_a_network(tmp_path):
    run = run_file(tmp_path)
    packed(run, tmp_path)
    with pytest.raises(StageOrderError, match="not trained"):
        fit(run, map_here)


@BY_KIND
def test_a_network_for_other_scans_is_refused_before_any_task(tmp_path, kind):
    run = run_file(tmp_path, kind=kind)
    packed(run, tmp_path)
    publish(run, network(run, coords=3))
    with pytest.raises(RunFileError, match="3 coordinates"):
        fit(run, map_here)
    assert objects(run) == {}


def test_a_network_that_is_not_the_committed_one_is_refused(run):
    other = network(run, hidden=17)
    folder = f"runs/{run.name}/network/{network(run).digest}"
    for name, data in other.to_files().items():
        ObjectStore(run.storage).write(f"{folder}/{name}", data)
    with pytest.raises(IntegrityError, match="not the one that its commit record names"):
        fit(run, map_here)


def test_verify_counts_everything_and_notices_what_is_missing_or_damaged(run):
    fit(run, map_here)
    store = ObjectStore(run.storage)
    target = locate_table(run, store)
    assert latent_ledger.verify(store, target.folder, target.works).fitted == SCANS
    parts, records = ([p for p in objects(run) if kind in p] for kind in ("/parts/", "/commits/"))
    good = store.read(parts[0])
    store.write(parts[0], good[:-1])
    with pytest.raises(IntegrityError, match="not the one that was committed"):
        latent_ledger.verify(store, target.folder, target.works)
    store.write(parts[0], good)
    store.delete(records[0])
    with pytest.raises(IntegrityError, match="has no commit record"):
        latent_ledger.verify(store, target.folder, target.works)


def test_the_table_can_be_had_by_split_column_and_shard(run):
    fit(run, map_here)
    store = ObjectStore(run.storage)
    target = locate_table(run, store)
    test = latent_ledger.load_table(store, target.folder, ["test"], ["psnr"])
    assert (test.column_names, test.num_rows) == (["key", "psnr"], COUNTS["test"])
    shard = target.works[0].shard
    assert latent_ledger.load_table(store, target.folder, shards=[shard.sha256]).num_rows == shard.samples
    assert table_format.latents_of(whole(run)).shape == (SCANS, LATENT)
    with pytest.raises(StageOrderError):
        latent_ledger.load_table(store, target.folder, ["gap"])


@BY_KIND
def test_the_same_on_s3(s3, tmp_path, kind):
    run = ready(tmp_path, kind, storage=s3())
    assert fit(run, map_here).counts.fitted == SCANS
    assert fit(run, map_here).fitted_now == 0
