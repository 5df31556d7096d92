"""What must hold before latents leave the house: they decode to images of patients.

Never published: scans that are quarantined, forgotten, or packed although their file may name or show the patient
(``data.burned_in: keep``), and whatever was not checked against its record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from medfuncta_dist.config.kept_run_file import read_kept
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, LostObjectError, RunFileError
from medfuncta_dist.fitting.latent_ledger import Commit
from medfuncta_dist.packing.pack_record import PackRecord, StoredPack, each_pack
from medfuncta_dist.scans.private.private_folder import private_folder
from medfuncta_dist.shards.forgotten_record import require_list
from medfuncta_dist.shards.snapshot import Snapshot, dataset_path, read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.promised import REPAIR

ACKNOWLEDGEMENT = "latents decode to images"
READERS = 8


@dataclass(frozen=True)
class NeverPublished:
    """Keys of scans that must not be in a publication, by the reason."""

    quarantined: frozenset[str]
    released: frozenset[str]
    forgotten: frozenset[str]

    def require_left_out(self, leave_out: bool) -> None:
        """RunFileError where scans may name their patient, and nobody has said to leave them out."""
        if self.released and not leave_out:
            raise RunFileError(
                f"{len(self.released)} scans of the data set come from files that may name or show the patient, and "
                "were packed by data.burned_in: keep",
                where="data.burned_in",
                do="add --leave-out-burned-in, which publishes the others",
            )

    def require_none(self, keys: Iterable[str]) -> None:
        """IntegrityError where one of these keys, which are to be published, is quarantined or forgotten."""
        keys = set(keys)
        for reason, never in (("quarantined", self.quarantined), ("forgotten", self.forgotten)):
            if found := len(keys & never):
                raise IntegrityError(
                    f"{found} scans of the latent table are {reason}: nothing is published",
                    do="run the fit stage again, then `medfuncta-dist verify`",
                )


def require_acknowledged(said: str | None) -> None:
    """RunFileError unless the owner has written that the latents decode to images."""
    if said != ACKNOWLEDGEMENT:
        raise RunFileError(
            "whoever gets the latents and the network can decode images of the scans, as good as the PSNR says: "
            "publishing latents is publishing pictures of patients",
            where="--acknowledge",
            do=f'if you may publish the pictures themselves, add --acknowledge "{ACKNOWLEDGEMENT}"',
        )


def owners_folder(run: RunFile) -> Path:
    """The owner's private folder."""
    return private_folder(run.data.private, run.dataset, run.storage)


def never_published(store: ObjectStore, run: RunFile, snapshot: Snapshot, commits: Iterable[Commit]) -> NeverPublished:
    """Which scans must stay.

    Raises:
        RunFileError: a ``forget`` is not done, the owner's list of forgotten scans is missing, or nothing tells which
            scans ``data.burned_in: keep`` has packed.
    """
    entries = [*snapshot.quarantined, *(vars(scan) for commit in commits for scan in commit.quarantined)]
    return NeverPublished(
        frozenset(entry["key"] for entry in entries),
        released_scans(store, run, snapshot),
        forgotten_scans(store, run),
    )


def forgotten_scans(store: ObjectStore, run: RunFile) -> frozenset[str]:
    """Keys of the scans that the owner has forgotten. RunFileError where a ``forget`` is not done."""
    return require_list(store, run.dataset, owners_folder(run)).scans


def released_scans(store: ObjectStore, run: RunFile, snapshot: Snapshot) -> frozenset[str]:
    """Keys of the scans of files that may name or show their patient, as the snapshot's pack records tell.

    All scans of such a source count, also those of a series that has one such image. Records of earlier versions tell
    nothing: RunFileError where a run on the data set says ``keep`` and there are such records.
    """
    records = _records_of(store, snapshot)
    if any(not record.burned_in for record in records.values()) and _says_keep(store, run):
        raise RunFileError(
            "scans of this data set were packed by an earlier version, which did not record which of them "
            "data.burned_in: keep let in",
            where=store.uri(dataset_path(run.dataset, "packs")),
            do="pack the archive with this version under another data.dataset, and fit it there",
        )
    found: set[str] = set()
    for record in records.values():
        for shard in record.shards if record.released else ():
            index = read_index(store, shard)
            rows = zip(index["key"].to_pylist(), index["source"].to_pylist(), strict=True)
            found |= {key for key, source in rows if source in record.released}
    return frozenset(found)


def _records_of(store: ObjectStore, snapshot: Snapshot) -> Mapping[str, PackRecord]:
    """The snapshot's pack records, by name. LostObjectError where one is missing."""
    newest: dict[str, StoredPack] = {}
    for found in each_pack(store, snapshot.name):
        if found.record.name in snapshot.packs:
            newest[found.record.name] = max(newest.get(found.record.name, found), found, key=StoredPack.age)
    if lost := len(set(snapshot.packs) - newest.keys()):
        what = f"{lost} pack records of the snapshot are missing: nothing tells which scans may name their patient"
        raise LostObjectError(what, where=store.uri(dataset_path(snapshot.name, "packs")), do=f"{REPAIR}, then again")
    return {name: found.record for name, found in newest.items()}


def _says_keep(store: ObjectStore, run: RunFile) -> bool:
    """Whether this run file, or the kept one of any run on the data set, packs images that may name their patient."""

    def keeps(name: str) -> bool:
        kept = read_kept(store, name)
        return kept is not None and kept.dataset == run.dataset and kept.data.burned_in == "keep"

    if run.data.burned_in == "keep":
        return True
    with ThreadPoolExecutor(READERS) as pool:
        return any(pool.map(keeps, store.folders("runs")))
