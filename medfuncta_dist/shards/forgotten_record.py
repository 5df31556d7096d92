"""What storage knows of forgotten scans: how many, when, and which snapshots are gone with them; never which.

    datasets/<name>/forgotten/<act>.json   record of kind ``forgotten``, written before anything is deleted
    datasets/<name>/proofs/<act>.json      record of kind ``proof``, written when nothing of it was found any more

``<act>`` is a key of all keys of the act: the owner's list (``scans/private/forgotten_list.py``) tells which these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from medfuncta_dist.errors import ObjectMissingError, RunFileError
from medfuncta_dist.scans.private.forgotten_list import Forgotten, read_list
from medfuncta_dist.storage.commit_record import read_as, read_records
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.typed_record import typed
from medfuncta_dist.storage.publish import Guard, NewRecord, publish

KIND, PROOF_KIND = "forgotten", "proof"


@dataclass(frozen=True)
class ForgottenRecord:
    """The body of an act's record. ``act``: its name, a key."""

    act: str
    date: str
    scans: int
    sources: int
    """Files of which nothing stays."""
    patients: int
    snapshot: str
    """Digest of the snapshot without them."""
    gone: Sequence[str]
    """Digests of the snapshots that held them: they are deleted."""


@dataclass(frozen=True)
class ProofRecord:
    """The body of an act's proof: what was read after the deletion, and what was found of the scans."""

    act: str
    date: str
    deleted: int
    """Objects that were deleted."""
    objects: int
    bytes: int
    """That were read."""
    scans: int
    latents: int
    """That were looked for by digest; scans by key, too."""
    found: int
    equal: int
    """Other scans with the same values, which stay."""
    versioned: str
    """Whether the bucket keeps deleted objects: "no", "enabled", "suspended" or "unknown"."""


def write_forgotten(store: ObjectStore, dataset: str, record: ForgottenRecord, fence: Guard) -> None:
    """Write an act's record."""
    body = asdict(record) | {"gone": list(record.gone)}
    publish(store, fence, NewRecord(f"datasets/{dataset}/forgotten/{record.act}.json", KIND, body, fence.token))


def write_proof(store: ObjectStore, dataset: str, record: ProofRecord, fence: Guard) -> None:
    """Write an act's proof, the last of its records."""
    path = f"datasets/{dataset}/proofs/{record.act}.json"
    publish(store, fence, NewRecord(path, PROOF_KIND, asdict(record), fence.token))


def read_forgotten(store: ObjectStore, dataset: str) -> list[ForgottenRecord]:
    """The records of all acts on a data set, by date."""
    found = read_records(store, f"datasets/{dataset}/forgotten", KIND)
    records = [typed(ForgottenRecord, record.body, "a forgotten record", record.where) for _, record in found]
    return sorted(records, key=lambda record: (record.date, record.act))


def read_act(store: ObjectStore, dataset: str, act: str) -> ForgottenRecord | None:
    """The record of one act."""
    try:
        return read_as(ForgottenRecord, store, f"datasets/{dataset}/forgotten/{act}.json", KIND)
    except ObjectMissingError:
        return None


def gone_snapshots(store: ObjectStore, dataset: str) -> set[str]:
    """Digests of the snapshots that were deleted because scans of them were forgotten."""
    return {digest for act in read_forgotten(store, dataset) for digest in act.gone}


def raise_if_gone(store: ObjectStore, dataset: str, digest: str) -> None:
    """RunFileError, with the way out, where a snapshot was deleted because scans of it were forgotten."""
    acts = read_forgotten(store, dataset)
    if any(digest in act.gone for act in acts):
        date = next(act.date for act in acts if digest in act.gone)
        gone = {one for act in acts for one in act.gone}
        use = next((act.snapshot for act in reversed(acts) if act.snapshot not in gone), None)
        raise RunFileError(
            f"snapshot {digest[:12]} is gone: scans of it were forgotten on {date[:10]}",
            where=store.uri(f"datasets/{dataset}/forgotten"),
            do=f"use snapshot {use or '(the newest)'}: set data.snapshot to it, or leave it out for the newest; a run "
            "that began to train on the former one has to be trained again under another name",
        )


def require_list(store: ObjectStore, dataset: str, folder: Path) -> Forgotten:
    """What packing must leave out. RunFileError where the owner's list does not have all acts, or one is not done."""
    known = read_list(folder)
    acts = {act.id: act for act in known.of(dataset)}
    missing = [record for record in read_forgotten(store, dataset) if record.act not in acts]
    if missing:
        scans = sum(record.scans for record in missing)
        raise RunFileError(
            f"{scans} scans of this data set were forgotten, and the list that keeps them out is not here",
            where=str(folder),
            do="restore forgotten.json in data.private from where `forget` was run, or from a backup",
        )
    if not all(act.done for act in acts.values()):
        raise RunFileError(
            "`forget` was interrupted: scans that must go may still be in storage",
            where=str(folder),
            do="run `medfuncta-dist forget RUN.yaml --yes`, which finishes it, then this command again",
        )
    return known.forgotten()
