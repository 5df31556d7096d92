"""Which tables the curved latents of a table have: decided once, before its first part, and recorded."""

from __future__ import annotations

import sys
from dataclasses import asdict

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fitting.table_trial import TableTrial, TrialTables, table_trial
from medfuncta_dist.latents.curved.row_coder import require_coder
from medfuncta_dist.latents.curved.stored_tables import are_whole, path_of
from medfuncta_dist.latents.table_format import PartRef, tables_of_part
from medfuncta_dist.network.committed_network import TRAINING_SPLIT
from medfuncta_dist.shards.snapshot import Shard, Snapshot
from medfuncta_dist.storage.commit_record import latest_record
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.typed_record import typed
from medfuncta_dist.storage.publish import Guard, NewRecord, publish
from medfuncta_dist.task_map import Failed, FanOut

KIND = "curved-tables"


def require_possible(snapshot: Snapshot) -> tuple[Shard, ...]:
    """The training shards, of which tables are made. MedfunctaError without the coder; RunFileError where the data set
    has no training scans."""
    require_coder()
    shards = tuple(snapshot.splits.get(TRAINING_SPLIT, ()))
    if not any(shard.samples for shard in shards):
        raise RunFileError(
            "curved latents need training scans, and this data set has none",
            where="fit.storage_type",
            do="choose int8, or pack a data set with a split 'train'",
        )
    return shards


def recorded_tables(store: ObjectStore, folder: str) -> TrialTables | None:
    """What a latent table's record says of its tables; None where none are decided."""
    found = latest_record(store, f"{folder}/curved", KIND)
    return None if found is None else typed(TrialTables, found[1].body, "a record of curved tables", found[1].where)


def tables_size(store: ObjectStore, folder: str) -> int:
    """Bytes of the tables that all latents of a table share; 0 where there are none."""
    found = recorded_tables(store, folder)
    return 0 if found is None else store.size(path_of(folder, found.tables))


def decide_tables(
    store: ObjectStore, folder: str, begun: PartRef | None, trial: TableTrial, fan_out: FanOut, fence: Guard
) -> str:
    """The digest of the tables: those that the latent table has, or new ones.

    ``begun``: a part that is there already: all others then have its tables. Where there is none, tables that were lost
    or damaged are made again.

    Raises:
        MedfunctaError: no tables can be made of the training scans.
        LeaseLostError: another driver has taken the run over; nothing is decided.
    """
    if begun is not None:
        return tables_of_part(store, folder, begun)
    found = recorded_tables(store, folder)
    if found is not None and are_whole(store, folder, found.tables):
        return found.tables
    print("fit: a worker fits training scans, to choose the step and the tables of curved latents", file=sys.stderr)
    (outcome,) = fan_out(table_trial, [trial])
    if isinstance(outcome, Failed):
        raise outcome.error
    decided: TrialTables = outcome.result
    name = f"tables{f'-g{fence.token:09d}' if fence.token else ''}.json"
    publish(store, fence, NewRecord(f"{folder}/curved/{name}", KIND, asdict(decided), fence.token))
    print(f"fit: {_said(decided)}", file=sys.stderr)
    return decided.tables


def _said(decided: TrialTables) -> str:
    return (
        f"curved latents take {decided.stream_bytes:.1f} bytes per scan and cost {decided.loss:.3f} dB, as "
        f"{decided.scans} training scans tell"
    )
