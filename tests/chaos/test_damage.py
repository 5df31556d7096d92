"""One bit flipped at 100 random positions of every kind of file that is read again, and shards that are cut short.

Noticed before use each time; what follows is counted: a checkpoint is passed over, a range of scans quarantined.
"""

from __future__ import annotations

import os
import random
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.integrity.damaged_latents import find_damaged_records
from medfuncta_dist.shards.snapshot import Shard, load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache
from medfuncta_dist.task_map import map_here
from medfuncta_dist.training.attempt import Attempt
from medfuncta_dist.training.checkpoints.checkpoint import Checkpoints, Facts
from medfuncta_dist.training.checkpoints.training_state import AdamState
from tests.kinds import KINDS
from tests.unit.latents.fitted import COUNTS, ready

pytestmark = pytest.mark.fault("damage")

POSITIONS = 100
PLENTY = 10**9
SHAPES = {"layer.1.weight": (30, 20)}
Measured = Callable[[str], None]
BEFORE_ANY_FIELD = pytest.mark.parametrize("place", ["siren"], indirect=True)
"""For what is read of a shard, the same whatever kind of field comes after."""


@dataclass(frozen=True)
class Place:
    """A finished small run in a local folder."""

    run: RunFile
    storage: Path

    @property
    def store(self) -> ObjectStore:
        return ObjectStore(str(self.storage))

    def shard(self) -> Shard:
        return load_snapshot(self.store, "small", None).shards("train")[0]


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("run")
    run = ready(folder, request.param, data={"max_quarantined": 0.9})
    fit(run, map_here)
    return Place(run, folder / "storage")


@contextmanager
def changed(path: Path, data: bytes) -> Iterator[None]:
    """The file holds this for the time of the block."""
    good = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(good)


def flips(data: bytes, first: int = 0, last: int | None = None) -> Iterator[bytes]:
    """``data`` with one bit flipped, at 100 random positions of its bytes from ``first`` to ``last``."""
    chance = random.Random(len(data))
    for _ in range(POSITIONS):
        place, bit = chance.randrange(first, len(data) if last is None else last), chance.randrange(8)
        yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def read_all(place: Place, cache: Path) -> int:
    """All scans of one shard, through a cache."""
    shard = place.shard()
    reader = SampleReader(place.store, [shard], ShardCache(place.store, cache, PLENTY))
    try:
        return len([reader.read(SampleId(0, row)) for row in range(shard.samples)])
    finally:
        reader.close()


@BEFORE_ANY_FIELD
@pytest.mark.parametrize("part", ["shard", "index"])
def test_a_shard_in_storage(place: Place, part: str, tmp_path: Path, measured: Measured) -> None:
    shard = place.shard()
    path = place.storage / (shard.uri if part == "shard" else shard.index_uri)
    noticed = 0
    for nth, data in enumerate(flips(path.read_bytes())):
        with changed(path, data), pytest.raises(IntegrityError):
            read_all(place, tmp_path / str(nth))
        noticed += 1
    assert read_all(place, tmp_path / "good") == shard.samples
    measured(f"{part}: {noticed} of {POSITIONS} flips noticed")


@BEFORE_ANY_FIELD
def test_a_shard_in_the_cache_after_it_was_proved(place: Place, tmp_path: Path, measured: Measured) -> None:
    """A disk that rots: size and times are the same, so it rests on the checksum of each sample."""
    assert read_all(place, tmp_path) == place.shard().samples
    [file] = tmp_path.glob("*.tar")
    status, noticed = file.stat(), 0
    with tarfile.open(file) as tar:
        member = max(tar.getmembers(), key=lambda member: member.size)
    for data in flips(file.read_bytes(), member.offset_data, member.offset_data + member.size):
        with changed(file, data):
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
            with pytest.raises(IntegrityError, match="CRC-32C"):
                read_all(place, tmp_path)
        noticed += 1
    measured(f"sample in a proved cache: {noticed} of {POSITIONS}")


@pytest.mark.parametrize("at", ["inside a member", "at a member's border"])
def test_a_shard_cut_short_is_told_and_its_scans_counted(place: Place, at: str, measured: Measured) -> None:
    """Everything else is fitted; the next run, with the shard restored, fits the rest."""
    shard = place.shard()
    path = place.storage / shard.uri
    with tarfile.open(path) as tar:
        border = tar.getmembers()[4].offset
    table = locate_table(place.run, place.store).folder
    for record in (place.storage / table / "commits").glob("*.json"):
        record.unlink()
    for cached in Path(place.run.cluster.cache or "").glob("*.tar"):
        cached.unlink()
    with changed(path, path.read_bytes()[: border + (100 if at == "inside a member" else 0)]):
        counts = fit(place.run, map_here).counts
    assert counts.packed == sum(COUNTS.values())
    assert (counts.fitted, counts.quarantined) == (counts.packed - shard.samples, shard.samples)
    again = fit(place.run, map_here).counts
    assert (again.fitted, again.quarantined) == (counts.packed, 0)
    measured(f"cut {at}: its {shard.samples} scans quarantined, {counts.fitted} of {counts.packed} fitted")


@pytest.mark.parametrize("kind", ["parts", "commits"])
def test_a_latent_part_or_its_record(place: Place, kind: str, measured: Measured) -> None:
    folder = locate_table(place.run, place.store).folder
    path = sorted((place.storage / folder / kind).iterdir())[0]
    noticed = 0
    for data in flips(path.read_bytes()):
        with changed(path, data):
            assert len(find_damaged_records(place.store, folder)) == 1
            with pytest.raises(IntegrityError):
                latent_ledger.load_table(place.store, folder)
        noticed += 1
    assert latent_ledger.load_table(place.store, folder).num_rows == sum(COUNTS.values())
    measured(f"latent {kind}: {noticed} of {POSITIONS}")


@pytest.mark.parametrize("part", ["0*/*.safetensors", "commits/*.json"])
def test_a_checkpoint_or_its_record(part: str, tmp_path: Path, measured: Measured) -> None:
    """The one before is used, and the user gets a message."""
    store, attempt = ObjectStore(str(tmp_path)), Attempt(1, "0000000001-20260101T000000-aaaa")
    checkpoints = Checkpoints(store, "r", attempt, keep=5, fence=ALONE)
    for step in (10, 20):
        state = {name: AdamState(*(torch.rand(shape) for _ in range(3))) for name, shape in SHAPES.items()}
        facts = Facts(step, 0, step, "d" * 64, "r" * 64, "f" * 64, zero_stage=0, world_size=1, code_version="0")
        checkpoints.commit(facts, [checkpoints.write_share(step, 0, 1, state)])
    path, passed_over = sorted((tmp_path / "runs/r/checkpoints").glob(part))[-1], 0
    for data in flips(path.read_bytes()):
        said: list[str] = []
        with changed(path, data):
            found = checkpoints.restore_latest(SHAPES, said.append)
        assert found is not None
        assert found.facts.step == 10
        assert "damaged" in said[0]
        passed_over += 1
    found = checkpoints.restore_latest(SHAPES, print)
    assert found is not None
    assert found.facts.step == 20
    measured(f"checkpoint {'file' if 'safetensors' in part else 'record'}: {passed_over} of {POSITIONS} passed over")
