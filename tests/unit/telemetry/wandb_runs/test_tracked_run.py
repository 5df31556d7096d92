from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import EventLog
from medfuncta_dist.telemetry.wandb_runs.tracked_run import thin_out, tracked_table, tracked_training

FIRST, SECOND = "0000000000070001-20260711T101500-9f3a", "0000000000070002-20260711T111500-01bc"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path))


def test_all_attempts_have_the_id_of_the_first(store: ObjectStore) -> None:
    EventLog(store, "r", FIRST)
    assert tracked_training(store, "r", print).id == "r-20260711T101500-9f3a"
    EventLog(store, "r", SECOND)
    assert tracked_training(store, "r", print).id == "r-20260711T101500-9f3a"


def test_a_run_that_was_begun_anew_under_the_same_name_has_another(store: ObjectStore, tmp_path: Path) -> None:
    EventLog(store, "r", FIRST)
    elsewhere = ObjectStore(str(tmp_path / "elsewhere"))
    EventLog(elsewhere, "r", SECOND)
    assert tracked_training(elsewhere, "r", print).id != tracked_training(store, "r", print).id
    assert tracked_training(ObjectStore(str(tmp_path / "empty")), "r", print).id == "r"


def test_a_table_has_a_run_of_its_own(store: ObjectStore) -> None:
    assert tracked_table("r", "ab" * 32) == tracked_table("r", "ab" * 32)
    assert tracked_table("r", "ab" * 32).id == "r-fit-abababababab"
    assert tracked_table("r", "cd" * 32).id != tracked_table("r", "ab" * 32).id


def test_of_many_steps_some_are_kept_and_all_that_are_special() -> None:
    logged = [(step, {"loss": 1.0} | ({"psnr": 30.0} if step % 100 == 50 else {})) for step in range(1, 1001)]
    kept = thin_out(logged, 10)
    assert [step for step, numbers in kept if "psnr" not in numbers] == list(range(100, 1001, 100))
    assert [step for step, numbers in kept if "psnr" in numbers] == list(range(50, 1001, 100))
    assert thin_out(logged, 1000) == thin_out(logged, 5000) == logged
    assert thin_out([], 10) == []


def test_what_was_logged_before_comes_by_step_and_an_unreadable_log_is_said(store: ObjectStore) -> None:
    for attempt, value in ((FIRST, 0.5), (SECOND, 0.25)):
        log = EventLog(store, "r", attempt)
        log.log(2, {"loss": value})
        log.log(1, {"loss": 1.0, "psnr": float("nan")})
        log.close()
    said: list[str] = []
    training = tracked_training(store, "r", said.append)
    assert training.history() == [(1, {"loss": 1.0}), (2, {"loss": 0.25})]
    store.write(f"runs/r/events/{SECOND}.jsonl", b"no log")
    assert training.history() == [(1, {"loss": 1.0}), (2, {"loss": 0.5})]
    assert [text.split()[2] for text in said] == [f"{SECOND}.jsonl"]
