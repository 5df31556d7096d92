from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medfuncta_dist.errors import FormatVersionError, IntegrityError, LeaseLostError
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.training.attempt import Attempt
from medfuncta_dist.training.checkpoints.checkpoint import Checkpoints, Facts
from medfuncta_dist.training.checkpoints.training_state import AdamState, State

SHAPES = {"layer.1.weight": (3, 2), "layer.1.bias": (3,), "modulation.2.bias": (1,)}
FIRST, SECOND = Attempt(1, "000001-20260101T000000-aaaa"), Attempt(2, "000002-20260101T000000-bbbb")


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    new_root: Callable[[], str] = (
        request.getfixturevalue("s3") if request.param == "s3" else lambda: str(tmp_path / "store")
    )
    return ObjectStore(new_root())


def checkpoints(store: ObjectStore, attempt: Attempt = FIRST, keep: int = 2) -> Checkpoints:
    return Checkpoints(store, "r", attempt, keep, fence=ALONE)


def state(step: int) -> State:
    generator = torch.Generator().manual_seed(step)
    return {
        name: AdamState(*(torch.rand(shape, generator=generator) for _ in range(3))) for name, shape in SHAPES.items()
    }


def facts(step: int) -> Facts:
    return Facts(step, 0, step, "d" * 64, "r" * 64, "f" * 64, zero_stage=1, world_size=2, code_version="0")


def save(to: Checkpoints, step: int) -> None:
    """As two ranks do: every second parameter each."""
    shares = [dict(list(state(step).items())[rank::2]) for rank in range(2)]
    to.commit(facts(step), [to.write_share(step, rank, 2, share) for rank, share in enumerate(shares)])
    to.retain(step)


def restored_step(store: ObjectStore, said: list[str] | None = None) -> int | None:
    found = checkpoints(store, SECOND).restore_latest(SHAPES, (said if said is not None else []).append)
    if found is None:
        return None
    for name, whole in state(found.facts.step).items():
        for part, tensor in vars(whole).items():
            assert torch.equal(getattr(found.state[name], part), tensor)
    return found.facts.step


def objects(store: ObjectStore, part: str) -> list[str]:
    return [info.path for info in store.list("runs/r/checkpoints") if part in info.path]


def damage(store: ObjectStore, path: str) -> None:
    data = bytearray(store.read(path))
    data[len(data) // 2] ^= 1
    store.write(path, bytes(data))


def test_the_newest_comes_back_whole(store: ObjectStore) -> None:
    assert restored_step(store) is None
    for step in (5, 10):
        save(checkpoints(store), step)
    assert restored_step(store) == 10


def test_what_has_no_commit_record_does_not_exist(store: ObjectStore) -> None:
    save(checkpoints(store), 5)
    checkpoints(store).write_share(10, 0, 2, state(10))
    assert restored_step(store) == 5


@pytest.mark.parametrize("part", ["000000010-000001-20260101T000000-aaaa/rank-1", "commits/000000010"])
def test_a_damaged_one_is_passed_over_and_said(store: ObjectStore, part: str) -> None:
    for step in (5, 10):
        save(checkpoints(store), step)
    [path] = objects(store, part)
    damage(store, path)
    said: list[str] = []
    assert restored_step(store, said) == 5
    assert len(said) == 1
    assert "000000010" in said[0]


def test_a_missing_file_is_damage_too(store: ObjectStore) -> None:
    for step in (5, 10):
        save(checkpoints(store), step)
    store.delete(objects(store, "000000010-000001-20260101T000000-aaaa/rank-0")[0])
    assert restored_step(store) == 5


def test_nothing_whole_left_is_an_error_not_a_new_beginning(store: ObjectStore) -> None:
    save(checkpoints(store), 5)
    damage(store, objects(store, "/rank-0")[0])
    with pytest.raises(IntegrityError, match="none of the 1"):
        restored_step(store)


def test_a_later_attempt_wins_over_a_higher_step_of_an_earlier_one(store: ObjectStore) -> None:
    save(checkpoints(store, FIRST), 20)
    save(checkpoints(store, SECOND), 10)
    assert restored_step(store) == 10


def test_only_the_newest_are_kept_and_abandoned_files_go(store: ObjectStore) -> None:
    checkpoints(store).write_share(3, 0, 2, state(3))
    for step in (5, 10, 15):
        save(checkpoints(store), step)
    assert [path.split("/")[4][:9] for path in objects(store, "/commits/")] == ["000000010", "000000015"]
    assert {path.split("/")[3][:9] for path in objects(store, "/rank-")} == {"000000010", "000000015"}


def test_a_damaged_one_never_takes_the_place_of_a_good_one(store: ObjectStore) -> None:
    for step in (5, 10):
        save(checkpoints(store), step)
    damage(store, objects(store, "000000010-000001-20260101T000000-aaaa/rank-1")[0])
    second = checkpoints(store, SECOND)
    assert second.restore_latest(SHAPES, print) is not None
    save(second, 7)
    assert [path.split("/")[4][:16] for path in objects(store, "/commits/")] == ["000000005-000001", "000000007-000002"]


def test_what_a_later_attempt_writes_is_left_alone(store: ObjectStore) -> None:
    checkpoints(store, SECOND).write_share(30, 0, 2, state(30))
    save(checkpoints(store, FIRST), 5)
    assert len(objects(store, "000000030")) == 1


def test_files_that_are_not_checkpoints_are_left_alone(store: ObjectStore) -> None:
    store.write("runs/r/checkpoints/README.txt", b"mine")
    save(checkpoints(store), 5)
    assert store.read("runs/r/checkpoints/README.txt") == b"mine"


def test_an_unknown_version_is_refused_by_name(store: ObjectStore) -> None:
    for step in (5, 10):
        save(checkpoints(store), step)
    [path] = objects(store, "commits/000000010")
    record = json.loads(store.read(path))
    del record["digest"]
    record["format_version"] = 7
    store.write(path, json.dumps({**record, "digest": digest_json(record)}).encode())
    with pytest.raises(FormatVersionError, match="7"):
        restored_step(store)


def test_another_network_s_checkpoint_is_refused(store: ObjectStore) -> None:
    save(checkpoints(store), 5)
    [record] = objects(store, "/commits/")
    with pytest.raises(IntegrityError, match="tensors are not those of this network"):
        checkpoints(store).load(record, {**SHAPES, "layer.9.bias": (2,)})
    with pytest.raises(IntegrityError, match="not float32 of shape"):
        checkpoints(store).load(record, {**SHAPES, "layer.1.bias": (4,)})


def test_old_age_removes_all_but_the_newest(store: ObjectStore) -> None:
    old = time.time() - 7200
    to = Checkpoints(store, "r", FIRST, keep=3, keep_s=3600, fence=ALONE)
    for step, written in ((5, old), (10, time.time()), (15, old)):
        to.commit(replace(facts(step), written=written), [to.write_share(step, 0, 1, state(step))])
        to.retain(step)
    assert [path.split("/")[4][:9] for path in objects(store, "/commits/")] == ["000000010", "000000015"]


def test_files_of_a_later_step_of_this_attempt_are_left_alone(store: ObjectStore) -> None:
    it = checkpoints(store)
    it.write_share(10, 1, 2, state(10))
    save(it, 5)
    assert len(objects(store, "/rank-1")) == 2


@pytest.mark.parametrize("device", ["", "NVIDIA A100-SXM4-80GB"])
def test_a_record_tells_the_device_where_it_is_known_and_opens_without(store: ObjectStore, device: str) -> None:
    to = checkpoints(store, FIRST)
    to.commit(replace(facts(5), device=device), [to.write_share(5, 0, 1, state(5))])
    [record] = objects(store, "commits")
    assert (b"device" in store.read(record)) is bool(device)
    found = to.load(record, SHAPES)
    assert found.facts.device == device


def test_no_record_is_written_past_a_lost_lease(store: ObjectStore) -> None:
    it = Checkpoints(store, "r", FIRST, 2, fence=Fence("runs/r/lease.json", 1, "someone"))
    with pytest.raises(LeaseLostError):
        it.commit(facts(5), [it.write_share(5, 0, 1, state(5))])
    assert objects(store, "/commits/") == []


class DamagingOnce(ObjectStore):
    """A network that damages the first transfer of every object."""

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        data, seen = super().read(path, limit=limit), self.__dict__.setdefault("seen", set())
        if path in seen:
            return data
        seen.add(path)
        return data[:-1] + bytes([data[-1] ^ 1])


def test_what_a_transfer_has_damaged_is_read_once_more(store: ObjectStore) -> None:
    for step in (5, 10):
        save(checkpoints(store), step)
    said: list[str] = []
    assert restored_step(DamagingOnce(store.root), said) == 10
    assert said == []


def test_damage_says_what_to_do(store: ObjectStore) -> None:
    save(checkpoints(store), 5)
    damage(store, objects(store, "/rank-0")[0])
    [record] = objects(store, "/commits/")
    with pytest.raises(IntegrityError) as caught:
        checkpoints(store).load(record, SHAPES)
    assert "verify --repair" in caught.value.do


def test_a_late_driver_removes_nothing_that_its_successor_may_be_restoring(store: ObjectStore) -> None:
    for step in (5, 10):
        save(checkpoints(store), step)
    late = Checkpoints(store, "r", FIRST, 1, fence=Fence("runs/r/lease.json", 1, "someone"))
    with pytest.raises(LeaseLostError):
        late.retain(10)
    assert len(objects(store, "/commits/")) == 2
