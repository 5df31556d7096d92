"""The data set without the forgotten scans: what stays of their pack records, and a snapshot of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.forget.holdings import Dataset, Holdings
from medfuncta_dist.packing.pack_driver import without
from medfuncta_dist.packing.pack_ledger import require_balance, total
from medfuncta_dist.packing.pack_plan import Rest
from medfuncta_dist.packing.pack_record import PackRecord
from medfuncta_dist.packing.pack_rest import RestTask, rest_task
from medfuncta_dist.shards.snapshot import Snapshot, snapshot_path
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard
from medfuncta_dist.task_map import Failed, FanOut


def rests(dataset: Dataset, holdings: Holdings, act: str) -> list[Rest]:
    """What to write of the newest snapshot's records. Nothing of one of which nothing stays."""
    if dataset.newest is None:
        return []
    counting = {record.name: record for _, record in holdings.records if record.name in set(dataset.newest.packs)}
    found = (_rest(counting[name], holdings, dataset.newest.digest, act) for name in sorted(counting))
    return [rest for rest in found if rest.sources]


def _rest(record: PackRecord, holdings: Holdings, base: str, act: str) -> Rest:
    stay = tuple(key for key in record.sources if key not in holdings.sources)
    return Rest(record, stay, digest_json({"base": base, "rest of": record.name, "act": act}), holdings.scans)


def write_rests(run: RunFile, found: Sequence[Rest], fan_out: FanOut, fence: Guard) -> list[PackRecord]:
    """Write shards and records of what stays; the records, by name. A failure is raised: nothing was deleted yet."""
    tasks = [RestTask(run.storage, run.dataset, run.data, rest, fence) for rest in found]
    written = []
    for outcome in fan_out(rest_task, tasks) if tasks else ():
        if isinstance(outcome, Failed):
            raise outcome.error
        written.append(outcome.result)
    return sorted(written, key=lambda record: record.name)


def snapshot_without(
    store: ObjectStore, dataset: Dataset, holdings: Holdings, written: Sequence[PackRecord]
) -> Snapshot | None:
    """The next snapshot; the newest one where that holds nothing of it, None where there is none at all."""
    parent = dataset.newest
    if parent is None or holdings.names.isdisjoint(parent.packs):
        return parent
    kept = without(parent, _once(holdings))
    splits = {name: list(shards) for name, shards in kept.splits.items()}
    for record in written:
        for name, shards in record.splits.items():
            splits.setdefault(name, []).extend(shards)
    entries = [{k: entry[k] for k in ("key", "reason", "kind")} for record in written for entry in record.quarantined]
    made = replace(
        parent,
        parent=parent.digest,
        generation=parent.generation + 1,
        splits={name: shards for name, shards in splits.items() if shards},
        quarantined=[*kept.quarantined, *entries],
        counts=total([kept.counts, *(record.counts for record in written)]),
        packs=[*kept.packs, *(record.name for record in written)],
    )
    where = store.uri(snapshot_path(made.name, made.digest))
    require_balance(made.counts, where)
    if made.samples != made.counts["packed"]:
        raise IntegrityError("the shards do not hold each packed scan once", where=where, do="run `verify`")
    return made


def _once(holdings: Holdings) -> list[PackRecord]:
    """Of two drivers' records with one name, either: they hold the same."""
    return list({record.name: record for _, record in holdings.records}.values())
