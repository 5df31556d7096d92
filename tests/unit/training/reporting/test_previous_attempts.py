from __future__ import annotations

import pytest

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import EventLog
from medfuncta_dist.telemetry.goodput import STOPPED
from medfuncta_dist.training.mailbox import AttemptEnd
from medfuncta_dist.training.reporting.previous_attempts import read_previous_attempts

NAMES = ("0000000001-20260101T000000-aaaa", "0000000002-20260101T000000-bbbb")


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    store = ObjectStore(str(tmp_path_factory.mktemp("store")))
    for name, first, last in ((NAMES[0], 0, 9), (NAMES[1], 5, 7)):
        log = EventLog(store, "r", name)
        log.event("started", step=first, setup_s=0.0)
        for step in range(first + 1, last + 1):
            log.log(step, {"loss": 0.1, "s_per_step": 1.0})
        log.close()
    return store


def test_a_new_run_has_no_past(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = read_previous_attempts(ObjectStore(str(tmp_path_factory.mktemp("empty"))), "r", None, print)
    assert found.last_end is None
    train = Train(node_hours_between_failures=8)
    assert found.time_between_failures_s(train, nodes=4) == 2 * 3600


def test_the_attempt_before_counts_however_far_an_earlier_one_got(store: ObjectStore) -> None:
    reached = read_previous_attempts(store, "r", None, print).last_end
    assert reached is not None
    assert (reached.step, reached.cause) == (7, "stopped")


def test_after_a_clean_stop_there_is_nothing_to_recover_from(store: ObjectStore) -> None:
    log = EventLog(store, "r", "0000000003-20260101T000000-cccc")
    log.log(8, {"loss": 0.1})
    log.event(STOPPED, step=8)
    log.close()
    assert read_previous_attempts(store, "r", None, print).last_end is None
    known = AttemptEnd(9, 1.0, "failure")
    assert read_previous_attempts(store, "r", known, print).last_end == known


@pytest.mark.parametrize("step", [6, 8])
def test_what_the_driver_was_told_and_what_was_stored_complete_each_other(store: ObjectStore, step: int) -> None:
    reached = read_previous_attempts(store, "r", AttemptEnd(step, 1.0, "hang"), print).last_end
    assert reached is not None
    assert (reached.step, reached.cause) == (max(7, step), "hang")
    assert reached.time > 1e9


def test_a_damaged_log_is_said_and_left_out(store: ObjectStore) -> None:
    store.write(f"runs/r/events/{NAMES[1]}.jsonl", b"\x00")
    said: list[str] = []
    reached = read_previous_attempts(store, "r", None, said.append).last_end
    assert reached is not None
    assert reached.step == 9
    assert len(said) == 1
