"""What one rank of one attempt works with: opened before its first step, closed after its last, however that ends.

Whatever runs beside training or must be closed (the heartbeat's thread, telemetry, the thread that fetches scans) is
entered on one stack, the moment it is there. So a start that fails halfway leaves none of it behind.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from torch import Tensor

from medfuncta_dist import __version__
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunChangedError
from medfuncta_dist.meta.outer_loop import MetaLearner
from medfuncta_dist.network.core_settings import new_learner
from medfuncta_dist.shards.snapshot import Snapshot, load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard
from medfuncta_dist.streaming.stream import Batch
from medfuncta_dist.training.attempt import Attempt, next_attempt
from medfuncta_dist.training.checkpoints.checkpoint import Checkpoint, Checkpoints, Facts
from medfuncta_dist.training.checkpoints.checkpoint_cadence import Cadence
from medfuncta_dist.training.checkpoints.training_state import require_kinds
from medfuncta_dist.training.driver_channel import Line
from medfuncta_dist.training.feed import Feed
from medfuncta_dist.training.liveness.heartbeat import Beat
from medfuncta_dist.training.liveness.heartbeat_sender import Pulse
from medfuncta_dist.training.optim.engine import Engine
from medfuncta_dist.training.optim.parameter_groups import kinds_of_state
from medfuncta_dist.training.reporting.leader import Leader
from medfuncta_dist.training.reporting.previous_attempts import Past, past
from medfuncta_dist.training.reporting.telemetry_sinks import open_telemetry
from medfuncta_dist.training.world import World


@dataclass(frozen=True)
class Place:
    """A rank's place in an attempt, before there is a network."""

    run: RunFile
    fence: Guard
    world: World
    store: ObjectStore
    attempt: Attempt
    line: Line
    pulse: Pulse
    nodes: list[str]
    """Of every rank."""
    past: Past | None
    """On rank 0."""
    leader: Leader
    snapshot: Snapshot
    feed: Feed

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's, as this attempt writes them."""
        train, hours = self.run.train, self.run.train.keep_checkpoint_hours
        keep_s = 3600 * hours if hours is not None else math.inf
        return Checkpoints(self.store, self.run.name, self.attempt, train.keep_checkpoints, keep_s, fence=self.fence)

    def facts(self, step: int) -> Facts:
        """What a checkpoint of this step is of."""
        epoch, batch = self.feed.place(step)
        return Facts(
            step=step,
            epoch=epoch,
            batch=batch,
            dataset_digest=self.snapshot.digest,
            run_digest=self.run.digest(),
            field_digest=self.run.digest("field"),
            zero_stage=self.run.train.stage,
            world_size=self.world.size,
            code_version=__version__,
            written=round(time.time(), 3),
        )


@dataclass(frozen=True)
class Restored:
    """A network ready for its next step."""

    learner: MetaLearner
    engine: Engine
    first: int
    """The first outer step to take (0-based)."""
    batches: Iterable[tuple[Batch, Tensor]]
    checkpoints: Checkpoints
    """They know which ones are damaged."""


def open_place(
    run: RunFile, snapshot_digest: str, line: Line, fence: Guard, node: str, world: World, opened: ExitStack
) -> Place:
    """This process's place in a new attempt. Rank 0 numbers the attempt and opens the telemetry."""
    store, leads = ObjectStore(run.storage), world.leads
    attempt: Attempt = world.from_leader(next_attempt(store, run.name, fence) if leads else None)
    line = line.of(attempt.name)
    if leads:
        opened.callback(line.over)
    pulse = opened.enter_context(Pulse(line.beat, _first_beat(attempt, world.rank, node), run.train.hang_timeout))
    nodes = world.gather(node)
    before = past(store, run.name, line.reached(), lambda text: line.tell("note", text=text)) if leads else None
    leader = _leader(run, store, attempt, line, before, nodes)
    opened.callback(leader.close)
    snapshot = load_snapshot(store, run.dataset, snapshot_digest)
    feed = Feed(run, store, snapshot, world)
    return Place(run, fence, world, store, attempt, line, pulse, nodes, before, leader, snapshot, feed)


def restore(place: Place, opened: ExitStack) -> Restored:
    """The learner and its engine, as the newest whole checkpoint has them, or as a run begins."""
    learner, checkpoints = new_learner(place.run), place.checkpoints
    found = _newest(place, checkpoints, learner)
    first = found.facts.step if found is not None else 0
    batches = opened.enter_context(place.feed.batches(first))  # Scans are fetched while the engine is built.
    if found is not None:
        learner.load({name: whole.param for name, whole in found.state.items()})
    engine = Engine(learner, place.run.train)
    if found is not None:
        engine.still_step(*place.feed.still_inputs())
        engine.load_moments(found.state, found.facts.step)
    return Restored(learner, engine, first, batches, checkpoints)


def _first_beat(attempt: Attempt, rank: int, node: str) -> Beat:
    return Beat(attempt.name, rank, node, os.getpid(), 0, "starting", 0, 0, waits=False, patient=True)


def _leader(
    run: RunFile, store: ObjectStore, attempt: Attempt, line: Line, before: Past | None, nodes: list[str]
) -> Leader:
    """Rank 0's telemetry and its line to the driver; on other ranks, a leader that does nothing."""
    if before is None:
        return Leader(None, line.tell, line.stopping, Cadence(run.train, math.inf))
    between_failures_s = before.between_failures_s(run.train, len(set(nodes)))
    return Leader(open_telemetry(run, store, attempt), line.tell, line.stopping, Cadence(run.train, between_failures_s))


def _newest(place: Place, checkpoints: Checkpoints, learner: MetaLearner) -> Checkpoint | None:
    """The newest whole checkpoint: rank 0 finds and verifies it, the others then read the same one."""
    world = place.world
    found = checkpoints.restore_latest(learner.shapes, place.leader.say) if world.leads else None
    record = world.from_leader(found.record if found is not None else None)
    if record is not None and found is None:
        found = checkpoints.load(record, learner.shapes)
    if found is not None:
        where = place.store.uri(found.record)
        _check_same(found.facts, place.facts(place.run.train.steps), where)
        require_kinds(found.state, kinds_of_state(learner, place.run.train), where)
    return found


def _check_same(found: Facts, expected: Facts, where: str) -> None:
    """A checkpoint of another data set, network or later step is refused; world size and ZeRO stage do not matter."""
    for name, told in (("dataset_digest", "data set"), ("field_digest", "field section")):
        if getattr(found, name) != getattr(expected, name):
            raise RunChangedError(
                f"the checkpoint was trained with another {told}",
                where=where,
                do="use another run name for another run",
            )
    if found.step > expected.step:
        raise RunChangedError(
            f"train.steps is {expected.step}, but step {found.step} is done already",
            where=where,
            do="raise train.steps, or use another run name",
        )
