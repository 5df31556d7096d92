from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.telemetry.telemetry import Telemetry
from medfuncta_dist.training.checkpoints.checkpoint import Checkpoints
from medfuncta_dist.training.checkpoints.checkpoint_cadence import Cadence
from medfuncta_dist.training.checkpoints.checkpoint_interval import SHORTEST_S
from medfuncta_dist.training.checkpoints.checkpoint_saver import FAILED_IN_A_ROW, CheckpointSaver
from medfuncta_dist.training.checkpoints.checkpoint_uploads import CheckpointUploader
from medfuncta_dist.training.checkpoints.training_state import AdamState, State
from medfuncta_dist.training.liveness.heartbeat import Heartbeat
from medfuncta_dist.training.liveness.heartbeat_sender import HeartbeatSender
from medfuncta_dist.training.reporting.leader import Leader
from medfuncta_dist.training.world import World
from tests.unit.training.checkpoints.test_checkpoint_uploads import ATTEMPT, SHAPES, ShareExchange, facts


class Engine:
    """A state that the next step overwrites."""

    def __init__(self) -> None:
        self.values = {name: torch.zeros(shape) for name, shape in SHAPES.items()}

    def step(self) -> None:
        for value in self.values.values():
            value += 1

    def share_of_state(self) -> State:
        return {name: AdamState(*(value.clone() for _ in range(3))) for name, value in self.values.items()}


@pytest.fixture
def alone() -> Iterator[World]:
    """A world of one rank."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield World.from_process_group(torch.device("cpu"))
    dist.destroy_process_group()


@pytest.fixture
def messages() -> list[tuple[str, dict[str, Any]]]:
    return []


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "store"))


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def saver(
    alone: World, store: ObjectStore, engine: Engine, messages: list[tuple[str, dict[str, Any]]]
) -> Iterator[CheckpointSaver]:
    cadence = Cadence(Train(), between_failures_s=3600)
    leader = Leader(Telemetry([]), lambda kind, **fields: messages.append((kind, fields)), lambda: False, cadence)
    checkpoints = Checkpoints(store, "r", ATTEMPT, keep=2, fence=ALONE)
    with HeartbeatSender(
        lambda beat: None, Heartbeat("1", 0, "node", 1, 0, "starting", 0, 0, False, True), timeout=60
    ) as heartbeat:
        yield CheckpointSaver(
            CheckpointUploader(checkpoints, ShareExchange(), 0, 1, leader.flush),
            leader,
            alone,
            heartbeat,
            engine,
            facts,
        )


def block(store: ObjectStore) -> None:
    """A file where the folder of checkpoints should be."""
    store.write("runs/r/checkpoints", b"in the way")


def test_what_is_saved_is_the_state_of_that_step_and_the_cost_is_reported(
    saver: CheckpointSaver, engine: Engine, store: ObjectStore, messages: list[tuple[str, dict[str, Any]]]
) -> None:
    for step in (1, 2):
        engine.step()
        saver.save(step)
    engine.step()
    saver.wait_for_upload(3)
    found = Checkpoints(store, "r", ATTEMPT, keep=2, fence=ALONE).restore_latest(SHAPES, print)
    assert found is not None
    assert (found.facts.step, saver.committed) == (2, 2)
    assert {float(whole.param.mean()) for whole in found.state.values()} == {2.0}
    events = [fields for kind, fields in messages if kind == "checkpoint"]
    assert [fields["step"] for fields in events] == [1, 2]
    assert all(fields["stall_s"] >= 0 and fields["upload_s"] > 0 for fields in events)
    intervals = [fields["seconds"] for kind, fields in messages if kind == "interval"]
    assert intervals
    assert min(intervals) >= SHORTEST_S


def test_refused_checkpoints_are_said_and_end_training_only_in_a_row(
    saver: CheckpointSaver, store: ObjectStore, messages: list[tuple[str, dict[str, Any]]]
) -> None:
    block(store)
    for step in range(1, FAILED_IN_A_ROW):
        saver.save(step)
        saver.wait_for_upload(step)
    assert len([text for kind, text in messages if kind == "note"]) == FAILED_IN_A_ROW - 1
    store.delete("runs/r/checkpoints")
    saver.save(5)
    saver.wait_for_upload(5)
    assert saver.committed == 5
    store.delete(next(iter(store.list("runs/r/checkpoints/commits"))).path)
    for info in store.list("runs/r/checkpoints"):
        store.delete(info.path)
    for folder in sorted((Path(store.root) / "runs/r/checkpoints").rglob("*"), reverse=True):
        folder.rmdir()
    (Path(store.root) / "runs/r/checkpoints").rmdir()
    block(store)
    for step in range(6, 5 + FAILED_IN_A_ROW):
        saver.save(step)
        saver.wait_for_upload(step)
    saver.save(9)
    with pytest.raises(MedfunctaError, match=f"{FAILED_IN_A_ROW} checkpoints in a row"):
        saver.wait_for_upload(9)
