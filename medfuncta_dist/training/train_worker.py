"""What one training worker does, from its first line to its last. Imported in workers only: it pulls in deepspeed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import ray
import ray.train
import torch
from ray.exceptions import RayActorError
from torch import Tensor

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import MedfunctaError, StorageError, TrainingCollapsedError
from medfuncta_dist.fields.siren import FieldSpec, Params
from medfuncta_dist.network.committed_network import commit_network
from medfuncta_dist.storage.publish import Guard
from medfuncta_dist.telemetry.event_log import history
from medfuncta_dist.telemetry.goodput import STOPPED
from medfuncta_dist.training.checkpoints.checkpoint_saver import Saver
from medfuncta_dist.training.checkpoints.checkpoint_uploads import Uploads
from medfuncta_dist.training.driver_channel import Line
from medfuncta_dist.training.opening import Place, Restored, open_place, restore
from medfuncta_dist.training.optim.engine import connect, share_of_loss
from medfuncta_dist.training.optim.learning_rate import learning_rate
from medfuncta_dist.training.reporting.collapse import ADVICE, Finding, Watch, scatter, squares_about_mean
from medfuncta_dist.training.reporting.leader import Wishes
from medfuncta_dist.training.reporting.step_statistics import Pace
from medfuncta_dist.training.world import World

T = TypeVar("T")


class Preempted(RayActorError):
    """A node is about to go, and all is saved. Ray Train takes it for what it would see a little later, the death of a
    worker by preemption, and starts the group again elsewhere, at the cost of the preemption budget."""


def train_worker(run: RunFile, snapshot_digest: str, mailbox: Any, fence: Guard, began: float) -> None:
    """Train until done, stopped or broken. Ray Train starts this again, on every rank, when any rank breaks.

    An error that starting again can not heal goes to the driver's mailbox first; whoever starts after that leaves.
    ``began`` is when this process started to import what it needs (s since 1970).
    """
    line = Line(mailbox, ray.get)
    if line.has_failed():
        return
    try:
        node = ray.get_runtime_context().get_node_id()
        with opened_training(run, snapshot_digest, line, fence, node, began) as training:
            training.finish()
    except TrainingCollapsedError as error:
        line.fail(error)  # Every rank saw it and returns, so nothing is left to restart.
    except StorageError:
        raise
    except MedfunctaError as error:
        line.fail(error)
        raise


@contextmanager
def opened_training(
    run: RunFile, snapshot_digest: str, line: Line, fence: Guard, node: str, began: float
) -> Iterator[Training]:
    """One rank of one attempt, restored and ready, while the block runs. What it opens is closed however that ends.

    ``node`` is the id of this machine in the cluster.
    """
    torch.set_num_threads(run.cluster.threads)
    with ExitStack() as opened:
        place = open_place(
            run, snapshot_digest, line, fence, node, World.here(connect(run.cluster.gpus_per_worker)), opened
        )
        restored = restore(place, opened)
        world, leader = place.world, place.leader
        uploads = Uploads(restored.checkpoints, place.line, world.rank, world.size, leader.flush)
        saver = Saver(uploads, leader, world, place.pulse, restored.engine, place.facts)
        pids, setup_s = world.gather(os.getpid()), round(time.time() - began, 3)
        facts = {"attempt": place.attempt.name, "step": restored.first, "workers": world.size, "pids": pids}
        leader.event("started", **facts, nodes=[node[:12] for node in place.nodes], setup_s=setup_s)
        yield Training(place, restored, saver)


class Training:
    """One rank of one attempt; ``finish`` takes the steps that are left."""

    def __init__(self, place: Place, restored: Restored, saver: Saver) -> None:
        self.run, self.world, self.store, self.line = place.run, place.world, place.store, place.line
        self.pulse, self.leader, self.past, self.feed = place.pulse, place.leader, place.past, place.feed
        self.learner, self.engine = restored.learner, restored.engine
        self.first, self.batches = restored.first, restored.batches
        self.place, self.saver = place, saver

    def finish(self) -> None:
        """Take the steps that are left and write the network; or stop early, saved, when the driver asks."""
        if self._take_steps() == self.run.train.steps:
            self._write_network()
        # Nobody falls silent before rank 0 is done: who does, while others are at work, has hung.
        self.pulse.at("waiting for rank 0", self.run.train.steps, waits=True)
        self.world.from_leader(None)

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

    def _pace(self) -> Pace:
        before = self.past.reached if self.past is not None else None
        return Pace(self.run.train.batch) if before is None else Pace(self.run.train.batch, before.time, before.step)

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
        done = commit_network(self.store, self.run, self.place.snapshot, params, loss, psnr, self.place.fence)
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
