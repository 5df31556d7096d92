"""The pack stage's driver: plan → map → reconcile → private mapping → commit a snapshot.

    datasets/<dataset>/dataset.json                 the data contract and the salt's fingerprint
    datasets/<dataset>/shards/<sha256>.tar          indexes/<sha256>.parquet
    datasets/<dataset>/packs/<group digest>[-g<generation>].json    a task's commit record
    datasets/<dataset>/snapshots/<digest>.json      commits/<generation>-<digest12>.json

Run again, it does only what is missing. New scans in the archive give new shards and a snapshot that names the former
one as its parent; without new scans there is no new snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from medfuncta_dist.archive.inventory import locked
from medfuncta_dist.archive.survey import OnSurvey
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, ObjectMissingError, WorkerDiedError
from medfuncta_dist.packing.archive_listing import list_archive
from medfuncta_dist.packing.archive_sources import ArchiveSources
from medfuncta_dist.packing.archive_state import examine
from medfuncta_dist.packing.failed_packs import nothing_packed, withdraw_empty
from medfuncta_dist.packing.mapping_update import update_mapping
from medfuncta_dist.packing.pack_ledger import less, require_balance, require_few_quarantined, total
from medfuncta_dist.packing.pack_plan import PackPlan, Revised, pack_again, plan, size_of
from medfuncta_dist.packing.pack_record import PackRecord, record_path
from medfuncta_dist.packing.pack_rest import RestTask, rest_task
from medfuncta_dist.packing.pack_task import PackTask, pack_task, quarantine_sources
from medfuncta_dist.packing.sources.copy_conflicts import NO_CONFLICTS, CopyConflicts
from medfuncta_dist.packing.sources.pack_source import PackSource
from medfuncta_dist.packing.sources.source_table import load_table
from medfuncta_dist.packing.work_tables import Lazy, work_tables
from medfuncta_dist.scans.private.private_folder import load_or_create_salt, private_folder
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.data_contract import SplitsBy, contract_of, open_dataset, splits_by
from medfuncta_dist.shards.forgotten_record import require_list
from medfuncta_dist.shards.look_alikes import OnStep
from medfuncta_dist.shards.shard_listing import require_shards
from medfuncta_dist.shards.snapshot import Shard, Snapshot, commit_snapshot, newest_snapshot, snapshot_path
from medfuncta_dist.shards.split_look_alikes import SplitLookAlikes, split_look_alikes
from medfuncta_dist.shards.split_patients import SplitPatients, require_apart, split_patients
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, Guard
from medfuncta_dist.task_map import Failed, FanOut, map_divided, may_be_the_items_fault
from medfuncta_dist.telemetry.progress_report import BytesDone, OnProgress, ProgressReport

__all__ = ["PackPlan", "PackSource", "PackSummary", "PackTask", "pack", "pack_task", "plan"]


@dataclass(frozen=True)
class PackSummary:
    """The data set after packing. ``quarantined`` entries hold key, reason and kind (source or scan)."""

    snapshot_digest: str
    counts: dict[str, int]
    quarantined: list[dict[str, str]] = field(repr=False)
    splits: dict[str, int]
    """Scans per split."""
    new_sources: int
    """Sources that this call packed or quarantined."""
    splits_by: SplitsBy
    patients: SplitPatients | None
    """None in a data set that is not split by patient: they are not known there."""
    empty_splits: list[str] = field(default_factory=list)
    """Splits of ``data.fractions`` into which no patient has fallen."""
    unused_rows: int = 0
    """Rows of the run file's table that name no source of the archive."""
    without_row: int = 0
    """Sources that the table does not name."""
    copy_conflicts: CopyConflicts = NO_CONFLICTS
    look_alikes: SplitLookAlikes | None = None
    """None where they are not searched for."""
    changes: dict[str, int] = field(default_factory=dict)
    """How many sources were new, same, changed, renamed, copied and removed."""
    uncompared: int = 0
    """Of the same ones: those that an earlier version has packed, of which only the name is known."""
    aside: dict[str, int] = field(default_factory=dict)
    """How many files were not read, by reason: foreign files and segmentations."""


def pack(
    run: RunFile,
    fan_out: FanOut,
    on_progress: OnProgress,
    *,
    fence: Guard = ALONE,
    on_survey: OnSurvey = lambda done, total: None,
    on_search: OnStep = lambda done, total: None,
) -> PackSummary:
    """Pack every scan of the run file's sources that is not packed yet, or has changed; tasks go through ``fan_out``.

    Raises ``RunFileError`` (sources), ``RunChangedError`` (contract or salt are not the data set's),
    ``QuarantineLimitError``, ``WorkerDiedError`` (on too many sources), ``IntegrityError`` (counts that do not
    balance; shards of earlier packs that are missing, when all else is done), ``StorageError``,
    ``LeaseLostError`` (the data set's ``fence``, passed before every commit).
    """
    store = ObjectStore(run.storage)
    folder = private_folder(run.data.private, run.dataset, run.storage)
    keys = KeyMaker(load_or_create_salt(folder))
    table = load_table(run.data)
    forgotten = require_list(store, run.dataset, folder)
    parent = newest_snapshot(store, run.dataset)
    with work_tables(folder) as tables:
        listed = list_archive(tables, store, run, folder, keys, parent, forgotten)
        packed = listed.packed
        if listed.empty:
            withdraw_empty(store, run.dataset, fence)
        data = open_dataset(store, run.dataset, run.data, keys.fingerprint(), fence)
        run = run.model_copy(update={"data": data})
        _require_known(parent, packed.records, store)
        with locked(folder):
            archive = examine(replace(listed, data=data), store, on_survey, table, forgotten, fan_out)
        archive.sources.leave_out(forgotten)
        superseded = archive.superseded(run.data.removed, parent.digest if parent else "")
        todo = plan(archive.sources, packed, parent.packs if parent else (), run.data.sources_per_task, superseded)
        task = PackTask(store.root, run.dataset, run.data, (), keys, fence, forgotten=forgotten)
        made, new_sources = _run_tasks(store, run, todo, task, fan_out, on_progress, archive.sources)
        records = todo.records + made
        again = _new_records(parent, records) + archive.sources.moved(packed)
        # The mapping first: when too much is quarantined, its owner needs it to find the files.
        update_mapping(folder, store, records, again, archive.sources.uris(items=not run.data.takes_volumes))
        replaced = [record for record in packed.records if record.name in todo.replaced]
        snapshot, patients = _snapshot(store, run, parent, replaced, records, fence)
        archive.adopt()
    summary, found = _summary(snapshot, new_sources, patients), archive.changes
    return replace(
        summary,
        unused_rows=archive.joined.unused,
        without_row=archive.joined.without_row,
        copy_conflicts=archive.conflicts,
        look_alikes=split_look_alikes(store, snapshot, folder, on_search) if run.data.look_alikes == "report" else None,
        changes=found.counts,
        uncompared=found.uncompared,
        aside=archive.aside,
    )


def _run_tasks(
    store: ObjectStore,
    run: RunFile,
    todo: PackPlan,
    task: PackTask,
    fan_out: FanOut,
    on_progress: OnProgress,
    sources: ArchiveSources,
) -> tuple[list[PackRecord], int]:
    """The records of all tasks, and the number of sources that were read."""
    rests = todo.rests.map(lambda rest: RestTask(store.root, run.dataset, run.data, rest, task.fence))
    written, damaged = _map_rests(rests, fan_out)
    if damaged:
        again = [group for failed in damaged for group in _again(failed, sources, run.data.sources_per_task)]
        revised = todo.revised + Lazy([partial(_itself, group) for group in again])
        todo = replace(
            todo,
            revised=revised,
            left=todo.left + sum(len(group.sources) for group in again),
            left_bytes=todo.left_bytes + sum(size_of(group.sources) for group in again),
        )
        written += _map_rests([replace(f.item, rest=replace(f.item.rest, sources=())) for f in damaged], fan_out)[0]
    tasks = todo.groups.map(lambda group: replace(task, sources=group))
    tasks += todo.revised.map(lambda group: replace(task, sources=group.sources, revision=group.revision))
    made, fatal = _map_tasks(tasks, fan_out, _reporter(todo, written, sources, on_progress))
    made += _quarantine_fatal(fatal, sources.total, run.data.max_quarantined)
    return written + made, _require_all(todo.left, made)


def _itself(group: Revised) -> Revised:
    return group


def _map_rests(rests: Sequence[RestTask], fan_out: FanOut) -> tuple[list[PackRecord], list[Failed]]:
    """The records of what stays of superseded ones, and the tasks that found a shard damaged. Other failures are
    raised, because no source is to blame."""
    written, damaged = [], []
    for outcome in fan_out(rest_task, rests) if rests else ():
        if not isinstance(outcome, Failed):
            written.append(outcome.result)
        elif isinstance(outcome.error, (IntegrityError, ObjectMissingError)):
            damaged.append(outcome)
        else:
            raise outcome.error
    return written, damaged


def _again(failed: Failed, sources: ArchiveSources, sources_per_task: int) -> list[Revised]:
    """What stays of a record whose shards are damaged, from the archive. Raises the failure where some has left it."""
    found = pack_again(failed.item.rest, sources, sources_per_task)
    if found is None:
        raise failed.error
    return found


def _require_known(parent: Snapshot | None, records: Sequence[PackRecord], store: ObjectStore) -> None:
    """Without its record, a pack's sources would look new, and their scans would be packed a second time."""
    missing = sorted(set(parent.packs if parent else ()) - {record.name for record in records})
    if parent is not None and missing:
        raise IntegrityError(
            f"{len(missing)} pack records of the newest snapshot are missing",
            where=store.uri(record_path(parent.name, missing[0])),
            do="restore them from a backup, or pack the archive again under another data.dataset",
        )


def _reporter(
    todo: PackPlan, written: Sequence[PackRecord], sources: ArchiveSources, on_progress: OnProgress
) -> Callable[[PackTask, PackRecord], None]:
    """What reports a task that is done, and its record. The start, when nothing is done yet, is reported here."""
    counts, left, left_bytes = total(record.counts for record in [*todo.records, *written]), todo.left, todo.left_bytes
    number, size = sources.total, sources.size

    def show() -> None:
        lost = counts["quarantined"] + counts["sources_quarantined"]
        notes: dict[str, float | str] = {"packed": counts["packed"], "quarantined": lost}
        on_progress(ProgressReport("pack", number - left, number, notes, size=BytesDone(size - left_bytes, size)))

    def report(task: PackTask, record: PackRecord) -> None:
        nonlocal counts, left, left_bytes
        counts, left = total([counts, record.counts]), left - record.counts["sources"]
        left_bytes -= size_of(task.sources)
        show()

    show()
    return report


def _map_tasks(
    tasks: Sequence[PackTask], fan_out: FanOut, report: Callable[[PackTask, PackRecord], None]
) -> tuple[list[PackRecord], list[Failed]]:
    """The records of the tasks that succeeded, and the tasks of one source each that always failed."""
    made: list[PackRecord] = []
    fatal: list[Failed] = []
    for outcome in map_divided(fan_out, pack_task, tasks, _one_source_each):
        if isinstance(outcome, Failed):
            fatal.append(outcome)
        else:
            report(outcome.item, outcome.result)
            made.append(outcome.result)
    return made, fatal


def _one_source_each(failed: Failed) -> list[PackTask]:
    """One task per source of a failed group, to find the source that caused it. Raises errors of other causes."""
    if not may_be_the_items_fault(failed.error):
        raise failed.error
    task: PackTask = failed.item
    return [replace(task, sources=(source,)) for source in task.sources] if len(task.sources) > 1 else []


def _quarantine_fatal(fatal: Sequence[Failed], sources: int, limit: float) -> list[PackRecord]:
    """Quarantine sources that always failed. If they are many, the cause is elsewhere: WorkerDiedError, after which the
    job is retried."""
    if len(fatal) > limit * sources:
        raise WorkerDiedError(
            f"workers died, or failed, on {len(fatal)} of {sources} sources: {type(fatal[0].error).__name__}",
            where="the pack stage's tasks; none of these sources was quarantined",
            do="look at the workers' logs and memory, then run the pack stage again",
        )
    return [quarantine_sources(f.item, f"packing this source failed: {type(f.error).__name__}") for f in fatal]


def _require_all(out: int, made: Sequence[PackRecord]) -> int:
    """The number of sources in the tasks; IntegrityError unless as many are in their records."""
    back = sum(record.counts["sources"] for record in made)
    if out != back:
        raise IntegrityError(f"{out} sources were to be packed, {back} came back", do="run the pack stage again")
    return out


def _new_records(parent: Snapshot | None, records: Sequence[PackRecord]) -> list[PackRecord]:
    """The records that the parent does not hold, by name: the snapshot must not depend on the order of completion."""
    packed = set(parent.packs) if parent else set()
    return sorted((record for record in records if record.name not in packed), key=lambda record: record.name)


def _snapshot(
    store: ObjectStore,
    run: RunFile,
    parent: Snapshot | None,
    replaced: Sequence[PackRecord],
    records: Sequence[PackRecord],
    fence: Guard,
) -> tuple[Snapshot, SplitPatients | None]:
    """The parent without the replaced records and with the new ones, committed if there are any; and the patients in
    it."""
    new = _new_records(parent, records)
    snapshot = extended(parent or _empty(run), replaced, new)
    where = store.uri(snapshot_path(run.dataset, snapshot.digest))
    _reconcile(snapshot, where)
    reasons = (entry["reason"] for entry in snapshot.quarantined)
    require_few_quarantined(snapshot.counts, reasons, run.data.max_quarantined, where)
    patients = split_patients(store, snapshot)
    require_apart(patients, snapshot.contract, where)
    if new:
        commit_snapshot(store, snapshot, fence)
    require_shards(store, snapshot)
    return snapshot, patients


def _empty(run: RunFile) -> Snapshot:
    return Snapshot(run.dataset, None, contract_of(run.data), {}, counts=total([]))


def extended(parent: Snapshot, replaced: Sequence[PackRecord], new: Sequence[PackRecord]) -> Snapshot:
    """The next snapshot. Whatever is replaced has a record that replaces it: without new records, nothing changes."""
    if not new:
        return parent
    kept = without(parent, replaced)
    splits = {name: list(shards) for name, shards in kept.splits.items()}
    for record in new:
        for name, shards in record.splits.items():
            splits.setdefault(name, []).extend(shards)
    entries = [{k: entry[k] for k in ("key", "reason", "kind")} for record in new for entry in record.quarantined]
    return replace(
        parent,
        parent=parent.digest if parent.packs else None,
        generation=parent.generation + 1,
        splits={name: shards for name, shards in splits.items() if shards},
        quarantined=[*kept.quarantined, *entries],
        counts=total([kept.counts, *(record.counts for record in new)]),
        packs=[*kept.packs, *(record.name for record in new)],
    )


def without(snapshot: Snapshot, replaced: Sequence[PackRecord]) -> Snapshot:
    """What a snapshot holds, but for these of its records."""
    gone = [record for record in replaced if record.name in set(snapshot.packs)]
    uris = {shard.uri for record in gone for shard in record.shards}
    entries = {(entry["kind"], entry["key"]) for record in gone for entry in record.quarantined}
    return replace(
        snapshot,
        splits={name: [s for s in shards if s.uri not in uris] for name, shards in snapshot.splits.items()},
        quarantined=[entry for entry in snapshot.quarantined if (entry["kind"], entry["key"]) not in entries],
        counts=less(snapshot.counts, total(record.counts for record in gone)),
        packs=[name for name in snapshot.packs if name not in {record.name for record in gone}],
    )


def _reconcile(snapshot: Snapshot, where: str) -> None:
    require_balance(snapshot.counts, where)
    if snapshot.counts["packed"] == 0:
        raise nothing_packed(snapshot)
    shards: list[Shard] = [shard for split in snapshot.splits.values() for shard in split]
    if snapshot.samples != snapshot.counts["packed"] or len({shard.uri for shard in shards}) != len(shards):
        do = "run `verify`; where it finds nothing damaged, report this as a bug: the counts of scans are wrong"
        raise IntegrityError("the shards do not hold each packed scan once", where=where, do=do)


def _summary(snapshot: Snapshot, new_sources: int, patients: SplitPatients | None) -> PackSummary:
    return PackSummary(
        snapshot.digest,
        dict(snapshot.counts),
        [dict(entry) for entry in snapshot.quarantined],
        {name: sum(shard.samples for shard in shards) for name, shards in snapshot.splits.items()},
        new_sources,
        splits_by(snapshot.contract),
        patients,
        sorted(set(snapshot.contract["fractions"]) - set(snapshot.splits)) if patients and patients.patients else [],
    )
