"""Rules between the run file and what is in storage, checked before a stage starts: what would fail at step 10 000
is refused here, by key, value and expectation."""

from __future__ import annotations

from math import isclose
from typing import Any

from medfuncta_dist.config.kept_run_file import pin_path, pinned_digest
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.field_section import FieldSection
from medfuncta_dist.errors import RunChangedError, RunFileError, StageOrderError
from medfuncta_dist.fields.field_kinds import FieldSpec, describe
from medfuncta_dist.fitting.decided_tables import require_possible
from medfuncta_dist.fitting.fit_driver import locate_table, require_scans
from medfuncta_dist.fitting.fit_plan import chosen_splits
from medfuncta_dist.network.committed_network import published_network, require_all_steps
from medfuncta_dist.network.core_settings import trained_spec
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.shards.data_contract import packed_shape, require_contract
from medfuncta_dist.shards.shard_listing import require_shards
from medfuncta_dist.shards.snapshot import Snapshot, load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, NewRecord, publish


def check_snapshot(run: RunFile, snapshot: Snapshot) -> None:
    """The run's scans are as the shards were packed: shape, channels, and whatever else the run file says about them.

    A run that names no source, only a snapshot, need not repeat how the snapshot was packed.
    """
    where = f"data set {run.dataset}, snapshot {snapshot.digest[:12]}"
    for key, wanted in (("shape", packed_shape(run.data)), ("channels", run.data.channels)):
        packed = snapshot.contract.get(key)
        if packed != wanted and isinstance(packed, dict) != isinstance(wanted, dict):
            raise _other_resolution(run, packed, where)
        if packed != wanted:
            raise RunFileError(
                f"data.{key} is {wanted}, but the shards of this data set hold {packed}",
                where=where,
                do=f"set data.{key} to {packed}, or pack under another data.dataset",
            )
    if run.data.source is not None or run.data.splits is not None:
        require_contract(run.data, snapshot.contract, where)


def _other_resolution(run: RunFile, packed: Any, where: str) -> RunFileError:
    """The run file has patches where the data set has none, or the other way round."""
    own = isinstance(packed, dict)
    what = "in their own shape, for patches" if own else f"in the shape {packed}, without patches"
    how = f"give data.patches with a size of {packed['axes']} axes" if own else "leave data.patches out"
    return RunFileError(
        f"the scans of this data set were packed {what}",
        where=where,
        do=f"{how}, or pack under another data.dataset",
    )


def check_latents(run: RunFile, store: ObjectStore) -> None:
    """The run's latents are of a data set and a network as the run file describes them; they may also have been
    imported without scans."""
    table = locate_table(run, store)
    if table.has_scans:
        check_snapshot(run, table.snapshot)
    check_network(run, store)


def check_fitting(run: RunFile, store: ObjectStore) -> None:
    """The snapshot and the network that the run's scans are fitted with are those that the run file describes."""
    snapshot = packed_snapshot(run, store)
    check_snapshot(run, snapshot)
    check_network(run, store)
    if run.fit.storage_type == "curved":
        require_possible(snapshot)


def packed_snapshot(run: RunFile, store: ObjectStore) -> Snapshot:
    """That of the run file, or the newest. StageOrderError where nothing is packed, with other words where the run's
    latents were imported without scans."""
    try:
        return load_snapshot(store, run.dataset, run.data.snapshot)
    except StageOrderError:
        require_scans(locate_table(run, store))
        raise


def check_training(run: RunFile, snapshot: Snapshot) -> None:
    """There are enough training scans for one global batch, and the splits that will be fitted."""
    check_snapshot(run, snapshot)
    chosen_splits(snapshot, run.fit.splits)  # once trained, fit.splits cannot be corrected any more
    scans = sum(shard.samples for shard in snapshot.shards("train"))
    drawn = scans * run.visits
    if drawn < run.train.batch:
        patches = "" if run.data.patches is None else f", of which an epoch draws {drawn} patches"
        raise RunFileError(
            f"train.batch is {run.train.batch}, but the training split holds {scans} scans{patches}",
            where=f"data set {run.dataset}, snapshot {snapshot.digest[:12]}",
            do=f"set train.batch to at most {drawn}, or pack more scans",
        )


def pinned_snapshot(run: RunFile, store: ObjectStore, fence: Guard) -> Snapshot:
    """The snapshot that this run trains on: ``data.snapshot`` or the newest, chosen once and recorded.

    A resumed run goes on with the scans it began with, whatever has been packed since. DamagedShardError where shards
    are missing (two listings). LeaseLostError where the lease was lost and nothing was recorded yet.
    """
    path = pin_path(run)
    if (digest := pinned_digest(run, store)) is not None:
        if run.data.snapshot not in (None, digest):
            raise RunChangedError(
                f"data.snapshot is {run.data.snapshot}, but this run trains on {digest}",
                where=store.uri(path),
                do="leave data.snapshot as it was, or give the run another name",
            )
        snapshot = load_snapshot(store, run.dataset, digest, named_by=store.uri(path))
        require_shards(store, snapshot)
        return snapshot
    snapshot = load_snapshot(store, run.dataset, run.data.snapshot)
    check_training(run, snapshot)
    require_shards(store, snapshot)
    publish(store, fence, NewRecord(path, "pin", {"snapshot": snapshot.digest}))
    return snapshot


def check_network(run: RunFile, store: ObjectStore) -> None:
    """The trained network is the one that the run file describes: its kind of field, its sizes, its ω, its steps."""
    ref = published_network(store, run.name)
    trained, wanted = (_field_keys(spec) for spec in (load_network(store, ref).spec, trained_spec(run)))
    for key, value in trained.items():
        if not _same(value, wanted.get(key)):
            raise RunFileError(
                f"field.{key} is {wanted.get(key)}, but the shared network was trained with {value}",
                where=store.uri(ref.folder),
                do=f"set field.{key} to {value}, or train under another name",
            )
    require_all_steps(run, store)


def _field_keys(spec: FieldSpec) -> dict[str, Any]:
    """What an architecture has of the section ``field``, by key; the kind first, for others depend on it."""
    described = {"kind": spec.KIND} | describe(spec) | {"omegas": list(spec.omegas)}
    return {key: value for key, value in described.items() if key in FieldSection.model_fields}


def _same(trained: Any, wanted: Any) -> bool:
    if not isinstance(trained, list) or not isinstance(wanted, list):
        return bool(trained == wanted)
    # A schedule's ω may differ in the last digit from those that an earlier version computed.
    return len(trained) == len(wanted) and all(map(isclose, trained, wanted))
