"""Leases: taken, kept, refused, taken over, and never held twice. A local folder is a store that honours conditions."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medfuncta_dist.errors import IntegrityError, LeaseLostError, RunHeldError
from medfuncta_dist.storage.leases.lease import Fence, first_lease, parse_lease
from medfuncta_dist.storage.leases.lease_claim import Claim, take
from medfuncta_dist.storage.leases.lease_holder import Holder, this_process
from medfuncta_dist.storage.object_store import ObjectStore

PATH = "runs/small/lease.json"
TTL = 0.6


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "store"))


def taken(store: ObjectStore, said: list[str] | None = None) -> Claim:
    return take(store, PATH, TTL, (said if said is not None else []).append)


def dead() -> Holder:
    """A process of this machine that is no more."""
    return replace(this_process(), pid=2**22 + 1)


def far(**changes: str) -> Holder:
    """A process of another machine, of which nothing can be known but its heartbeat."""
    return replace(this_process(), host="far", **changes)


def held_by(store: ObjectStore, holder: Holder, token: int = 7) -> None:
    store.write(PATH, first_lease(token, holder, TTL).to_bytes())


def alive(claim: Claim, while_: Callable[[], object]) -> None:
    """Heartbeats in the background."""
    over = threading.Event()
    thread = threading.Thread(target=lambda: [claim.renew() for _ in iter(lambda: over.wait(TTL / 4), True)])
    thread.start()
    try:
        while_()
    finally:
        over.set()
        thread.join()


def test_a_lease_is_taken_kept_and_given_back(store):
    claim = taken(store)
    lease = parse_lease(store.read(PATH), PATH)
    assert (lease.token, lease.holder.id, lease.beat) == (claim.fence.token, claim.fence.holder, 0)
    claim.renew()
    assert parse_lease(store.read(PATH), PATH).beat == 1
    claim.fence.require(store)
    claim.give_back()
    with pytest.raises(LeaseLostError, match="released"):
        claim.fence.require(store)


def test_the_token_rises_with_each_taking(store):
    tokens = []
    for _ in range(3):
        claim = taken(store)
        tokens.append(claim.fence.token)
        claim.give_back()
    assert tokens == [tokens[0], tokens[0] + 1, tokens[0] + 2]


def test_a_living_driver_is_not_replaced(store):
    def refused() -> None:
        with pytest.raises(RunHeldError, match=r"process \d+ on .* holds it until 20\d\d-\d\d-\d\dT") as caught:
            taken(store)
        assert caught.value.exit_code == 1

    claim = taken(store)
    alive(claim, refused)
    claim.fence.require(store)


def test_a_dead_process_of_this_machine_is_replaced_at_once(store):
    held_by(store, dead())
    said, began = [], time.monotonic()
    claim = taken(store, said)
    assert time.monotonic() - began < TTL / 2
    assert claim.fence.token == 8
    assert [line.split(",")[1] for line in said] == [" which has ended"]


@pytest.mark.parametrize("clock", ["2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z"])
def test_silence_is_measured_by_the_watchers_clock(store, clock):
    store.write(PATH, replace(first_lease(7, far(), TTL), until=clock).to_bytes())
    said, began = [], time.monotonic()
    assert taken(store, said).fence.token == 8
    assert time.monotonic() - began > TTL
    assert "waiting up to 0.6 s" in said[0]
    assert "gave no heartbeat for 0.6 s" in said[1]


def test_who_waits_goes_on_when_the_holder_gives_back(store):
    former = taken(store)
    threading.Timer(TTL / 3, former.give_back).start()
    said: list[str] = []
    assert taken(store, said).fence.token == former.fence.token + 1
    assert not any("taking over" in line for line in said)


def test_a_former_holder_notices(store):
    held_by(store, far())
    former = Fence(PATH, 7, parse_lease(store.read(PATH), PATH).holder.id)
    former.require(store)
    claim = taken(store)
    with pytest.raises(LeaseLostError, match=r"process \d+ on .* holds it") as caught:
        former.require(store)
    assert caught.value.exit_code == 5
    claim.fence.require(store)


def test_a_heartbeat_of_a_former_holder_is_refused(store):
    former = taken(store)
    held_by(store, far(), former.fence.token + 1)
    for attempt in (former.renew, former.give_back):
        with pytest.raises(LeaseLostError):
            attempt()
    assert parse_lease(store.read(PATH), PATH).holder.host == "far"


def test_a_former_holders_belated_write_is_put_right(store):
    """It can happen where conditions are ignored."""
    claim = taken(store)
    held_by(store, far(), claim.fence.token - 1)
    claim.fence.require(store)
    claim.renew()
    assert parse_lease(store.read(PATH), PATH).holder.id == claim.fence.holder


def test_a_lease_that_someone_deleted_is_lost_and_begins_above_former_tokens(store):
    claim = taken(store)
    store.delete(PATH)
    with pytest.raises(LeaseLostError, match="gone"):
        claim.fence.require(store)
    with pytest.raises(LeaseLostError, match="gone"):
        claim.renew()
    assert taken(store).fence.token >= claim.fence.token > 1_700_000_000


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"[]", b"{}", b'{"format_version": 1}'])
def test_a_file_that_is_no_lease_is_refused_by_name(store, content):
    store.write(PATH, content)
    with pytest.raises(IntegrityError) as caught:
        taken(store)
    assert caught.value.where.endswith(PATH)
    assert store.read(PATH) == content


def test_a_lease_that_does_not_say_enough_is_refused(store):
    lease = first_lease(7, far(), TTL)
    for broken in (replace(lease, ttl=1e9), replace(lease, ttl=float("-1"))):
        store.write(PATH, broken.to_bytes())
        with pytest.raises(IntegrityError, match="lease"):
            taken(store)


def test_a_fence_travels(store):
    fence = pickle.loads(pickle.dumps(taken(store).fence))
    fence.require(store)


def test_nothing_of_the_user_is_in_a_lease(store):
    taken(store)
    text = store.read(PATH).decode()
    assert str(Path.home()) not in text
    assert "/" not in text.replace("pid:[", "")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["give back", "die", "beat"]), min_size=1, max_size=8))
def test_only_the_last_holder_ever_passes(tmp_path_factory, ends):
    store = ObjectStore(str(tmp_path_factory.mktemp("chain")))
    fences = []
    for end in ends:
        claim = taken(store)
        fences.append(claim.fence)
        claim.fence.require(store)
        for former in fences[:-1]:
            with pytest.raises(LeaseLostError):
                former.require(store)
        if end == "give back":
            claim.give_back()
            continue
        if end == "beat":
            claim.renew()
        lease = parse_lease(store.read(PATH), PATH)  # its process dies now
        store.write(PATH, replace(lease, holder=replace(lease.holder, pid=2**22 + 1)).to_bytes())
    assert [f.token for f in fences] == list(range(fences[0].token, fences[0].token + len(ends)))
