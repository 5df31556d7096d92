from __future__ import annotations

from pathlib import Path

from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.training.attempt import generations, next_attempt


def test_attempts_are_numbered_by_the_traces_that_earlier_ones_left(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    first = next_attempt(store, "r")
    assert first.generation == 1
    store.write(f"runs/r/events/{first.name}.jsonl", b"")
    second = next_attempt(store, "r")
    assert second.generation == 2
    store.write(f"runs/r/checkpoints/000000010-{second.name}/rank-0-of-1.safetensors", b"")
    third = next_attempt(store, "r")
    assert third.generation == 3
    assert first.name < second.name < third.name
    assert next_attempt(store, "other").generation == 1


def test_two_that_believe_to_be_the_same_attempt_do_not_share_a_name(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    names = {next_attempt(store, "r").name for _ in range(8)}
    assert len(names) > 1


def test_other_names_have_no_generation() -> None:
    assert generations(
        ["commits", "README", "000003-20260711T101500-9f3a", "000000010-000004-20260711T101500-9f3a"]
    ) == [3, 4]
