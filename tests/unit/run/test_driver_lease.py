"""Holding a lease while a block runs: the heartbeat, and how the block ends when it is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from medfuncta_dist.errors import LeaseLostError, MedfunctaError, RunHeldError
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.storage.leases.lease import first_lease, parse_lease, run_lease
from medfuncta_dist.storage.leases.lease_holder import this_process
from medfuncta_dist.storage.object_store import ObjectStore

PATH = run_lease("small")
TTL = 0.8


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "store"))


def lease(store: ObjectStore):
    return parse_lease(store.read(PATH), PATH)


def taken_over(store: ObjectStore) -> None:
    """What another machine's driver leaves there."""
    other = replace(this_process(), host="far")
    store.write(PATH, first_lease(lease(store).token + 1, other, TTL).to_bytes())


def test_the_heartbeat_goes_on_while_the_block_waits(store, capsys):
    with hold_lease(store, PATH, TTL, "small") as fence:
        time.sleep(2 * TTL)
        assert lease(store).beat >= 4
        with pytest.raises(RunHeldError), hold_lease(store, PATH, TTL, "small"):
            pass
        fence.require(store)
    assert lease(store).free
    assert "[small] process" in capsys.readouterr().err


@pytest.mark.parametrize("end", [MedfunctaError("handled"), KeyboardInterrupt(), SystemExit(15), ValueError("a bug")])
def test_it_is_given_back_however_the_block_ends(store, end):
    with pytest.raises(type(end)) as caught, hold_lease(store, PATH, TTL, "small"):
        raise end
    assert caught.value is end
    assert lease(store).free


def waiting(store: ObjectStore, event: Callable[[], object]) -> None:
    """A driver to which this happens while it waits."""
    with hold_lease(store, PATH, TTL, "small"):
        event()
        time.sleep(30)


def test_a_waiting_driver_is_woken_when_its_lease_is_taken_over(store):
    began = time.monotonic()
    with pytest.raises(LeaseLostError, match="on far holds it"):
        waiting(store, lambda: taken_over(store))
    assert time.monotonic() - began < 10
    assert lease(store).holder.host == "far"  # not given back: it is another's


def test_a_driver_that_a_shell_put_into_the_background_is_woken_too(store):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which such a shell's commands inherit
    began = time.monotonic()
    try:
        with pytest.raises(LeaseLostError, match="on far holds it"):
            waiting(store, lambda: taken_over(store))
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 10


def test_an_error_that_follows_from_the_loss_is_told_as_the_loss(store):
    def stopped() -> None:
        taken_over(store)
        try:
            time.sleep(30)
        except KeyboardInterrupt:  # as training does: it saves first
            raise MedfunctaError("stopped early") from None

    with pytest.raises(LeaseLostError) as caught:
        waiting(store, stopped)
    assert str(caught.value.__cause__) == "stopped early"


def test_a_driver_whose_storage_is_away_stops_itself(tmp_path, store, capsys):
    def away() -> None:
        (tmp_path / "store").rename(tmp_path / "away")
        (tmp_path / "store").write_text("no folder")

    began = time.monotonic()
    with pytest.raises(LeaseLostError, match=f"could not be renewed for {TTL:g} s"):
        waiting(store, away)
    assert TTL < time.monotonic() - began < 10
    assert "could not be renewed, trying again" in capsys.readouterr().err


def test_a_driver_outlives_a_storage_that_is_away_for_a_moment(tmp_path, store):
    with hold_lease(store, PATH, 2 * TTL, "small") as fence:
        (tmp_path / "store").rename(tmp_path / "away")
        (tmp_path / "store").write_text("no folder")
        time.sleep(TTL)
        (tmp_path / "store").unlink()
        (tmp_path / "away").rename(tmp_path / "store")
        time.sleep(2 * TTL)
        fence.require(store)
