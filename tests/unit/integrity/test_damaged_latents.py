"""Damage to a latent table: always noticed, and removed so that fit makes the very same bytes again."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.fitting.latent_ledger import KIND
from medfuncta_dist.integrity.damaged_latents import (
    DamagedRecord,
    find_damaged_records,
    range_of,
    remove_damaged_records,
)
from medfuncta_dist.latents.table_format import PartRef, read_part
from medfuncta_dist.storage.commit_record import read_record
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.kinds import KINDS
from tests.unit.latents.fitted import ready

POSITIONS = 100


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    run = ready(tmp_path_factory.mktemp("run"), request.param)
    fit(run, map_here)
    return run


@pytest.fixture
def store(run: RunFile) -> ObjectStore:
    return ObjectStore(run.storage)


def folder(run: RunFile) -> str:
    return locate_table(run, ObjectStore(run.storage)).folder


def objects(run: RunFile) -> dict[str, bytes]:
    store = ObjectStore(run.storage)
    return {info.path: store.read(info.path) for info in store.list(folder(run))}


def paths(run: RunFile, kind: str) -> list[str]:
    return [path for path in objects(run) if f"/{kind}/" in path]


def flipped(data: bytes, seed: int) -> bytes:
    bit = random.Random(seed).randrange(8 * len(data))
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_a_flipped_bit_of_a_commit_record_is_noticed_wherever_it_is(run, store):
    path = paths(run, "commits")[0]
    good = store.read(path)
    try:
        for seed in range(POSITIONS):
            store.write(path, flipped(good, seed))
            with pytest.raises(IntegrityError):
                latent_ledger.read_commits(store, folder(run))
    finally:
        store.write(path, good)


def test_a_flipped_bit_of_a_part_is_noticed_wherever_it_is(run, store):
    record = paths(run, "commits")[0]
    part = PartRef(**read_record(store, record, KIND)["part"])
    path = f"{folder(run)}/{part.path}"
    good = store.read(path)
    try:
        for seed in range(POSITIONS):
            store.write(path, flipped(good, seed))
            with pytest.raises(IntegrityError):
                read_part(store, folder(run), part)
    finally:
        store.write(path, good)


def spoilt(store: ObjectStore, path: str) -> None:
    store.write(path, flipped(store.read(path), 1))


def cut(store: ObjectStore, path: str) -> None:
    store.write(path, store.read(path)[:-7])


def lost(store: ObjectStore, path: str) -> None:
    store.delete(path)


@pytest.mark.parametrize(("kind", "how"), [("commits", spoilt), ("commits", cut), ("parts", spoilt), ("parts", lost)])
def test_what_is_damaged_is_removed_and_fit_makes_the_same_bytes_again(
    run: RunFile, store: ObjectStore, kind: str, how: Callable[[ObjectStore, str], None]
) -> None:
    before = objects(run)
    assert find_damaged_records(store, folder(run)) == []
    damaged = paths(run, kind)[2:4]
    for path in damaged:
        how(store, path)
    found = find_damaged_records(store, folder(run))
    assert len(found) == 2
    assert {damage.part or damage.record for damage in found} == set(damaged)
    assert remove_damaged_records(store, found, ALONE) == []
    ran: list[str] = []
    summary = fit(run, lambda task, items: map_here(lambda item: ran.append(item.name) or task(item), items))
    assert {name for name in before if any(name.endswith(f"/{n}.json") for n in ran)} == {d.record for d in found}
    assert summary.counts.fitted == summary.counts.packed
    assert objects(run) == before


def test_a_foreign_file_among_the_records_is_ignored_and_left(run, store):
    path = f"{folder(run)}/commits/notes.json"
    store.write(path, b"{}")
    try:
        assert find_damaged_records(store, folder(run)) == []
        assert store.exists(path)
    finally:
        store.delete(path)


@pytest.mark.parametrize("suffix", ["", "-g1795364716"])
def test_a_record_s_path_tells_its_range(suffix: str) -> None:
    name = f"{'a' * 24}-00000000-00000005"
    assert range_of(f"runs/r/latents/t/commits/{name}{suffix}.json") == name


def test_a_record_goes_before_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(ObjectStore, "delete", lambda store, path: order.append(path))
    record = f"{'a' * 24}-00000000-00000005-g1795364716.json"
    remove_damaged_records(ObjectStore(str(tmp_path)), [DamagedRecord(record, "", "parts/x.parquet")], ALONE)
    assert order == [record, "parts/x.parquet"]
