"""Forgetting, in an order that a kill at any point leaves readable, and that the same command takes up again:

1. the owner's private list names the scans: from here on no pack brings them back, and pack waits for the end
2. new shards and records of what stays; latents of it, carried to the new shards
3. the private list also names what will be deleted
4. the new snapshot; the shared record of the act, which names the snapshots that go
5. deletion: records of those snapshots, reports, probes, priors, latents, shards, at last the pack records
6. every object of the data set and of its runs is read: none may hold a key, values or a latent of the scans
7. the proof's record; mapping and inventory lose their rows, and what pack listed of pairs and copies goes; the private
   list says that it is done
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import StageOrderError
from medfuncta_dist.fitting.imported_record import imported_record
from medfuncta_dist.forget.affected_priors import priors_of
from medfuncta_dist.forget.affected_runs import AffectedRun, indexes_of, latents_of_runs, probes_of, reports_of, runs_on
from medfuncta_dist.forget.carried_latents import HeldLatents, carry, latent_keys, named_parts, tables_of
from medfuncta_dist.forget.descendants import with_descendants
from medfuncta_dist.forget.holdings import Dataset, Holdings, find_holdings, held_snapshots, pixel_keys, read_dataset
from medfuncta_dist.forget.new_snapshot import rests, snapshot_without, write_rests
from medfuncta_dist.forget.object_search import Trace, Traces
from medfuncta_dist.forget.patient_names import PatientName, Wanted, wanted
from medfuncta_dist.forget.private_traces import remove_private
from medfuncta_dist.forget.proof import DATA, Search, equal_scans, for_bytes, is_left_over
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.scans.private.forgotten_list import Act, act_id, done, keep_act, read_list
from medfuncta_dist.scans.private.forgotten_volumes import Piece
from medfuncta_dist.scans.private.private_folder import load_salt, private_folder
from medfuncta_dist.scans.private.published_ids import Published, publications_with
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.data_contract import check_dataset, open_dataset, with_series
from medfuncta_dist.shards.forgotten_record import (
    ForgottenRecord,
    ProofRecord,
    read_act,
    write_forgotten,
    write_proof,
)
from medfuncta_dist.shards.shard_looks import looks_path
from medfuncta_dist.shards.snapshot import Shard, commit_snapshot, dataset_path, snapshot_path
from medfuncta_dist.storage.leases.lease import dataset_lease, run_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, withdraw
from medfuncta_dist.streaming.shard_cache import cache_folder
from medfuncta_dist.task_map import FanOut

Say = Callable[[str], None]
RUN_DATA = ("latents", "neighbours", "prior", "report")


@dataclass(frozen=True)
class Asked:
    """What the user names."""

    keys: tuple[str, ...] = ()
    patients: tuple[PatientName, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.keys or self.patients)


@dataclass(frozen=True)
class Place:
    """Where it is done, and with which salt."""

    run: RunFile = field(repr=False)
    store: ObjectStore
    folder: Path = field(repr=False)
    salted: KeyMaker = field(repr=False)


@dataclass(frozen=True)
class Preview:
    """What would be done. ``scans`` and ``sources`` that are to be forgotten; the other numbers count objects."""

    scans: int
    sources: int
    patients: int
    records: int
    shards: int
    snapshots: int
    latents: int
    """Parts and their records."""
    reports: int
    """Their files, and those of probes."""
    indexes: int
    """Objects of indexes of neighbours."""
    priors: tuple[str, ...]
    """Runs whose priors go."""
    runs: tuple[str, ...]
    trained: tuple[str, ...]
    """Runs with a shared network, or with one to start from, which may have learned from the scans."""
    numbered: int
    """DICOM series of which volumes go that have numbers only."""
    pending: int
    """Acts that were interrupted, and are finished first."""
    published: tuple[Published, ...]
    """Publications that hold any of the scans; they are not reached."""


@dataclass(frozen=True)
class Forgot:
    """What an act has done."""

    act: Act = field(repr=False)
    record: ForgottenRecord
    proof: ProofRecord
    carried: int
    """Latents of other scans that were kept."""
    priors: tuple[str, ...]
    """Runs whose priors are gone."""
    trained: tuple[str, ...]
    equal: tuple[str, ...]
    """Keys of other scans with the same values."""
    published: tuple[Published, ...] = ()
    """Publications that hold any of the scans; they are not reached."""


def open_place(run: RunFile) -> Place:
    """RunFileError where the salt is missing, RunChangedError where it is another data set's, StageOrderError where
    nothing was packed."""
    store = ObjectStore(run.storage)
    folder = private_folder(run.data.private, run.dataset, run.storage)
    salted = KeyMaker(load_salt(folder))
    contract = check_dataset(store, run.dataset, run.data, salted.fingerprint())
    if contract is None:
        raise _no_dataset(run, store)
    return Place(run.model_copy(update={"data": with_series(run.data, contract)}), store, folder, salted)


def _no_dataset(run: RunFile, store: ObjectStore) -> StageOrderError:
    if imported_record(store, run.name) is None:
        return StageOrderError(f"data set {run.dataset} does not exist", where=store.root, do="check the run file")
    return StageOrderError(
        "the latents of this run were imported without their scans: there is no data set to forget from",
        where=store.uri(f"runs/{run.name}"),
        do="take the scan's file out of the folder (`medfuncta-dist lookup` names the file of a key), delete this run, "
        "then import the network and the folder again",
    )


def preview(place: Place, asked: Asked) -> Preview:
    """What ``forget`` would do; nothing is written."""
    pending, dataset = _pending(place), read_dataset(place.store, place.run.dataset)
    holdings = find_holdings(dataset, _wanted(place, asked), {key for act in pending for key in act.keys})
    runs = runs_on(place.store, place.run.dataset)
    gone, stay = _shards(dataset, holdings)
    latents = latents_of_runs(place.store, runs, holdings.scans, gone, stay)
    held = [(run, table) for run, table in latents if table.commits]
    reports = [*reports_of(place.store, runs, holdings.scans), *probes_of(place.store, latents)]
    indexes = list(indexes_of(place.store, runs, holdings.scans))
    return Preview(
        len(holdings.scans),
        len(holdings.sources),
        len(holdings.groups),
        len(holdings.records),
        len(gone),
        len(held_snapshots(dataset, holdings)),
        sum(len(table.objects) for _, table in held),
        len(reports),
        len(indexes),
        _runs_of(priors_of(place.store, runs, latents)),
        tuple(sorted({run.name for run, _ in held} | {path.split("/")[1] for path in (*reports, *indexes)})),
        _trained(place.store, runs),
        numbered_series(holdings.pieces),
        len(pending),
        tuple(publications_with(place.folder, place.run.dataset, holdings.scans)),
    )


def _trained(store: ObjectStore, runs: Sequence[AffectedRun]) -> tuple[str, ...]:
    """Runs whose networks may have learned from the scans, and those that were started from one of these."""
    return tuple(with_descendants(store, [run.name for run in runs if run.trained]))


def forget(place: Place, asked: Asked, fan_out: FanOut, say: Say = lambda text: None) -> list[Forgot]:
    """Finish the acts that were interrupted, then forget what is asked for; one result each. None where that is not
    in the data set (any more).

    Raises RunHeldError while a driver holds the data set, or a run on it; IntegrityError where something was found
    after the deletion, or a record is damaged.
    """
    runs = runs_on(place.store, place.run.dataset)
    with _fences(place, runs) as fences:
        data = open_dataset(place.store, place.run.dataset, place.run.data, place.salted.fingerprint(), fences[""])
        place = replace(place, run=place.run.model_copy(update={"data": data}))
        acting = _Acting(place, runs, fences, fan_out, say)
        results = [acting.finish(act) for act in _pending(place)]
        act = acting.begin(asked) if asked else None
        return [*results, acting.finish(act)] if act is not None else results


@contextmanager
def _fences(place: Place, runs: Sequence[AffectedRun]) -> Iterator[dict[str, Guard]]:
    """The leases of the data set (under "") and of all runs on it: nothing may read what goes, or write of it."""
    run, ttl = place.run, place.run.cluster.lease_seconds
    with ExitStack() as stack:
        lease = hold_lease(place.store, dataset_lease(run.dataset), ttl, f"data set {run.dataset}")
        fences: dict[str, Guard] = {"": stack.enter_context(lease)}
        for one in runs:
            fences[one.name] = stack.enter_context(hold_lease(place.store, run_lease(one.name), ttl, one.name))
        yield fences


def _pending(place: Place) -> list[Act]:
    return [act for act in read_list(place.folder).of(place.run.dataset) if not act.done]


def _wanted(place: Place, asked: Asked) -> Wanted:
    return wanted(asked.keys, asked.patients, place.run.data, place.folder, place.salted)


def _shards(dataset: Dataset, holdings: Holdings, written: Iterable[str] = ()) -> tuple[set[str], set[str]]:
    """SHA-256 of the shards that go, and of those that stay; ``written``: names of the records of what stays."""
    held, new = {path for path, _ in holdings.records}, set(written)
    stay = {s.sha256 for path, r in dataset.records if path not in held or r.name in new for s in r.shards}
    return {shard.sha256 for _, record in holdings.records for shard in record.shards} - stay, stay


class _Acting:
    """The steps, with all that they need."""

    def __init__(
        self, place: Place, runs: Sequence[AffectedRun], fences: Mapping[str, Guard], fan_out: FanOut, say: Say
    ) -> None:
        self._place, self._runs, self._fences, self._fan_out, self._say = place, runs, fences, fan_out, say
        self._store, self._name, self._fence = place.store, place.run.dataset, fences[""]

    def begin(self, asked: Asked) -> Act | None:
        """The act, in the private list. None where the data set holds nothing of what is asked for."""
        dataset = read_dataset(self._store, self._name)
        holdings = find_holdings(dataset, _wanted(self._place, asked))
        if not (holdings.scans or holdings.sources):
            return None
        keys = holdings.scans | holdings.sources | holdings.groups
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        act = Act(act_id(self._place.salted, self._name, keys), self._name, now, (), groups=_tuple(holdings.groups))
        act = self._with(act, dataset, holdings)
        keep_act(self._place.folder, act)
        return act

    def _with(self, act: Act, dataset: Dataset, holdings: Holdings) -> Act:
        """The act with all that is known of the scans; of what is deleted already, its former state knows."""
        latents = set(act.latents)
        for _, table in self._latents(holdings, *_shards(dataset, holdings)):
            latents |= latent_keys(self._store, table, holdings.scans, self._place.salted)
        return replace(
            act,
            scans=_tuple({*act.scans, *holdings.scans}),
            sources=_tuple({*act.sources, *holdings.sources}),
            contents=_tuple({*act.contents, *holdings.contents}),
            pixels=_tuple({*act.pixels, *pixel_keys(self._store, holdings, self._place.salted)}),
            pieces=_joined(act.pieces, holdings.pieces),
            latents=_tuple(latents),
        )

    def _latents(self, holdings: Holdings, gone: set[str], stay: set[str]) -> list[tuple[AffectedRun, HeldLatents]]:
        return latents_of_runs(self._store, self._runs, holdings.scans, gone, stay)

    def finish(self, act: Act) -> Forgot:
        """All steps from the second on; those that are done already change nothing."""
        dataset = read_dataset(self._store, self._name)
        also = Wanted(groups=frozenset(act.groups), sources=frozenset(act.sources))
        holdings = find_holdings(dataset, also, act.scans)
        act = self._with(act, dataset, holdings)
        self._say(f"{len(act.scans)} scans to forget; writing what stays of {len(holdings.records)} pack records")
        size = sum(shard.size for _, record in holdings.records for shard in record.shards)
        fan_out = for_bytes(size, self._fan_out)
        written = write_rests(self._place.run, rests(dataset, holdings, act.id), fan_out, self._fence)
        new = [(split, shard) for record in written for split, found in record.splits.items() for shard in found]
        latents = self._latents(
            holdings, *_shards(read_dataset(self._store, self._name), holdings, (r.name for r in written))
        )
        carried = sum(self._carried(run, table, new) for run, table in latents)
        snapshot = snapshot_without(self._store, dataset, holdings, written)
        snapshots = held_snapshots(dataset, holdings)
        act = replace(act, delete=_once([*act.delete, *self._deletions(holdings, snapshots, latents)]))
        keep_act(self._place.folder, act)
        if snapshot is not None and snapshot is not dataset.newest:
            commit_snapshot(self._store, snapshot, self._fence)
        gone = [found.digest for _, found in snapshots]
        record = self._recorded(act, snapshot.digest if snapshot else "", gone)
        deleted = self._delete(act)
        proof, equal = self._prove(act, deleted)
        write_proof(self._store, self._name, proof, self._fence)
        remove_private(self._place.folder, act, self._place.run.data, self._place.salted)
        keep_act(self._place.folder, done(act, (trace.equal for trace in equal)))
        others = tuple(sorted({trace.key for trace in equal}))
        priors = _runs_of(path for path in act.delete if path.split("/")[2:3] == ["prior"])
        published = tuple(publications_with(self._place.folder, self._name, set(act.scans)))
        return Forgot(act, record, proof, carried, priors, _trained(self._store, self._runs), others, published)

    def _carried(self, run: AffectedRun, table: HeldLatents, new: Sequence[tuple[str, object]]) -> int:
        size = run.scans_per_range(self._store) if table.commits else None
        return carry(self._store, table, new, size, self._fences[run.name]) if size else 0  # type: ignore[arg-type]

    def _deletions(
        self,
        holdings: Holdings,
        snapshots: Sequence[tuple[str, object]],
        latents: Sequence[tuple[AffectedRun, HeldLatents]],
    ) -> list[str]:
        """Objects, in the order in which they go: what is left of an interrupted deletion can still be found."""
        shards = {shard.uri: shard for _, record in holdings.records for shard in record.shards}
        return [
            *(path for path, _ in snapshots),
            *(snapshot_path(self._name, found.digest) for _, found in snapshots),  # type: ignore[attr-defined]
            *reports_of(self._store, self._runs, holdings.scans),
            *probes_of(self._store, latents),
            *priors_of(self._store, self._runs, latents),
            *indexes_of(self._store, self._runs, holdings.scans),
            *(path for _, table in latents for path in table.objects),
            *sorted(self._looks() & {looks_path(self._name, shard.sha256) for shard in shards.values()}),
            *shards,
            *(shard.index_uri for shard in shards.values()),
            *(path for path, _ in holdings.records),
        ]

    def _recorded(self, act: Act, snapshot: str, gone: Sequence[str]) -> ForgottenRecord:
        """The shared record. That of an interrupted act knows more of the snapshots that are gone."""
        former = read_act(self._store, self._name, act.id)
        all_gone = [*dict.fromkeys([*(former.gone if former else ()), *gone])]
        counts = len(act.scans), len(act.sources), len(act.groups)
        record = ForgottenRecord(act.id, act.date, *counts, former.snapshot if former else snapshot, all_gone)
        write_forgotten(self._store, self._name, record, self._fence)
        return record

    def _delete(self, act: Act) -> int:
        """Delete what the act names and nothing else does any more; from this machine's shard cache, too."""
        named = self._named(set(act.delete))
        going = [path for path in act.delete if path not in named]
        self._say(f"deleting {len(going)} objects")
        for path in going:
            withdraw(self._store, self._fence_of(path), path)
        data = [dataset_path(self._name, kind) for kind in DATA]
        for folder in [*data, *(f"runs/{run.name}/{kind}" for run in self._runs for kind in RUN_DATA)]:
            self._store.delete_unfinished(folder)
        cache = cache_folder(self._place.run.cluster.cache)
        for path in going:
            if path.endswith(".tar"):
                for suffix in (".tar", ".index"):
                    (cache / (Path(path).stem + suffix)).unlink(missing_ok=True)
        return len(going)

    def _prove(self, act: Act, deleted: int) -> tuple[ProofRecord, list[Trace]]:
        """Read everything; delete what no record names and holds any of it; read that again."""
        search = Search(self._store, self._name, Traces.of(act, self._place.salted), self._fan_out, self._say)
        first = search.everything()
        equal = equal_scans(self._store, first.equal, act, self._place.salted)
        named = self._named(set())
        left = [path for path in first.holding if path not in named and is_left_over(path, self._fences)]
        for path in left:
            withdraw(self._store, self._fence_of(path), path)
        left += self._delete_lone_looks()
        search.require_nothing(first.holding)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        looked_for, others = (len(act.scans), len(act.latents)), len({trace.key for trace in equal})
        read = first.objects, first.bytes
        proof = ProofRecord(act.id, now, deleted + len(left), *read, *looked_for, 0, others, self._store.versioning())
        return proof, equal

    def _looks(self) -> set[str]:
        return {info.path for info in self._store.list(dataset_path(self._name, "looks"))}

    def _objects_of(self, shard: Shard) -> tuple[str, ...]:
        return shard.uri, shard.index_uri, looks_path(self._name, shard.sha256)

    def _delete_lone_looks(self) -> list[str]:
        """Delete the looks of shards that are gone: they name no scan, so no search of their bytes finds them."""
        shards = {Path(info.path).stem for info in self._store.list(dataset_path(self._name, "shards"))}
        lone = sorted(path for path in self._looks() if Path(path).stem not in shards)
        for path in lone:
            withdraw(self._store, self._fence, path)
        return lone

    def _fence_of(self, path: str) -> Guard:
        folder, name = path.split("/")[:2]
        return self._fences[name] if folder == "runs" else self._fence

    def _named(self, deleted: set[str]) -> set[str]:
        """Data objects that records name which stay."""
        dataset = read_dataset(self._store, self._name)
        named = set()
        for path, record in dataset.records:
            if path not in deleted:
                named |= {path for shard in record.shards for path in self._objects_of(shard)}
        if dataset.newest is not None:
            named.add(snapshot_path(self._name, dataset.newest.digest))
        for run in self._runs:
            for folder in tables_of(self._store, run.name):
                named |= named_parts(self._store, folder, deleted)
        return named


def _tuple(keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(keys))


def _runs_of(paths: Iterable[str]) -> tuple[str, ...]:
    """The runs that these objects are of."""
    return tuple(sorted({path.split("/")[1] for path in paths}))


def numbered_series(pieces: Iterable[Piece]) -> int:
    """How many series have forgotten volumes that are known by their number only."""
    return len({piece.source for piece in pieces if piece.numbered})


def _joined(former: Iterable[Piece], now: Iterable[Piece]) -> tuple[Piece, ...]:
    """One per item. What an interrupted act has kept may know more than what is left of the data set."""
    found = {(piece.source, piece.item): piece for piece in former}
    return tuple(({(piece.source, piece.item): piece for piece in now} | found).values())


def _once(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(paths))
