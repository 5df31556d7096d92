"""Snapshots: immutable listings of a data set at one moment, named by their digest.

    datasets/<name>/snapshots/<digest>.json              the snapshot: {"format_version", "digest", "snapshot": {...}}
    datasets/<name>/commits/<generation>-<digest12>.json its commit record, written last: what makes the snapshot count

The digest is the SHA-256 of the canonical JSON of ``"snapshot"``. Object URIs inside are relative to the storage root.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import pyarrow as pa

from medfuncta_dist.errors import (
    FormatVersionError,
    IntegrityError,
    LostObjectError,
    MedfunctaError,
    RunFileError,
    StageOrderError,
)
from medfuncta_dist.shards.forgotten_record import gone_snapshots, raise_if_gone
from medfuncta_dist.shards.shard_index import parse_index
from medfuncta_dist.storage.commit_record import Record, read_as, read_records, record_paths
from medfuncta_dist.storage.digest import canonical_json, digest_json, sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import strict_json
from medfuncta_dist.storage.parsing.strict_json import RESTORE
from medfuncta_dist.storage.parsing.typed_record import typed
from medfuncta_dist.storage.promised import REPAIR, read_promised
from medfuncta_dist.storage.publish import Guard, NewRecord, publish

FORMAT_VERSION = 1
KIND = "snapshot"
RECORD_NAMES = re.compile(r"\d{9,}-[0-9a-f]{12}\.json")
FILE_NAMES = re.compile(r"[0-9a-f]{64}\.json")
SHARD_AGAIN = f"{REPAIR}: it packs damaged and missing shards again from the archive"
WRITE_AGAIN = f"{REPAIR}: it writes what is missing of snapshots again from their records"
LARGEST_SNAPSHOT = 2**30
"""Bytes. A shard takes 400 of them, a quarantined scan 200."""


@dataclass(frozen=True)
class Shard:
    """One tar of samples and its index, as committed. ``uri`` and ``index_uri`` are relative to the storage root."""

    uri: str
    size: int
    """Bytes of the tar."""
    sha256: str
    samples: int
    index_uri: str
    index_size: int
    """Bytes of the index."""
    index_sha256: str


@dataclass(frozen=True)
class Snapshot:
    """A data set at one moment.

    ``packs`` names the pack records that it is made of: a pack in a snapshot stays in every later one, whatever else
    is added to storage. ``counts`` are the two ledgers (``packing/pack_ledger.py``), ``quarantined`` entries hold
    ``key``, ``reason`` and ``kind`` (``source`` or ``scan``).
    """

    name: str
    parent: str | None
    contract: Mapping[str, Any]
    splits: Mapping[str, Sequence[Shard]]
    quarantined: Sequence[Mapping[str, str]] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    packs: Sequence[str] = ()
    generation: int = 0
    """1 for the first snapshot of a data set, then counting up."""

    @cached_property
    def digest(self) -> str:
        """The dataset digest: SHA-256 (hex) over the whole content of the snapshot."""
        return digest_json(self._body())

    @property
    def samples(self) -> int:
        """Number of scans packed, over all splits."""
        return sum(shard.samples for shards in self.splits.values() for shard in shards)

    def shards(self, split: str) -> list[Shard]:
        """The shards of one split; ``RunFileError`` lists the splits."""
        if split not in self.splits:
            raise RunFileError(
                f"the data set has no split '{split}'",
                where=f"data set {self.name}, snapshot {self.digest[:12]}",
                do=f"name one of: {', '.join(sorted(self.splits)) or '(none)'}",
            )
        return list(self.splits[split])

    def _body(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "parent": self.parent,
            "generation": self.generation,
            "contract": dict(self.contract),
            "splits": {name: [dict(vars(shard)) for shard in shards] for name, shards in self.splits.items()},
            "quarantined": [dict(entry) for entry in self.quarantined],
            "counts": dict(self.counts),
            "packs": list(self.packs),
        }

    def to_bytes(self) -> bytes:
        """The file ``snapshots/<digest>.json``: the same bytes for the same snapshot."""
        return canonical_json({"format_version": FORMAT_VERSION, "digest": self.digest, "snapshot": self._body()})

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "snapshot") -> Snapshot:
        """Parse and verify. ``FormatVersionError`` or ``IntegrityError`` name ``where`` the bytes come from."""
        body, digest = _parse_file(data, where)
        snapshot = typed(cls, body, "the snapshot", where)
        if snapshot.digest != digest:
            raise IntegrityError(
                "the snapshot is damaged: its content does not match its digest", where=where, do=RESTORE
            )
        return snapshot


def _parse_file(data: bytes, where: str) -> tuple[dict[str, Any], Any]:
    file = strict_json.parse_object(data, "the snapshot", where)
    if (version := file.get("format_version")) != FORMAT_VERSION:
        raise FormatVersionError(
            f"snapshot format_version {version!r} is unknown; this version reads {FORMAT_VERSION}",
            where=where,
            do="use the version of medfuncta-dist that wrote it, or a newer one",
        )
    if not isinstance(file.get("snapshot"), dict):
        raise IntegrityError("the snapshot does not hold a snapshot", where=where, do=RESTORE)
    return file["snapshot"], file.get("digest")


def dataset_path(dataset: str, *parts: str) -> str:
    """Path of an object of a data set, relative to the storage root."""
    return "/".join(("datasets", dataset, *parts))


def snapshot_path(dataset: str, digest: str) -> str:
    """Path of a snapshot, relative to the storage root."""
    return dataset_path(dataset, "snapshots", f"{digest}.json")


def commits_prefix(dataset: str) -> str:
    """Folder of the commit records of a data set's snapshots, relative to the storage root."""
    return dataset_path(dataset, "commits")


def record_name(snapshot: Snapshot) -> str:
    """The name of a snapshot's commit record."""
    return f"{snapshot.generation:09d}-{snapshot.digest[:12]}.json"


def commit_snapshot(store: ObjectStore, snapshot: Snapshot, fence: Guard) -> None:
    """Write the snapshot and then its commit record. Writing it twice changes nothing.

    LeaseLostError if the lease is lost; it is checked between the two, because the first write takes long.
    """
    path = snapshot_path(snapshot.name, snapshot.digest)
    data = snapshot.to_bytes()
    store.write(path, data)
    record = f"{commits_prefix(snapshot.name)}/{record_name(snapshot)}"
    body = {"digest": snapshot.digest, "uri": path, "size": len(data), "sha256": sha256_bytes(data)}
    publish(store, fence, NewRecord(record, KIND, body, snapshot.generation))


def load_snapshot(store: ObjectStore, dataset: str, digest: str | None, *, named_by: str = "data.snapshot") -> Snapshot:
    """The committed snapshot ``digest`` of a data set, or its newest one when ``digest`` is None.

    ``named_by`` is what an error about ``digest`` names: the key or file that says it.

    Raises ``StageOrderError`` when nothing was packed yet, ``RunFileError`` when ``digest`` was never committed, or
    is gone because scans of it were forgotten, ``IntegrityError`` when the file is missing or does not match its
    digest, or when commit records are missing of the one named or of newer ones (``LostObjectError``).
    """
    if digest is not None:
        return stored_snapshot(store, dataset, _committed(store, dataset, digest, named_by))
    return _newest(store, dataset)


def newest_snapshot(store: ObjectStore, dataset: str) -> Snapshot | None:
    """The newest committed snapshot, or None when nothing was packed yet. Raises as ``load_snapshot`` does."""
    try:
        return _newest(store, dataset)
    except StageOrderError:
        return None


def stored_snapshot(store: ObjectStore, dataset: str, digest: str) -> Snapshot:
    """The file of a snapshot that a record names. IntegrityError where it is missing or damaged."""
    path = snapshot_path(dataset, digest)
    data = read_promised(store, path, "the snapshot", WRITE_AGAIN, limit=LARGEST_SNAPSHOT)
    snapshot = Snapshot.from_bytes(data, where=store.uri(path))
    if snapshot.digest != digest:
        raise IntegrityError("the snapshot does not have the digest in its name", where=store.uri(path), do=RESTORE)
    return snapshot


@dataclass(frozen=True)
class _Committed:
    """The body of a snapshot's commit record."""

    digest: str
    uri: str
    size: int
    sha256: str


@dataclass(frozen=True)
class CommittedSnapshot:
    """What a snapshot's commit record says of it."""

    digest: str
    generation: int
    size: int
    """Bytes of its file."""


def read_committed(store: ObjectStore, dataset: str) -> list[CommittedSnapshot]:
    """What all commit records of snapshots say, the newest last. IntegrityError if one of them is damaged."""
    found = sorted(read_records(store, commits_prefix(dataset), KIND, RECORD_NAMES), key=_age)
    bodies = [(typed(_Committed, r.body, "a snapshot record", store.uri(path)), r.generation) for path, r in found]
    return [CommittedSnapshot(body.digest, generation, body.size) for body, generation in bodies]


def _age(found: tuple[str, Record]) -> tuple[int, str]:
    return found[1].generation, found[0]


def read_unrecorded(store: ObjectStore, dataset: str, recorded: Iterable[CommittedSnapshot]) -> list[Snapshot]:
    """The whole snapshots that no commit record names: left by a driver that was stopped, or a record is lost."""
    known = {snapshot_path(dataset, one.digest) for one in recorded}
    paths = record_paths(store, dataset_path(dataset, "snapshots"), FILE_NAMES)
    found = []
    for path in paths:
        if path not in known:
            with suppress(MedfunctaError):  # a damaged one without a record does not exist
                digest = path.rpartition("/")[2].removesuffix(".json")
                found.append(stored_snapshot(store, dataset, digest))
    return found


def is_proved(unrecorded: Snapshot, recorded: Sequence[CommittedSnapshot]) -> bool:
    """Whether a snapshot without a commit record shows that records were lost: others must have come before it.

    The next one after the newest shows nothing: a driver that was stopped between the two writes leaves it, too.
    """
    return unrecorded.generation > max((one.generation for one in recorded), default=0) + 1


def _newest(store: ObjectStore, dataset: str) -> Snapshot:
    """The newest of all; LostObjectError where commit records are lost (``is_proved``)."""
    recorded = read_committed(store, dataset)
    newest = recorded[-1].generation if recorded else 0
    lost = [one for one in read_unrecorded(store, dataset, recorded) if is_proved(one, recorded)]
    if lost and (lost := [one for one in lost if one.digest not in gone_snapshots(store, dataset)]):
        raise LostObjectError(
            f"snapshot {lost[-1].digest[:12]} (number {lost[-1].generation}) of data set {dataset} has no commit "
            f"record; the newest that has one is number {newest}",
            where=store.uri(f"{commits_prefix(dataset)}/{record_name(lost[-1])}"),
            do=WRITE_AGAIN,
        )
    if not recorded:
        raise StageOrderError(
            f"data set {dataset} has no committed snapshot",
            where=store.uri(commits_prefix(dataset)),
            do="run the pack stage first, and let it finish",
        )
    return stored_snapshot(store, dataset, recorded[-1].digest)


def _committed(store: ObjectStore, dataset: str, digest: str, named_by: str) -> str:
    ending = f"-{digest[:12]}.json"
    paths = [path for path in record_paths(store, commits_prefix(dataset), RECORD_NAMES) if path.endswith(ending)]
    if not paths:
        raise_if_gone(store, dataset, digest)
        _raise_unrecorded(store, dataset, digest, named_by)
    if (named := read_as(_Committed, store, paths[-1], KIND).digest) != digest:
        what = f"the record of snapshot {digest[:12]} names another one, {named[:12]}"
        raise IntegrityError(what, where=store.uri(paths[-1]), do=RESTORE)
    return digest


def _raise_unrecorded(store: ObjectStore, dataset: str, digest: str, named_by: str) -> NoReturn:
    """LostObjectError where the snapshot, or a file other than the run file, proves that there was a record."""
    if store.exists(snapshot_path(dataset, digest)):
        raise LostObjectError(
            f"the commit record of snapshot {digest[:12]} of data set {dataset} is missing; {named_by} names it",
            where=store.uri(f"{commits_prefix(dataset)}/*-{digest[:12]}.json"),
            do=WRITE_AGAIN,
        )
    if named_by != "data.snapshot":
        raise LostObjectError(
            f"snapshot {digest[:12]} of data set {dataset} and its commit record are missing",
            where=f"{named_by}, which names it",
            do=f"restore both from a backup of {store.uri(dataset_path(dataset))}, or train again under another name",
        )
    raise RunFileError(
        f"snapshot {digest} does not exist in data set {dataset}",
        where=store.uri(commits_prefix(dataset)),
        do="check data.snapshot, or leave it out to use the newest",
    )


def split_digest(snapshot: Snapshot, split: str) -> str:
    """SHA-256 (hex) over what one split holds, in order; other splits do not change it."""
    return digest_json([[shard.sha256, shard.samples] for shard in snapshot.shards(split)])


def read_index(store: ObjectStore, shard: Shard) -> pa.Table:
    """The shard's index, a row per sample, verified against the shard's record (``IntegrityError``)."""
    data = read_promised(store, shard.index_uri, "the index of a shard", SHARD_AGAIN, limit=shard.index_size)
    return checked_index(data, shard, store.uri(shard.index_uri))


def checked_index(data: bytes, shard: Shard, where: str) -> pa.Table:
    """The table of an index's bytes, verified against the shard's record (``IntegrityError`` names ``where``)."""
    if len(data) != shard.index_size or sha256_bytes(data) != shard.index_sha256:
        raise IntegrityError("the index does not match the snapshot's size or SHA-256", where=where, do=SHARD_AGAIN)
    return parse_index(data, shard_size=shard.size, samples=shard.samples, where=where)
