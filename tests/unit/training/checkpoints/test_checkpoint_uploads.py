from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from medfuncta_dist.errors import DeadlineError, LeaseLostError, StorageError
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, Unfenced
from medfuncta_dist.training.attempt import Attempt
from medfuncta_dist.training.checkpoints import checkpoint_uploads
from medfuncta_dist.training.checkpoints.checkpoint import Checkpoints, Facts
from medfuncta_dist.training.checkpoints.checkpoint_uploads import CheckpointUploader, UploadOutcome
from medfuncta_dist.training.checkpoints.training_state import AdamState, State

SHAPES = {"layer.1.weight": (3, 2), "layer.1.bias": (3,)}
ATTEMPT = Attempt(1, "0000000001-20260101T000000-aaaa")


class ShareExchange:
    """What the mailbox's actor does for the ranks of one attempt."""

    def __init__(self) -> None:
        self._files: dict[int, dict[int, Any]] = {}

    def submit_share(self, step: int, rank: int, file: Any) -> None:
        self._files.setdefault(step, {})[rank] = file

    def submitted_shares(self, step: int) -> dict[int, Any]:
        return dict(self._files.get(step, {}))


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "store"))


def share(rank: int) -> State:
    name = list(SHAPES)[rank]
    return {name: AdamState(*(torch.full(SHAPES[name], float(part)) for part in range(3)))}


def facts(step: int) -> Facts:
    return Facts(step, 0, step, "d" * 64, "r" * 64, "f" * 64, zero_stage=1, world_size=2, code_version="0")


def ranks(
    store: ObjectStore, before_commit: Any = lambda: None, fence: Fence | Unfenced = ALONE
) -> list[CheckpointUploader]:
    exchange = ShareExchange()
    checkpoints = [Checkpoints(store, "r", ATTEMPT, keep=2, fence=fence) for _ in range(2)]
    return [CheckpointUploader(checkpoints[rank], exchange, rank, 2, before_commit) for rank in range(2)]


def waited(uploads: CheckpointUploader) -> UploadOutcome:
    outcome = uploads.wait(lambda: None)
    assert outcome is not None
    return outcome


def restored(store: ObjectStore) -> int | None:
    found = Checkpoints(store, "r", Attempt(2, "0000000002-20260101T000000-bbbb"), 2, fence=ALONE).restore_latest(
        SHAPES, print
    )
    return None if found is None else found.facts.step


@contextmanager
def no_space(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: a write then fails half done, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_training_goes_on_while_a_checkpoint_is_under_way(store: ObjectStore) -> None:
    go_on = threading.Event()
    first, second = ranks(store, before_commit=go_on.wait)
    first.start(facts(5), share(0))
    second.start(facts(5), share(1))
    assert waited(second).failure is None
    assert first.poll() is None
    assert restored(store) is None, "committed before all was ready"
    go_on.set()
    alive: list[int] = []
    outcome = first.wait(lambda: alive.append(1))
    assert outcome is not None
    assert (outcome.step, outcome.failure, len(alive) > 0) == (5, None, True)
    assert restored(store) == 5
    assert first.wait(lambda: None) is None
    assert first.poll() is None


def test_rank_0_waits_for_the_slowest_rank_and_commits_nothing_partial(store: ObjectStore) -> None:
    first, second = ranks(store)
    first.start(facts(5), share(0))
    time.sleep(0.3)
    assert first.poll() is None
    assert restored(store) is None
    second.start(facts(5), share(1))
    assert waited(first).failure is None
    assert restored(store) == 5


@pytest.mark.parametrize("without_space", [0, 1])
def test_a_full_disk_commits_nothing_and_the_next_checkpoint_counts(store: ObjectStore, without_space: int) -> None:
    both = ranks(store)
    for rank in range(2):
        both[rank].start(facts(5), share(rank))
    assert [waited(uploads).failure for uploads in both] == [None, None]
    with no_space(64):
        both[without_space].start(facts(10), share(without_space))
        failed = waited(both[without_space])
    both[1 - without_space].start(facts(10), share(1 - without_space))
    other = waited(both[1 - without_space])
    assert isinstance(failed.failure, StorageError)
    assert isinstance((failed, other)[without_space].failure, StorageError), "rank 0 says it, whoever it was"
    assert restored(store) == 5
    for rank in range(2):
        both[rank].start(facts(15), share(rank))
    assert waited(both[0]).failure is None
    assert restored(store) == 15
    assert not [info.path for info in store.list("runs/r/checkpoints") if "000000010" in info.path]


def test_a_driver_that_lost_its_lease_commits_nothing_and_stops(store: ObjectStore) -> None:
    first, second = ranks(store, fence=Fence("runs/r/lease.json", 1, "someone"))
    first.start(facts(5), share(0))
    second.start(facts(5), share(1))
    with pytest.raises(LeaseLostError):
        first.wait(lambda: None)
    assert restored(store) is None


class OutOfReach(ObjectStore):
    """Storage that stops answering for the lease alone: an outage exactly at the commit."""

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        if path.endswith("lease.json"):
            raise DeadlineError("storage does not answer")
        return super().read(path, limit=limit)


def test_an_outage_at_the_commit_is_one_failed_upload_and_no_lost_lease(store: ObjectStore) -> None:
    first, second = ranks(OutOfReach(store.root), fence=Fence("runs/r/lease.json", 1, "someone"))
    first.start(facts(5), share(0))
    second.start(facts(5), share(1))
    assert isinstance(waited(first).failure, DeadlineError)
    assert restored(store) is None


def test_old_checkpoints_that_stay_are_a_remark_not_a_failure(store: ObjectStore, tmp_path: Path) -> None:
    first, second = ranks(store)
    for step in (5, 10):
        first.start(facts(step), share(0))
        second.start(facts(step), share(1))
        assert waited(first).failure is None
        waited(second)
    stuck = next((tmp_path / "store/runs/r/checkpoints/commits").glob("000000005*"))
    stuck.unlink()
    stuck.mkdir()
    (stuck / "x.json").write_bytes(b"{}")
    first.start(facts(15), share(0))
    second.start(facts(15), share(1))
    outcome = waited(first)
    assert outcome.failure is None
    assert restored(store) == 15


def test_an_upload_is_under_way_until_it_is_over_whether_or_not_somebody_looked(store: ObjectStore) -> None:
    goes = threading.Event()
    [first, second] = ranks(store, before_commit=lambda: goes.wait(30))
    assert not first.running
    first.start(facts(5), share(0))
    second.start(facts(5), share(1))
    assert first.running
    goes.set()
    deadline = time.monotonic() + 30
    while first.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not first.running
    assert waited(first).step == 5


def test_waiting_for_a_storage_that_never_answers_ends_the_signs_of_life(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_uploads, "SLOW_PHASE_S", 0.3)
    goes = threading.Event()
    [first, second] = ranks(store, before_commit=lambda: goes.wait(30))
    first.start(facts(5), share(0))
    second.start(facts(5), share(1))
    signs: list[float] = []
    threading.Timer(1.5, goes.set).start()
    began = time.monotonic()
    assert first.wait(lambda: signs.append(time.monotonic())) is not None
    assert time.monotonic() - began > 1
    assert 1 <= len(signs) <= 4
    assert max(signs) - began < 0.7
