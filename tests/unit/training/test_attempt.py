from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.errors import LeaseLostError
from medfuncta_dist.storage.leases.lease import Fence, first_lease, run_lease
from medfuncta_dist.storage.leases.lease_holder import this_process
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.training.attempt import Attempt, generations, next_attempt


def test_attempts_are_numbered_by_the_traces_that_earlier_ones_left(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    first = next_attempt(store, "r", fence=ALONE)
    assert first.generation == 1
    store.write(f"runs/r/events/{first.name}.jsonl", b"")
    second = next_attempt(store, "r", fence=ALONE)
    assert second.generation == 2
    store.write(f"runs/r/checkpoints/000000010-{second.name}/rank-0-of-1.safetensors", b"")
    third = next_attempt(store, "r", fence=ALONE)
    assert third.generation == 3
    assert first.name < second.name < third.name
    assert next_attempt(store, "other", fence=ALONE).generation == 1


def test_two_that_believe_to_be_the_same_attempt_do_not_share_a_name(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    names = {next_attempt(store, "r", fence=ALONE).name for _ in range(8)}
    assert len(names) > 1


def test_other_names_have_no_generation() -> None:
    assert generations(
        ["commits", "README", "000003-20260711T101500-9f3a", "000000010-000004-20260711T101500-9f3a"]
    ) == [3, 4]


def test_a_later_driver_s_attempts_are_above_all_of_an_earlier_one(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    earlier = [_as_holder(store, token=7) for _ in range(3)]
    later = _as_holder(store, token=8)
    assert [attempt.generation for attempt in earlier] == [70_001, 70_002, 70_003]
    assert later.generation == 80_001
    assert earlier[-1].name < later.name


def test_a_driver_that_lost_its_lease_starts_no_attempt(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    _as_holder(store, token=8)
    fence = Fence(run_lease("r"), 7, "me")
    with pytest.raises(LeaseLostError):
        next_attempt(store, "r", fence)


def _as_holder(store: ObjectStore, token: int) -> Attempt:
    holder = this_process()
    store.write(run_lease("r"), first_lease(token, holder, ttl=60).to_bytes())
    attempt = next_attempt(store, "r", Fence(run_lease("r"), token, holder.id))
    store.write(f"runs/r/events/{attempt.name}.jsonl", b"")
    return attempt
