"""Sets up one rank of one attempt: what it works with, and the network as the newest checkpoint has it.

Whatever runs beside training or must be closed (the heartbeat's thread, telemetry, the thread that fetches scans) is
entered on one exit stack as soon as it exists. So a start that fails halfway leaves none of it running.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunChangedError
from medfuncta_dist.meta.device import device_model
from medfuncta_dist.meta.learner import Learner
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard
from medfuncta_dist.streaming.device_transfer import Placed
from medfuncta_dist.training.attempt import Attempt, next_attempt
from medfuncta_dist.training.checkpoints.checkpoint import Checkpoint, Checkpoints, Facts
from medfuncta_dist.training.checkpoints.checkpoint_cadence import Cadence
from medfuncta_dist.training.checkpoints.training_state import require_kinds
from medfuncta_dist.training.driver_channel import DriverChannel
from medfuncta_dist.training.liveness.heartbeat import Heartbeat
from medfuncta_dist.training.liveness.heartbeat_sender import HeartbeatSender
from medfuncta_dist.training.mailbox import HALVED
from medfuncta_dist.training.optim.engine import Engine
from medfuncta_dist.training.optim.parameter_groups import kinds_of_state
from medfuncta_dist.training.rank_sums import RankSums
from medfuncta_dist.training.reporting.leader import Leader
from medfuncta_dist.training.reporting.previous_attempts import (
    PreviousAttempts,
    read_previous_attempts,
    told_of_device,
)
from medfuncta_dist.training.reporting.telemetry_sinks import open_telemetry
from medfuncta_dist.training.subject import Subject
from medfuncta_dist.training.world import World
from medfuncta_dist.version import __version__


@dataclass(frozen=True)
class RankContext:
    """What a rank of an attempt works with, before there is a network."""

    run: RunFile
    fence: Guard
    world: World
    store: ObjectStore
    attempt: Attempt
    channel: DriverChannel
    heartbeat: HeartbeatSender
    nodes: list[str]
    """Of every rank."""
    device: str
    """The models of all ranks' GPUs, or ``cpu``, as checkpoints record them."""
    previous: PreviousAttempts | None
    """On rank 0."""
    leader: Leader
    subject: Subject
    feed: Any
    """As the subject made it."""

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's, as this attempt writes them."""
        train, hours = self.run.train, self.run.train.keep_checkpoint_hours
        keep_s = 3600 * hours if hours is not None else math.inf
        return Checkpoints(self.store, self.run.name, self.attempt, train.keep_checkpoints, keep_s, fence=self.fence)

    def facts(self, step: int) -> Facts:
        """What a checkpoint of this step is of."""
        epoch, batch = self.feed.epoch_and_batch(step)
        return Facts(
            step=step,
            epoch=epoch,
            batch=batch,
            dataset_digest=self.feed.digest,
            run_digest=self.run.digest(),
            field_digest=self.run.digest("field"),
            zero_stage=self.run.train.stage,
            world_size=self.world.size,
            code_version=__version__,
            written=round(time.time(), 3),
            device=self.device,
        )


@dataclass(frozen=True)
class RestoredNetwork:
    """A network ready for its next step."""

    learner: Learner
    engine: Engine
    first: int
    """The first outer step to take (0-based)."""
    batches: Iterable[Placed]
    checkpoints: Checkpoints
    """They know which ones are damaged."""


def open_rank(
    run: RunFile,
    subject: Subject,
    channel: DriverChannel,
    fence: Guard,
    node: str,
    world: World,
    stack: ExitStack,
) -> RankContext:
    """Set up this rank for a new attempt. Rank 0 numbers the attempt and opens the telemetry."""
    store = ObjectStore(run.storage)
    attempt: Attempt = world.broadcast_from_leader(next_attempt(store, run.name, fence) if world.is_leader else None)
    channel = channel.for_attempt(attempt.name)
    if world.is_leader:
        stack.callback(channel.mark_finished)
    first = _first_heartbeat(attempt, world.rank, node)
    heartbeat = stack.enter_context(HeartbeatSender(channel.send_heartbeat, first, run.train.hang_timeout))
    nodes = world.gather(node)
    device = ", ".join(sorted(set(world.gather(device_model(world.device)))))
    previous = _previous_attempts(run, store, channel) if world.is_leader else None
    leader = _leader(run, store, attempt, channel, previous, nodes)
    stack.callback(leader.close)
    feed = subject.feed(run, store, world)
    return RankContext(
        run, fence, world, store, attempt, channel, heartbeat, nodes, device, previous, leader, subject, feed
    )


def restore(rank: RankContext, stack: ExitStack) -> RestoredNetwork:
    """The learner and its engine, as the newest whole checkpoint has them, or as a run begins."""
    learner, checkpoints = rank.subject.learner(rank.run, rank.feed), rank.checkpoints
    learner.ranks = RankSums(rank.world, rank.heartbeat)
    learner.on_halved = lambda chunks: rank.channel.post(HALVED, rank=rank.world.rank, **asdict(chunks))
    found = _newest(rank, checkpoints, learner)
    first = found.facts.step if found is not None else 0
    batches = stack.enter_context(rank.feed.batches(first))  # Scans are fetched while the engine is built.
    if found is not None:
        learner.load({name: whole.param for name, whole in found.state.items()})
    elif (start := rank.subject.start(rank.run, rank.store, learner)) is not None:
        learner.load(start)
    engine = Engine(learner, rank.run.train)
    if found is not None:
        engine.create_moments(*rank.feed.zero_inputs())
        engine.load_moments(found.state, found.facts.step)
    return RestoredNetwork(learner, engine, first, batches, checkpoints)


def _first_heartbeat(attempt: Attempt, rank: int, node: str) -> Heartbeat:
    return Heartbeat(
        attempt=attempt.name,
        rank=rank,
        node=node,
        pid=os.getpid(),
        step=0,
        phase="starting",
        phases_begun=0,
        life_signs=0,
        waits_for_others=False,
        may_be_slow=True,
    )


def _previous_attempts(run: RunFile, store: ObjectStore, channel: DriverChannel) -> PreviousAttempts:
    def notify(text: str) -> None:
        channel.post("note", text=text)

    return read_previous_attempts(store, run.name, channel.previous_attempt_end(), notify)


def _leader(
    run: RunFile,
    store: ObjectStore,
    attempt: Attempt,
    channel: DriverChannel,
    previous: PreviousAttempts | None,
    nodes: list[str],
) -> Leader:
    """Rank 0's telemetry and its channel to the driver; on other ranks, a leader that does nothing."""
    if previous is None:
        return Leader(None, channel.post, channel.stop_requested, Cadence(run.train, math.inf))
    cadence = Cadence(run.train, previous.time_between_failures_s(run.train, len(set(nodes))))
    return Leader(open_telemetry(run, store, attempt), channel.post, channel.stop_requested, cadence)


def _newest(rank: RankContext, checkpoints: Checkpoints, learner: Learner) -> Checkpoint | None:
    """The newest whole checkpoint: rank 0 finds and verifies it, the others then read the same one."""
    world = rank.world
    found = checkpoints.restore_latest(learner.shapes, rank.leader.notify) if world.is_leader else None
    record = world.broadcast_from_leader(found.record if found is not None else None)
    if record is not None and found is None:
        found = checkpoints.load(record, learner.shapes)
    if found is not None:
        where = rank.store.uri(found.record)
        _check_same(found.facts, rank.facts(rank.run.train.steps), where)
        require_kinds(found.state, kinds_of_state(learner, rank.run.train), where)
        if changed := told_of_device(found.facts.device, rank.device):
            rank.leader.notify(changed)
    return found


def _check_same(found: Facts, expected: Facts, where: str) -> None:
    """A checkpoint of another data set, network or later step is refused; world size and ZeRO stage do not matter."""
    for name, what in (("dataset_digest", "data set"), ("field_digest", "field section")):
        if getattr(found, name) != getattr(expected, name):
            raise RunChangedError(
                f"the checkpoint was trained with another {what}",
                where=where,
                do="use another run name for another run",
            )
    if found.step > expected.step:
        raise RunChangedError(
            f"train.steps is {expected.step}, but step {found.step} is already done",
            where=where,
            do="raise train.steps, or use another run name",
        )
