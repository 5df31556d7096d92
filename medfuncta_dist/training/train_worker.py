"""What one training worker does, from its first line to its last. Imported in workers only: it pulls in deepspeed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import ray
import ray.train
import torch
from ray.exceptions import RayActorError
from torch import Tensor

from medfuncta_dist import __version__
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import MedfunctaError, RunChangedError, StorageError, TrainingCollapsedError
from medfuncta_dist.fields.siren import FieldSpec, Params
from medfuncta_dist.network.committed_network import commit_network, new_learner
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import history
from medfuncta_dist.telemetry.goodput import STOPPED
from medfuncta_dist.training.attempt import Attempt, next_attempt
from medfuncta_dist.training.checkpoints.checkpoint import Checkpoint, Checkpoints, Facts
from medfuncta_dist.training.checkpoints.checkpoint_cadence import Cadence
from medfuncta_dist.training.checkpoints.checkpoint_saver import Saver
from medfuncta_dist.training.checkpoints.checkpoint_uploads import Uploads
from medfuncta_dist.training.checkpoints.training_state import require_kinds
from medfuncta_dist.training.driver_channel import Line
from medfuncta_dist.training.feed import Feed
from medfuncta_dist.training.liveness.heartbeat import Beat
from medfuncta_dist.training.liveness.heartbeat_sender import Pulse
from medfuncta_dist.training.optim.engine import Engine, connect, share_of_loss
from medfuncta_dist.training.optim.learning_rate import learning_rate
from medfuncta_dist.training.optim.parameter_groups import kinds_of_state
from medfuncta_dist.training.reporting.collapse import ADVICE, Finding, Watch, scatter, squares_about_mean
from medfuncta_dist.training.reporting.leader import Leader, Wishes
from medfuncta_dist.training.reporting.previous_attempts import past
from medfuncta_dist.training.reporting.step_statistics import Pace
from medfuncta_dist.training.reporting.telemetry_sinks import open_telemetry
from medfuncta_dist.training.world import World

T = TypeVar("T")


class Preempted(RayActorError):
    """A node is about to go, and all is saved. Ray Train takes it for what it would see a little later, the death of a
    worker by preemption, and starts the group again elsewhere, at the cost of the preemption budget."""


def train_worker(run: RunFile, snapshot_digest: str, mailbox: Any, fence: Fence | None, began: float) -> None:
    """Train until done, stopped or broken. Ray Train starts this again, on every rank, when any rank breaks.

    An error that starting again can not heal goes to the driver's mailbox first; whoever starts after that leaves.
    ``began`` is when this process started to import what it needs (s since 1970).
    """
    line = Line(mailbox, ray.get)
    if line.has_failed():
        return
    try:
        Training(run, snapshot_digest, line, fence, began).finish()
    except TrainingCollapsedError as error:
        line.fail(error)  # Every rank saw it and returns, so nothing is left to restart.
    except StorageError:
        raise
    except MedfunctaError as error:
        line.fail(error)
        raise


class Training:
    """One rank of one attempt, restored and ready; ``finish`` takes the steps that are left."""

    def __init__(self, run: RunFile, snapshot_digest: str, line: Line, fence: Fence | None, began: float) -> None:
        torch.set_num_threads(run.cluster.threads)
        self.run, self.fence, self.world, self.store = run, fence, World.here(connect()), ObjectStore(run.storage)
        leads = self.world.leads
        attempt: Attempt = self.world.from_leader(next_attempt(self.store, run.name, fence) if leads else None)
        self.line = line.of(attempt.name)
        self.pulse = Pulse(self.line.beat, self._first_beat(attempt), run.train.hang_timeout)
        self.nodes = self.world.gather(ray.get_runtime_context().get_node_id())
        self.past = past(self.store, run.name, self.line.reached(), self._say) if leads else None
        self.leader = self._leader(attempt)
        self.snapshot = load_snapshot(self.store, run.dataset, snapshot_digest)
        hours = run.train.keep_checkpoint_hours
        keep_s = 3600 * hours if hours is not None else math.inf
        self.checkpoints = Checkpoints(self.store, run.name, attempt, run.train.keep_checkpoints, keep_s, fence)
        self.feed = Feed(run, self.store, self.snapshot, self.world)
        self._load()
        uploads = Uploads(self.checkpoints, self.line, self.world.rank, self.world.size, self.leader.flush)
        self.saver = Saver(uploads, self.leader, self.world, self.pulse, self.engine, self._facts)
        pids, setup_s = self.world.gather(os.getpid()), round(time.time() - began, 3)
        place = {"attempt": attempt.name, "step": self.first, "workers": self.world.size, "pids": pids}
        self.leader.event("started", **place, nodes=[node[:12] for node in self.nodes], setup_s=setup_s)

    def finish(self) -> None:
        """Take the steps that are left and write the network; or stop early, saved, when the driver asks."""
        try:
            if self._take_steps() == self.run.train.steps:
                self._write_network()
            # Nobody falls silent before rank 0 is done: who does, while others are at work, has hung.
            self.pulse.at("waiting for rank 0", self.run.train.steps, waits=True)
            self.world.from_leader(None)
        finally:
            self.pulse.end()
            self.leader.close()
            if self.world.leads:
                self.line.over()

    def _take_steps(self) -> int:
        """The train loop. Returns the number of steps taken since the beginning of the run."""
        train, step, pulse = self.run.train, self.first, self.pulse
        pace, validation, watch = self._pace(), self.feed.validation(), Watch(train.steps)
        pulse.at("reading scans", step)
        for (batch, targets), began, waited in _timed(self.batches):
            pulse.at("the inner loop", step)
            losses = self.engine.losses(*self.feed.inputs(targets, batch.step))
            words = [self.leader.wishes(busy=self.saver.busy).encode(), *squares_about_mean(targets)]
            pulse.at("summing the losses", step, waits=True)
            loss, wait, wish, *spread_out = self.world.sum(
                [float(losses.detach().sum()) / train.batch, waited / self.world.size, *words]
            )
            _check_finite("loss", loss, batch.step)
            rate = learning_rate(batch.step, train)
            pulse.at("exchanging gradients", step, waits=True)
            norm = self.engine.step(share_of_loss(losses, train.batch, self.world.size), rate)
            _check_finite("gradient norm", norm, batch.step)
            step, wishes, last = batch.step + 1, Wishes.decode(wish), batch.step + 1 == train.steps

            pace.add(step, loss, time.perf_counter() - began, wait)
            self._stepped(step, loss)
            self._warn(step, watch.trained(step, loss, scatter(*spread_out)))
            if last or step % self.run.telemetry.log_steps == 0:
                self.leader.log(step, **pace.take(), rate=rate, gradient_norm=norm)
            if validation is not None and (last or step % train.validate_steps == 0):
                pulse.at("validating", step, patient=not pulse.has_been("validating"))
                psnr = validation.psnr(*self._field())
                self.leader.validated(step, psnr, validation.picture)
                self._warn(step, watch.validated(psnr))
            if wishes.look and not last:
                self._leave_if_preempted(step)
            if last or self._is_due(step) or wishes.save or wishes.stop:
                self.saver.save(step)
            if wishes.stop:
                self._stop(step, last)
                break
            pulse.at("reading scans", step)
        self.saver.settle(step)
        return step

    def _stepped(self, step: int, loss: float) -> None:
        """What follows every step: a sign of life, and word of uploads that are over."""
        self.leader.at(step, loss)
        self.saver.look()
        if step == self.first + 1:
            self.pulse.warm()
            self._recovered(step)

    def _recovered(self, step: int) -> None:
        before = self.past.reached if self.past is not None else None
        if before is not None:
            seconds, redone = round(time.time() - before.time, 3), max(0, before.step - self.first)
            self.leader.event("recovered", step=step, seconds=seconds, redone=redone, cause=before.cause)
            self.leader.log(step, recovery_s=seconds, redone_steps=redone)

    def _is_due(self, step: int) -> bool:
        every = self.run.train.checkpoint_steps
        return every is not None and step % every == 0

    def _leave_if_preempted(self, step: int) -> None:
        """Where a node of ours is about to go: save, tell, and leave for the others while there is time."""
        self.pulse.at("looking for a drain notice", step, waits=True)
        notice = ray.train.get_preemption_info()
        if notice is None:
            return
        began = time.monotonic()
        self.saver.save(step)
        self.saver.settle(step)
        seconds = round(time.monotonic() - began, 3)
        left = None if notice.deadline_ms is None else round(notice.deadline_ms / 1000 - time.time(), 3)
        if self.world.leads and self.saver.committed == step:
            self.leader.event("preempted", step=step, seconds=seconds, seconds_left=left, ranks=notice.preempted_ranks)
            self.leader.log(step, preemption_save_s=seconds)
            self.leader.say(f"a node goes: saved step {step} in {seconds:.1f} s; starting again elsewhere")
            self.line.ends(step, "preemption")
        self.world.from_leader(None)  # Nobody leaves before rank 0 is done: the first to go ends the others.
        raise Preempted(error_msg="a node is being drained", preempted=True)

    def _stop(self, step: int, last: bool) -> None:
        """All is saved, and no failure: whoever resumes this begins no recovery."""
        self.saver.settle(step)
        if not last and self.saver.committed == step:
            self.leader.event(STOPPED, step=step)

    def _warn(self, step: int, findings: Iterable[Finding]) -> None:
        """Say that training goes wrong. It goes on: whoever watches may know better, and stopping can be asked for."""
        for finding in findings:
            self.leader.event("collapse", step=step, finding=finding)
            self.leader.say(f"outer step {step}: {ADVICE[finding]}")

    def _load(self) -> None:
        """The learner and its engine, as the newest whole checkpoint has them, or as a run begins."""
        self.learner = new_learner(self.run)
        found = self._restore()
        self.first = found.facts.step if found is not None else 0
        self.batches = self.feed.batches(self.first)  # Scans are fetched while the engine is built.
        if found is not None:
            self.learner.load({name: whole.param for name, whole in found.state.items()})
        self.engine = Engine(self.learner, self.run.train)
        if found is not None:
            self.engine.still_step(*self.feed.still_inputs())
            self.engine.load_moments(found.state, found.facts.step)

    def _restore(self) -> Checkpoint | None:
        """The newest whole checkpoint: rank 0 finds and verifies it, the others then read the same one."""
        shapes = self.learner.shapes
        found = self.checkpoints.restore_latest(shapes, self.leader.say) if self.world.leads else None
        record = self.world.from_leader(found.record if found is not None else None)
        if record is not None and found is None:
            found = self.checkpoints.load(record, shapes)
        if found is not None:
            where = self.store.uri(found.record)
            _check_same(found.facts, self._facts(self.run.train.steps), where)
            require_kinds(found.state, kinds_of_state(self.learner, self.run.train), where)
        return found

    def _facts(self, step: int) -> Facts:
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

    def _first_beat(self, attempt: Attempt) -> Beat:
        node = ray.get_runtime_context().get_node_id()
        return Beat(attempt.name, self.world.rank, node, os.getpid(), 0, "starting", 0, 0, waits=False, patient=True)

    def _leader(self, attempt: Attempt) -> Leader:
        """Rank 0's telemetry and its line to the driver; on other ranks, a leader that does nothing."""
        train, nodes = self.run.train, len(set(self.nodes))
        between_failures_s = self.past.between_failures_s(train, nodes) if self.past is not None else math.inf
        telemetry = open_telemetry(self.run, self.store, attempt) if self.world.leads else None
        return Leader(telemetry, self.line.tell, self.line.stopping, Cadence(train, between_failures_s))

    def _pace(self) -> Pace:
        before = self.past.reached if self.past is not None else None
        return Pace(self.run.train.batch) if before is None else Pace(self.run.train.batch, before.time, before.step)

    def _say(self, text: str) -> None:
        self.line.tell("note", text=text)

    def _field(self) -> tuple[FieldSpec, Params, Tensor]:
        return self.learner.spec, self.engine.full_parameters(), self.learner.coordinates

    def _write_network(self) -> None:
        self.pulse.at("writing the network", self.run.train.steps, patient=True)
        params = self.engine.full_parameters()
        if not self.world.leads:
            return
        self.leader.flush()
        last = (history(self.store, self.run.name, metric, self.leader.say)[-1:] for metric in ("loss", "psnr"))
        loss, psnr = (found[0][1] if found else None for found in last)
        done = commit_network(self.store, self.run, self.snapshot, params, loss, psnr, self.fence)
        self.leader.event("finished", step=done.step, network=done.digest)


def _timed(batches: Iterable[T]) -> Iterator[tuple[T, float, float]]:
    """Each batch with the moment it was asked for and the seconds it took to come."""
    iterator = iter(batches)
    while True:
        began = time.perf_counter()
        batch = next(iterator, None)
        if batch is None:
            return
        yield batch, began, time.perf_counter() - began


def _check_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise TrainingCollapsedError(
            f"the {what} of outer step {step + 1} is {value}",
            do="lower train.rate or meta.inner_rate, or set train.clip; checkpoints before this step are kept",
        )


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
