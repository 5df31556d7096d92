"""Scans that end or fail the tasks that fit them: found, quarantined alone, and without harm to any other bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfuncta_dist import task_map
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import LeaseLostError, StorageError, WorkerDiedError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import FitSummary, fit, locate_table
from medfuncta_dist.fitting.fit_failures import ENDED_ITS_WORKER
from medfuncta_dist.fitting.fit_rows import NOT_FINITE
from medfuncta_dist.latents import table_format
from medfuncta_dist.shards.sample import Sample
from medfuncta_dist.shards.snapshot import read_index
from medfuncta_dist.storage.leases.lease import Fence, first_lease, run_lease
from medfuncta_dist.storage.leases.lease_holder import this_process
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import Done, Failed, FanOut, map_here
from medfuncta_dist.telemetry.progress_report import ProgressReport
from tests.kinds import KINDS
from tests.records import write_record
from tests.unit.latents.fitted import COUNTS, ready

SCANS = sum(COUNTS.values())
DEATH = WorkerDiedError("a worker died on the same task 3 times")


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunFile:
    """Ranges of 20, 2 and 9 scans, in batches of 3, which no range's end or piece's falls in with."""
    return ready(tmp_path, request.param, fit={"scans_per_task": 20}, data={"shard_scans": 31, "max_quarantined": 0.2})


def keys(run: RunFile) -> list[str]:
    """All packed keys, in the order of the shards."""
    store = ObjectStore(run.storage)
    shards = dict.fromkeys(work.shard for work in locate_table(run, store).works)
    return [key for shard in shards for key in read_index(store, shard)["key"].to_pylist()]


def table_of(run: RunFile) -> Any:
    store = ObjectStore(run.storage)
    return latent_ledger.load_table(store, locate_table(run, store).folder)


def poisoned(run: RunFile, names: Sequence[str], error: Exception = DEATH, ran: list[str] | None = None) -> FanOut:
    """A fan-out whose workers do not survive some scans; ``ran`` notes the tasks that it was given."""
    store = ObjectStore(run.storage)

    def fan_out(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        for item in items:
            rows = item.work
            held = read_index(store, rows.shard)["key"].to_pylist()[rows.start : rows.stop]
            if ran is not None:
                ran.append(item.name)
            if set(names) & set(held):
                yield Failed(item, error, attempts=3)
            else:
                yield from map_here(task, [item])

    return fan_out


def reasons(summary: FitSummary) -> dict[str, str]:
    return {q.key: q.reason for q in summary.quarantined}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(DEATH, ENDED_ITS_WORKER), (ArithmeticError("singular"), "fitting it failed: ArithmeticError")],
)
def test_poison_scans_are_quarantined_alone_and_no_other_bit_of_the_table_changes(run, monkeypatch, error, reason):
    names = [keys(run)[3], keys(run)[11], keys(run)[29]]
    fill = Sample.fill

    def filled(sample: Sample, points: np.ndarray) -> None:
        fill(sample, points)
        if sample.key in names:
            points *= np.nan

    with monkeypatch.context() as patch:
        patch.setattr(Sample, "fill", filled)
        assert set(reasons(fit(run, map_here)).values()) == {NOT_FINITE}
    by_other_means = table_of(run)
    store = ObjectStore(run.storage)
    for info in store.list(f"runs/{run.name}/latents"):
        store.delete(info.path)

    summary = fit(run, poisoned(run, names, error))
    assert (summary.counts.packed, summary.counts.fitted, summary.counts.quarantined) == (SCANS, SCANS - 3, 3)
    assert reasons(summary) == dict.fromkeys(names, reason)
    assert table_format.table_bytes(table_of(run)) == table_format.table_bytes(by_other_means)


def test_a_divided_range_is_settled_for_good(run):
    fit(run, poisoned(run, keys(run)[3:4]))
    before = table_of(run)
    ran: list[str] = []
    again = fit(run, poisoned(run, [], ran=ran))
    assert (ran, again.fitted_now, again.counts.quarantined) == ([], 0, 1)
    assert table_of(run).equals(before)


def test_killed_while_it_looks_for_the_poison_it_goes_on_with_the_pieces_that_are_left(run):
    class Killed(BaseException):
        pass

    first: list[str] = []

    def dying(task: Any, items: Sequence[Any]) -> Iterator[Done | Failed]:
        for outcome in poisoned(run, keys(run)[3:4], ran=first)(task, items):
            yield outcome
            if len(first) == 6:
                raise Killed

    with pytest.raises(Killed):
        fit(run, dying)
    then: list[str] = []
    summary = fit(run, poisoned(run, keys(run)[3:4], ran=then))
    done = {work for work in first if work not in then}
    assert done
    assert (summary.counts.fitted, summary.counts.quarantined) == (SCANS - 1, 1)
    assert not done & set(then)


def test_a_late_commit_of_a_divided_range_counts_no_scan_twice(run):
    whole = fit(run, map_here)
    late = {i.path: ObjectStore(run.storage).read(i.path) for i in ObjectStore(run.storage).list("runs/small/latents")}
    for path in late:
        ObjectStore(run.storage).delete(path)
    pieces = fit(run, poisoned(run, keys(run)[3:4]))
    for path, data in late.items():  # from a worker that was given up for dead, and was only slow
        ObjectStore(run.storage).write(path, data)
    again = fit(run, poisoned(run, []))
    assert pieces.counts.quarantined == 1
    assert (again.fitted_now, again.counts) == (0, whole.counts)
    assert table_of(run).num_rows == SCANS


def test_workers_that_die_of_many_scans_are_to_blame_themselves(run):
    with pytest.raises(WorkerDiedError, match=f"on 7 scans: {ENDED_ITS_WORKER}"):
        fit(run, poisoned(run, keys(run)[::5]))
    assert fit(run, map_here).counts.fitted == SCANS  # on machines with more memory


def test_workers_that_die_of_everything_are_not_fed_for_long(tmp_path, monkeypatch):
    run = ready(tmp_path, fit={"scans_per_task": 2})
    monkeypatch.setattr(task_map, "MAX_FIRST_FAILURES", 8)
    ran: list[str] = []
    with pytest.raises(WorkerDiedError):
        fit(run, poisoned(run, keys(run), ran=ran))
    assert len(ran) < 10


def test_storage_and_memory_are_never_blamed_on_a_scan(run):
    for error in (StorageError("down"), OSError(28, "No space left on device"), MemoryError()):
        with pytest.raises(type(error)):
            fit(run, poisoned(run, keys(run)[3:4], error))
    assert fit(run, map_here).counts.fitted == SCANS


def test_progress_grows_by_the_pieces_and_ends_at_all(run):
    seen: list[ProgressReport] = []
    fit(run, poisoned(run, keys(run)[3:4]), seen.append)
    (_, planned), (done, all_of_them) = (str(report.notes["tasks"]).split("/") for report in (seen[0], seen[-1]))
    assert (done, seen[-1].done) == (all_of_them, SCANS)
    assert int(planned) < int(all_of_them)


def held(run: RunFile, token: int) -> Fence:
    """The run's lease, taken by a driver with this token."""
    lease, path = first_lease(token, this_process(), 60.0), run_lease(run.name)
    ObjectStore(run.storage).write(path, lease.to_bytes())
    return Fence(path, token, lease.holder.id)


def test_what_a_superseded_driver_commits_late_does_not_count(run):
    old = held(run, 1)
    tasks: list[Any] = []

    def taken_over(task: Any, items: Sequence[Any]) -> Iterator[Done | Failed]:
        tasks.extend(items)
        yield from map_here(task, items[:1])
        held(run, 2)
        yield from map_here(task, items[1:])

    with pytest.raises(LeaseLostError):
        fit(run, taken_over, fence=old)
    summary = fit(run, map_here, fence=held(run, 2))
    assert summary.fitted_now == SCANS - tasks[0].work.units
    # Between its look at the lease and its write, the old driver was stopped; now it goes on.
    store, target = ObjectStore(run.storage), locate_table(run, ObjectStore(run.storage))
    before = table_of(run)
    for rows in target.works:
        empty = tuple(latent_ledger.Quarantined(key, "late") for key in keys(run)[rows.start : rows.stop])
        commit = latent_ledger.Commit(rows.split, rows.shard.sha256, rows.start, rows.stop, 0, None, empty)
        write_record(
            store, latent_ledger.record_path(target.folder, rows, old), latent_ledger.KIND, commit.body(), old.token
        )
    late = tasks[0].work.name  # which the old driver committed in time, and wrote again
    counting = latent_ledger.read_commits(store, target.folder)
    assert {name for name, commit in counting.items() if commit.quarantined} == {late}
    assert table_of(run).num_rows == before.num_rows - tasks[0].work.units
