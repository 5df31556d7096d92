"""Random archives that change at random, packed after every few changes: whatever has happened, what is packed is what
a first pack of the archive as it is now would give, no patient is in two splits, and no name leaves the owner's folder.

MEDFUNCTA_CHAOS=full tries many more archives; MEDFUNCTA_SEED=N tries the one that failed.
"""

from __future__ import annotations

import io
import logging
import os
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.forget.forget_driver import Asked, forget, open_place
from medfuncta_dist.integrity.repair_shards import repair_shards
from medfuncta_dist.integrity.verify_shards import verify_snapshot
from medfuncta_dist.packing.pack_driver import PackSummary, pack
from medfuncta_dist.packing.pack_preview import preview_pack
from medfuncta_dist.shards.sample import decode
from medfuncta_dist.shards.snapshot import Shard, load_snapshot, read_index
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import Done, Failed, FanOut, map_here
from tests.chaos.random_archive import KINDS, SECRETS, RandomArchive
from tests.mapping_rows import read_mapping

pytestmark = pytest.mark.fault("random-archive")

FULL = os.environ.get("MEDFUNCTA_CHAOS") == "full"
SEEDS = [int(os.environ["MEDFUNCTA_SEED"])] if "MEDFUNCTA_SEED" in os.environ else range(60 if FULL else 3)
ROUNDS = 4


class Packed(NamedTuple):
    """A packed scan: ``values`` is the digest of its sample."""

    split: str
    group: str | None
    values: str


class Killed(BaseException):
    """Ends a pack as a signal does."""


class Packing:
    """A data set of the archive, with settings drawn at random."""

    def __init__(self, archive: RandomArchive, folder: Path, rng: random.Random, kind: str) -> None:
        self.archive, self.folder, self.rng = archive, folder, rng
        self.settings: dict[str, Any] = {
            "source": str(archive.folder),
            "shape": [8, 8, 4] if kind == "volumes" else [8, 8],
            "aspect": "stretch",
            "max_quarantined": 1.0,
            "removed": "drop",
            "fractions": {"train": 0.5, "val": 0.25, "test": 0.25},
            "sources_per_task": rng.choice([1, 3, 256]),
            "shard_scans": rng.choice([2, 5, 1024]),
            "look_alikes": "off",
        } | ({"slices": {"axis": 2}} if kind == "slices" else {})
        self.run, self.store = self._run("store"), ObjectStore(str(folder / "store"))

    def _run(self, name: str) -> RunFile:
        private = self.folder / f"{name}-private"
        private.mkdir(parents=True, exist_ok=True)
        (private / "salt").write_text("5e" * 32)
        data = self.settings | {"private": str(private)}
        return RunFile.model_validate({"name": "random", "storage": str(self.folder / name), "data": data})

    def killed(self) -> None:
        """Pack, and end it in the middle where it has a middle."""

        def fan_out(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
            for outcome in map_here(task, items):
                yield outcome
                if self.rng.random() < 0.5:
                    raise Killed

        with suppress(Killed):
            pack(self.run, fan_out, lambda report: None)

    def packed(self, fan_out: FanOut = map_here) -> PackSummary:
        """Pack as planned."""
        planned = preview_pack(self.run, lambda done, total: None)
        summary = pack(self.run, fan_out, lambda report: None)
        assert planned.changes == summary.changes
        return summary

    def scans(self, run: RunFile | None = None) -> dict[str, Packed]:
        """What the newest snapshot holds, read from its shards, by key."""
        run = run or self.run
        store, found = ObjectStore(run.storage), {}
        for split, shards in load_snapshot(store, run.dataset, None).splits.items():
            for shard in shards:
                tar = store.read(shard.uri)
                for row in read_index(store, shard).to_pylist():
                    npy, info = (tar[row[f"{m}_offset"] :][: row[f"{m}_length"]] for m in ("npy", "json"))
                    decode(row["key"], npy, info)
                    assert row["key"] not in found
                    found[row["key"]] = Packed(split, row["group"], sha256_bytes(npy))
        return found

    def afresh(self) -> dict[str, Packed]:
        """What a first pack of the archive as it is now gives."""
        for name in ("fresh", "fresh-private"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        run = self._run("fresh")
        pack(run, map_here, lambda report: None)
        return self.scans(run)

    def uris(self) -> dict[str, str]:
        """The owner's mapping: files by key."""
        return {row.key: row.uri for row in read_mapping(self.folder / "store-private")}

    def shards(self) -> list[Shard]:
        """Those of the newest snapshot."""
        return [
            shard for shards in load_snapshot(self.store, self.run.dataset, None).splits.values() for shard in shards
        ]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_living_archive_is_packed_as_it_is(seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rng = random.Random(seed)
    kind = sorted(KINDS)[seed % len(KINDS)]
    archive = RandomArchive(tmp_path / "archive", rng, KINDS[kind])
    for _ in range(rng.choice([4, 8])):
        archive.add()
    data_set = Packing(archive, tmp_path, rng, kind)
    forgotten: set[str] = set()
    for _ in range(ROUNDS):
        for _ in range(rng.choice([1, 2, 4])):
            archive.change()
        if rng.random() < 0.3:
            data_set.killed()
            archive.change()
        summary = data_set.packed()
        scans = data_set.scans()
        require_counts(summary, scans)
        require_nothing_to_do(data_set, summary)
        require_as_afresh(data_set, scans, forgotten)
        require_patients_apart(data_set, scans)
        if rng.random() < 0.4:
            require_repaired(data_set)
        if rng.random() < 0.3 and len(scans) > 3:
            forgotten |= require_forgotten(data_set, scans)
        require_no_name(data_set, caplog.text)


def require_counts(summary: PackSummary, scans: dict[str, Packed]) -> None:
    counts = summary.counts
    assert counts["packed"] == len(scans)
    assert counts["sources"] == counts["sources_packed"] + counts["sources_quarantined"]


def require_nothing_to_do(data_set: Packing, summary: PackSummary) -> None:
    def none(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        assert not list(items)
        return iter(())

    again = data_set.packed(none)
    assert (again.snapshot_digest, again.new_sources) == (summary.snapshot_digest, 0)
    assert not any(again.changes[name] for name in ("changed", "renamed", "removed"))


def require_as_afresh(data_set: Packing, scans: dict[str, Packed], forgotten: set[str]) -> None:
    """Of several files with the same bytes, one is packed: which, and so whose it is, depends on what came first. A
    series that is scattered over folders of several patients stays as it was; a first pack quarantines it."""
    archive, uris = data_set.archive, data_set.uris()
    told = [scan for key, scan in scans.items() if len(archive.owners(archive.unit_of(Path(uris[key])))) == 1]
    fresh = [scan for scan in data_set.afresh().values() if scan.values not in forgotten]
    if archive.copies:
        assert Counter(scan.values for scan in told) == Counter(scan.values for scan in fresh)
    else:
        assert Counter(told) == Counter(fresh)


def require_patients_apart(data_set: Packing, scans: dict[str, Packed]) -> None:
    """As the indexes say, and as the archive knows it, where its folders tell it."""
    splits = defaultdict(set)
    uris = data_set.uris()
    for key, scan in scans.items():
        splits[scan.group].add(scan.split)
        owners = data_set.archive.owners(data_set.archive.unit_of(Path(uris[key])))
        if len(owners) == 1:
            splits[min(owners)].add(scan.split)
    assert not {who: found for who, found in splits.items() if len(found) > 1}


def require_repaired(data_set: Packing) -> None:
    """Shards that are lost or damaged come back with the same bytes."""
    store, rng = data_set.store, data_set.rng
    shards = data_set.shards()
    chosen = rng.sample(shards, min(len(shards), 2))
    before = {path: store.read(path) for shard in chosen for path in (shard.uri, shard.index_uri)}
    for shard in chosen:
        path = Path(store.root, rng.choice([shard.uri, shard.index_uri]))
        damaged = bytearray(path.read_bytes())
        damaged[rng.randrange(len(damaged))] ^= 255
        path.unlink()
        if rng.random() < 0.5:
            path.write_bytes(bytes(damaged))
    snapshot = load_snapshot(store, data_set.run.dataset, None)
    assert verify_snapshot(store, snapshot, map_here, lambda report: None)
    assert not repair_shards(data_set.run, snapshot, {shard.uri for shard in chosen}, map_here, ALONE)
    assert {path: store.read(path) for path in before} == before


def require_forgotten(data_set: Packing, scans: dict[str, Packed]) -> set[str]:
    """One scan is forgotten, and the next pack does not bring it back; digests of what may not come back."""
    held = Counter(scan.values for scan in scans.values())
    key = data_set.rng.choice(sorted(key for key, scan in scans.items() if held[scan.values] == 1))
    data_set.archive.unit_of(Path(data_set.uris()[key])).settled = True
    forget(open_place(data_set.run), Asked((key,)), map_here)
    left = {k: scan for k, scan in scans.items() if k != key}
    assert data_set.scans() == left
    data_set.packed()
    assert data_set.scans() == left
    assert key not in data_set.uris()
    return {scans[key].values}


def require_no_name(data_set: Packing, log: str) -> None:
    texts = {"the log": log}
    for info in data_set.store.list(""):
        data = data_set.store.read(info.path)
        table = info.path.endswith(".parquet")
        texts[info.path] = info.path + (
            str(pq.read_table(io.BytesIO(data)).to_pylist()) if table else data.decode("latin1")
        )
    assert not [(where, secret) for where, text in texts.items() for secret in SECRETS if secret in text]
