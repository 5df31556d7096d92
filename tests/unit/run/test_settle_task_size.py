"""How many scans a task gets is chosen once, kept with the run, and found by whoever reads its latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import LeaseLostError, RunChangedError, StageOrderError, StorageError
from medfuncta_dist.evaluation.decode import decode_key
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.fitting.trial_fit import trial_fit
from medfuncta_dist.integrity.verify import PARTS
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.run.frozen_run_file import begun_with, freeze
from medfuncta_dist.run.settle_arithmetic import record_halving
from medfuncta_dist.run.settle_task_size import settle_task_size
from medfuncta_dist.stages import readiness
from medfuncta_dist.stages.chain import run_stages
from medfuncta_dist.storage.leases.lease import run_lease
from medfuncta_dist.storage.leases.lease_claim import take
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import Done, Failed, FanOut, map_here
from tests.kinds import BY_KIND
from tests.unit.latents.fitted import COUNTS, FIELD, ready, run_file

SCANS = sum(COUNTS.values())
BATCH = 3
CHOSEN = 6
"""Two batches: of 31 scans in batches of 3 a worker gets four tasks then, and five of three batches would be 27."""


def opened(folder: Path, kind: str = "siren", **changes: Any) -> RunFile:
    """A run that lacks its latents, and leaves open how many scans a task gets."""
    fit_ = {"scans_per_task": None, "batch": BATCH, **changes.pop("fit", {})}
    return ready(folder, kind, fit=fit_, **changes)


def store_of(run: RunFile) -> ObjectStore:
    return ObjectStore(run.storage)


def tried(rates: Sequence[float | Exception]) -> tuple[FanOut, list[Any]]:
    """A cluster whose trials end so, and what it was asked to try."""
    asked: list[Any] = []

    def fan_out(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        assert task is trial_fit
        asked.extend(items)
        ends = rates[len(asked) - 1]
        yield Failed(items[0], ends) if isinstance(ends, Exception) else Done(items[0], ends)

    return fan_out, asked


def settled(run: RunFile, fan_out: FanOut = map_here) -> RunFile:
    """As the driver of the first fit does it."""
    run, _ = freeze(run, store_of(run), fence=ALONE)
    return settle_task_size(run, store_of(run), fan_out, fence=ALONE)


@BY_KIND
def test_it_is_measured_once_kept_and_found_by_all_who_open_the_run_file(tmp_path, kind, capsys):
    run = opened(tmp_path, kind)
    first = settled(run)
    assert first.fit.chosen_scans_per_task == CHOSEN
    assert first.fit.scans_per_task is None
    assert f"each task gets up to {CHOSEN} scans" in capsys.readouterr().err
    assert begun_with(run, store_of(run)) == first
    again = settled(run, lambda *_: pytest.fail("tried again"))
    assert again == first

    summary = fit(run, map_here)
    assert (summary.scans_per_task, summary.counts.fitted) == (CHOSEN, SCANS)
    works = locate_table(run, store_of(run)).works
    assert max(work.units for work in works) == CHOSEN
    assert set(latent_ledger.read_commits(store_of(run), summary.folder)) == {work.name for work in works}
    table = LatentTable.open(run)
    assert len(table) == SCANS
    assert decode_key(run, table.keys[0]).key == table.keys[0]
    assert evaluate(run, map_here)["counts"]["fitted"] == SCANS
    assert PARTS["latents"](run, store_of(run))[0]["fitted"] == SCANS
    assert readiness.is_complete(run, store_of(run), "fit")


def test_what_is_chosen_names_no_table_and_changes_no_bit(tmp_path):
    """Neither do ranges: a table of ranges of another size holds the same rows."""
    run = opened(tmp_path)
    folder = locate_table(run, store_of(run)).folder
    fan_out, _ = tried([0.01])
    assert settled(run, fan_out).fit.chosen_scans_per_task == BATCH
    assert fit(run, map_here).folder == folder
    rows = LatentTable.open(run).rows
    for size in (1, 4, 5, CHOSEN, 8):
        other = run.model_copy(update={"fit": run.fit.model_copy(update={"scans_per_task": size})})
        summary = fit(other, map_here)
        assert summary.folder != folder
        assert LatentTable.open(other).rows.drop(["labels"]).equals(rows.drop(["labels"])), size


def test_the_trial_gets_the_runs_own_network_settings_and_largest_shard(tmp_path):
    run = opened(tmp_path, fit={"storage_type": "int8"})
    fan_out, (asked) = tried([1e9])
    settled(run, fan_out)
    (task,) = asked
    assert (task.work.start, task.work.stop) == (0, task.work.shard.samples) == (0, 8)
    assert (task.settings.method, task.settings.storage_type, task.batch) == ("sgd", "int8", BATCH)
    assert task.network == locate_table(run, store_of(run)).network


def test_no_worker_is_asked_where_tasks_can_only_be_small(tmp_path):
    fan_out, asked = tried([])
    run = opened(tmp_path, cluster={"workers": 4, "cache": str(tmp_path / "cache")})
    assert settled(run, fan_out).fit.chosen_scans_per_task == BATCH
    assert asked == []


def test_a_given_number_is_left_alone(tmp_path):
    fan_out, asked = tried([])
    run = settled(opened(tmp_path, fit={"scans_per_task": 7}), fan_out)
    assert (run.fit.scans_per_task, run.fit.chosen_scans_per_task, asked) == (7, None, [])
    assert begun_with(run, store_of(run)) == run


@pytest.mark.parametrize("error", [StorageError("storage is down"), MemoryError("no room")])
def test_a_trial_that_fails_leaves_it_to_the_fit_to_say_why(tmp_path, capsys, error):
    fan_out, _ = tried([error])
    assert settled(opened(tmp_path), fan_out).fit.chosen_scans_per_task == CHOSEN, "as many of 1024 as the limits allow"
    assert f"warning: the trial of its speed failed ({error})" in capsys.readouterr().err


def test_another_number_is_refused_in_a_run_that_has_begun(tmp_path):
    run = opened(tmp_path)
    settled(run)
    with pytest.raises(RunChangedError, match=r"fit\.scans_per_task: None -> 1024"):
        freeze(run_file(tmp_path, fit={"scans_per_task": 1024, "batch": BATCH}), store_of(run), fence=ALONE)


@pytest.mark.parametrize("begun", [1024, 5])
def test_a_run_of_an_earlier_version_goes_on_in_its_table(tmp_path, begun):
    """Its run.yaml holds a number that the run file need not have given."""
    run = opened(tmp_path)
    old = run.model_copy(update={"fit": run.fit.model_copy(update={"scans_per_task": begun})})
    without = "\n".join(line for line in dump(old).splitlines() if "chosen_scans_per_task" not in line)
    store_of(run).write(f"runs/{run.name}/run.yaml", without.encode())
    before = fit(old, map_here)
    resumed = settled(run, lambda *_: pytest.fail("tried"))
    assert resumed.fit == old.fit
    for again in (run, resumed):
        summary = fit(again, map_here)
        assert (summary.folder, summary.fitted_now, summary.scans_per_task) == (before.folder, 0, begun)
        assert len(LatentTable.open(again)) == SCANS


def test_a_driver_that_lost_its_lease_meanwhile_leaves_what_another_settled(tmp_path):
    run = opened(tmp_path)
    store = store_of(run)
    late = take(store, run_lease(run.name), 0.2, print)
    late.give_back()
    mine, _ = freeze(run, store, fence=ALONE)
    successor = take(store, run_lease(run.name), 60, print)
    theirs = settle_task_size(mine, store, tried([1e9])[0], fence=successor.fence)
    with pytest.raises(LeaseLostError):
        settle_task_size(mine, store, tried([0.01])[0], fence=late.fence)
    assert begun_with(run, store) == theirs
    assert theirs.fit.chosen_scans_per_task == CHOSEN


def test_a_table_whose_run_yaml_was_lost_goes_on_with_its_ranges(tmp_path):
    """To delete a damaged one is what its refusal offers. A slower machine would choose others."""
    run = opened(tmp_path)
    fit(settled(run, tried([1e9])[0]), map_here)
    store_of(run).delete(f"runs/{run.name}/run.yaml")
    again = settled(run, lambda *_: pytest.fail("tried"))
    assert again.fit.chosen_scans_per_task == CHOSEN
    assert fit(again, map_here).fitted_now == 0


def test_what_an_earlier_stage_has_recorded_meanwhile_is_kept(tmp_path):
    """Training ran out of memory, and halved its chunks for good; this command's run file is from before."""
    run = opened(tmp_path)
    mine, _ = freeze(run, store_of(run), fence=ALONE)
    record_halving(mine, store_of(run), ALONE)
    settle_task_size(mine, store_of(run), tried([1e9])[0], fence=ALONE)
    kept = begun_with(run, store_of(run))
    assert (kept.meta.halvings, kept.fit.chosen_scans_per_task) == (1, CHOSEN)


def test_nothing_is_settled_before_there_is_a_network(tmp_path):
    run = opened(tmp_path)
    store = store_of(run)
    store.delete(f"runs/{run.name}/network/commit.json")
    with pytest.raises(StageOrderError):
        settle_task_size(run, store, map_here, fence=ALONE)
    assert begun_with(run, store) is None


def test_the_fit_stage_settles_it_and_says_so(tmp_path, monkeypatch):
    run = opened(tmp_path, field=FIELD)
    for place in ("run.settle_task_size", "stages.fit_stage", "stages.evaluate_stage"):
        monkeypatch.setattr(f"medfuncta_dist.{place}.compute_fan_out", lambda run: map_here)
    answer = run_stages(run, ["fit", "evaluate"])
    assert answer["fit"]["scans_per_task"] == CHOSEN
    assert f"{CHOSEN} scans per task" in answer["said"][0]
    kept = begun_with(run, store_of(run))
    assert (kept.fit.chosen_scans_per_task, kept.meta.products is None) == (CHOSEN, False)
    again = run_stages(run, ["fit"])
    assert (again["fit"]["fitted_now"], again["fit"]["scans_per_task"]) == (0, CHOSEN)
