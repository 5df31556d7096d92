from __future__ import annotations

import json
from pathlib import Path

import pytest

from medfuncta_dist.integrity.repair_checkpoints import remove_damaged_checkpoints
from medfuncta_dist.storage.digest import canonical_json, digest_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from tests.unit.training.checkpoints.test_checkpoint import checkpoints, objects, restored_step, save

STEPS = (1, 2, 3)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    store = ObjectStore(str(tmp_path))
    for step in STEPS:
        save(checkpoints(store, keep=3), step)
    return store


def cut(store: ObjectStore, path: str) -> None:
    store.write(path, store.read(path)[:-9])


def of_step(paths: list[str], step: int) -> list[str]:
    return [path for path in paths if f"/{step:09d}-" in path or f"/{step:012d}-" in path]


@pytest.mark.parametrize("what", ["commits", "rank-0"])
def test_damaged_checkpoints_go_while_a_whole_one_is_left(store: ObjectStore, what: str) -> None:
    before = set(objects(store, ""))
    damaged = [path for step in (1, 3) for path in of_step(objects(store, what), step)]
    assert len(damaged) == 2
    for path in damaged:
        cut(store, path)
    assert len(remove_damaged_checkpoints(store, "r", ALONE)) == 2
    assert set(objects(store, "")) == set(of_step(sorted(before), 2))
    assert restored_step(store) == 2


def test_the_last_ones_stay_when_all_are_damaged(store: ObjectStore) -> None:
    for path in objects(store, "rank-1"):
        cut(store, path)
    before = objects(store, "")
    assert remove_damaged_checkpoints(store, "r", ALONE) == []
    assert objects(store, "") == before


def test_whole_ones_and_those_of_another_version_stay(store: ObjectStore) -> None:
    record = of_step(objects(store, "commits"), 3)[0]
    changed = {**json.loads(store.read(record)), "format_version": 7}
    del changed["digest"]
    store.write(record, canonical_json(changed | {"digest": digest_json(changed)}))
    before = objects(store, "")
    assert remove_damaged_checkpoints(store, "r", ALONE) == []
    assert objects(store, "") == before
