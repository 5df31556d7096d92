"""What one training worker does, from its first line to its last. Imported in workers only: it pulls in deepspeed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import ray.train
import torch
from ray.exceptions import RayActorError

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import MedfunctaError, StorageError, TrainingCollapsedError
from medfuncta_dist.storage.publish import Guard
from medfuncta_dist.streaming.device_transfer import Placed
from medfuncta_dist.telemetry.goodput import STOPPED
from medfuncta_dist.training.checkpoints.checkpoint_saver import CheckpointSaver
from medfuncta_dist.training.checkpoints.checkpoint_uploads import CheckpointUploader
from medfuncta_dist.training.driver_channel import DriverChannel
from medfuncta_dist.training.liveness.heartbeat import collective_timeout_s
from medfuncta_dist.training.mailbox import AttemptEnd
from medfuncta_dist.training.optim.engine import join_process_group, share_of_loss
from medfuncta_dist.training.optim.learning_rate import learning_rate
from medfuncta_dist.training.rank_setup import RankContext, RestoredNetwork, open_rank, restore
from medfuncta_dist.training.reporting.collapse import scatter, squares_about_mean
from medfuncta_dist.training.reporting.leader import StepRequests
from medfuncta_dist.training.reporting.step_statistics import StepStatistics
from medfuncta_dist.training.step_numbers import DeviceMoment, StepNumbers
from medfuncta_dist.training.subject import Subject
from medfuncta_dist.training.world import World

T = TypeVar("T")


class Preempted(RayActorError):
    """A node is being drained, and all is saved. Ray Train treats it as what it would see a little later, the death of
    a worker by preemption, and starts the group again elsewhere, at the cost of the preemption budget."""


def train_worker(run: RunFile, subject: Subject, mailbox: Any, fence: Guard, began: float) -> None:
    """Train until done, stopped or broken. Ray Train starts this again, on every rank, when any rank breaks.

    An error that starting again cannot fix goes to the driver's mailbox first; workers that start after that return.
    ``began`` is when this process started to import what it needs (s since 1970).
    """
    channel = DriverChannel(mailbox, ray.get)
    if channel.has_failed():
        return
    try:
        node = ray.get_runtime_context().get_node_id()
        with open_training(run, subject, channel, fence, node, began) as loop:
            loop.finish()
    except TrainingCollapsedError as error:
        channel.report_failure(error)  # Every rank saw it and returns, so nothing is left to restart.
    except StorageError:
        raise
    except MedfunctaError as error:
        channel.report_failure(error)
        raise


@contextmanager
def open_training(
    run: RunFile, subject: Subject, channel: DriverChannel, fence: Guard, node: str, began: float
) -> Iterator[TrainLoop]:
    """One rank of one attempt, restored and ready, while the block runs. What it opens is closed however that ends.

    ``node`` is the id of this machine in the cluster.
    """
    torch.set_num_threads(run.cluster.threads)
    with ExitStack() as stack:
        device = join_process_group(run.cluster.gpus_per_worker)
        world = World.from_process_group(device, collective_timeout_s(run.train.hang_timeout))
        rank = open_rank(run, subject, channel, fence, node, world, stack)
        restored = restore(rank, stack)
        uploader = CheckpointUploader(
            restored.checkpoints, rank.channel, world.rank, world.size, before_commit=rank.leader.flush
        )
        saver = CheckpointSaver(uploader, rank.leader, world, rank.heartbeat, restored.engine, rank.facts)
        _log_start(rank, restored.first, began)
        yield subject.loop(rank, restored, saver)


def _log_start(rank: RankContext, first: int, began: float) -> None:
    pids = rank.world.gather(os.getpid())
    rank.leader.event(
        "started",
        attempt=rank.attempt.name,
        step=first,
        workers=rank.world.size,
        pids=pids,
        nodes=[node[:12] for node in rank.nodes],
        device=rank.device,
        setup_s=round(time.time() - began, 3),
    )


@dataclass(frozen=True)
class TakenStep:
    """An outer step that was given to the device, as the host knows it; numbers are over all ranks."""

    step: int
    """Steps taken since the beginning of the run, this one included."""
    rate: float
    wait_s: float
    """Mean time that a rank waited for its scans."""
    freedom: float
    """Degrees of freedom of this batch's scatter (`collapse.scatter`)."""
    requests: StepRequests


@dataclass(frozen=True)
class StepResult:
    """What the device found in an outer step, over all ranks."""

    step: int
    loss: float
    gradient_norm: float
    scatter: float
    """Of this batch's scans about their mean (`collapse.scatter`)."""


class TrainLoop:
    """The steps of one rank of one attempt; ``finish`` takes those that are left.

    What a subject of training has of its own is in a class of its own: ``watch``, ``validate``, ``write_result``.
    """

    @property
    def validates(self) -> bool:
        """Whether there is something to validate with."""
        return False

    def __init__(self, rank: RankContext, restored: RestoredNetwork, saver: CheckpointSaver) -> None:
        self.run, self.world, self.store, self.channel = rank.run, rank.world, rank.store, rank.channel
        self.heartbeat, self.leader, self.feed = rank.heartbeat, rank.leader, rank.feed
        self.rank, self.saver = rank, saver
        self.learner, self.engine = restored.learner, restored.engine
        self.first, self.batches = restored.first, restored.batches
        self.previous_end = rank.previous.last_end if rank.previous is not None else None
        self.statistics = _statistics(self.run.train.batch, self.previous_end)
        self.numbers = StepNumbers[TakenStep](
            lambda taken: self.heartbeat.set_phase("the inner loop, on the device", taken.step - 1),
            lambda taken: self.heartbeat.set_phase("reading the loss", taken.step - 1, waits_for_others=True),
        )

    def finish(self) -> None:
        """Take the steps that are left and write the result; or stop early, saved, when the driver asks."""
        if self._take_steps() == self.run.train.steps:
            self.write_result()
        # No rank falls silent before rank 0 is done: one that is silent while others are at work counts as hung.
        self.heartbeat.set_phase("waiting for rank 0", self.run.train.steps, waits_for_others=True)
        self.world.wait_for_leader()
        if self.world.is_leader:
            self.channel.mark_finished()  # now, not after telemetry is closed: the other ranks fall silent from here on

    def watch(self, result: StepResult) -> None:
        """The numbers of a step are known: report signs of training that goes wrong."""

    def validate(self, step: int) -> None:
        """Measure, after ``step`` steps, what held-out scans tell. On every rank alike."""

    def write_result(self) -> None:
        """All steps are taken, and the last checkpoint is stored: write what was trained. On every rank alike."""

    def _take_steps(self) -> int:
        """The train loop. Returns the number of steps taken since the beginning of the run."""
        step = self.first
        self.heartbeat.set_phase("reading scans", step)
        for placed, began, waited_s in _timed(self.batches):
            taken = self._take_step(placed, waited_s)
            step = taken.step
            result = self._read_numbers(all_steps=self._must_know(taken))
            self.statistics.add(step, time.perf_counter() - began, taken.wait_s)
            self._report_step(step)
            self._log_metrics(taken, result)
            if self.validates and self._is_due(step, self.run.train.validate_steps):
                self.validate(step)
            if taken.requests.check_preemption and not self.is_last(step):
                self._leave_if_preempted(step)
            if self._must_save(taken):
                self.saver.save(step)
            if taken.requests.stop:
                self._record_stop(step)
                break
            self.heartbeat.set_phase("reading scans", step)
        self.saver.wait_for_upload(step)
        return step

    def _take_step(self, placed: Placed, waited_s: float) -> TakenStep:
        """An outer step. TrainingCollapsedError where it cannot be taken because of the step before."""
        try:
            return self._give_step(placed, waited_s)
        except Exception:
            # The step before may have spoiled the parameters without anyone having read so yet.
            self._read_numbers(all_steps=True)
            raise

    def _give_step(self, placed: Placed, waited_s: float) -> TakenStep:
        """Give the device an outer step: the inner loop on this rank's scans, a sum over ranks, a gradient step."""
        train, index = self.run.train, placed.batch.step
        self.heartbeat.set_phase("the inner loop", index)
        losses = self.engine.losses(*self.feed.inputs(placed.targets, placed.contexts))
        squares, freedom = squares_about_mean(placed.targets)
        own = torch.stack([losses.detach().sum().double() / train.batch, squares.double()])
        computed = DeviceMoment(self.world.device)
        requests = self.leader.requests(upload_running=self.saver.upload_running).encode()

        self.heartbeat.set_phase("summing the losses", index, waits_for_others=True)
        wait_s, requests, freedom = self.world.sum([waited_s / self.world.size, requests, freedom])
        sums = self.world.sum_on_device(own)

        rate = learning_rate(index, train)
        self.heartbeat.set_phase("exchanging gradients", index, waits_for_others=True)
        norm = self.engine.step(share_of_loss(losses, train.batch, self.world.size), rate)
        taken = TakenStep(index + 1, rate, wait_s, freedom, StepRequests.decode(requests))
        self.numbers.add(taken, torch.cat([sums, norm.double().view(1)]), computed)
        return taken

    def _read_numbers(self, *, all_steps: bool) -> StepResult | None:
        """Read and report what the device found in the steps that were not read yet: in all, or in all but the last.

        Returns the last one. TrainingCollapsedError for the first step whose loss or gradient norm is not finite.
        """
        result = None
        for taken, (loss, squares, norm) in self.numbers.read(all_steps=all_steps):
            _check_finite("loss", loss, taken.step)
            _check_finite("gradient norm", norm, taken.step)
            result = StepResult(taken.step, loss, norm, scatter(squares, taken.freedom))
            self._report_result(result)
        return result

    def _must_know(self, taken: TakenStep) -> bool:
        """Whether the loss of a step must be known before anything else: when something is to be kept or said of it."""
        train, telemetry = self.run.train, self.run.telemetry
        due = self._is_due(taken.step, telemetry.log_steps)
        due |= self.validates and self._is_due(taken.step, train.validate_steps)
        return due or self._is_first(taken.step) or self._must_save(taken)

    def _report_result(self, result: StepResult) -> None:
        """What follows when the numbers of a step are known: progress to the driver, signs of a collapse."""
        self.statistics.add_loss(result.loss)
        self.leader.post_step(result.step, result.loss)
        self.watch(result)

    def _report_step(self, step: int) -> None:
        """What follows when a step was taken: the outcome of an upload, and after the first one the recovery."""
        self.saver.collect_upload()
        if self._is_first(step):
            self.heartbeat.end_warm_up()
            self._log_recovery(step)

    def _log_metrics(self, taken: TakenStep, result: StepResult | None) -> None:
        if result is not None and self._is_due(taken.step, self.run.telemetry.log_steps):
            metrics = self.statistics.take_metrics()
            metrics |= self.learner.diagnostics()
            self.leader.log(taken.step, **metrics, rate=taken.rate, gradient_norm=result.gradient_norm)

    def _log_recovery(self, step: int) -> None:
        """The first step after an attempt that ended early: how long that took, and what it cost."""
        before = self.previous_end
        if before is not None:
            seconds, redone = round(time.time() - before.time, 3), max(0, before.step - self.first)
            self.leader.event("recovered", step=step, seconds=seconds, redone=redone, cause=before.cause)
            self.leader.log(step, recovery_s=seconds, redone_steps=redone)

    def _is_first(self, step: int) -> bool:
        """Whether this is the first step of this attempt."""
        return step == self.first + 1

    def is_last(self, step: int) -> bool:
        """Whether this is the last step of the run."""
        return step == self.run.train.steps

    def _is_due(self, step: int, every: int) -> bool:
        """Whether something that is done every so many steps, and after the last one, is due after this step."""
        return self.is_last(step) or step % every == 0

    def _must_save(self, taken: TakenStep) -> bool:
        every = self.run.train.checkpoint_steps
        due = every is not None and taken.step % every == 0
        return due or self.is_last(taken.step) or taken.requests.save or taken.requests.stop

    def _leave_if_preempted(self, step: int) -> None:
        """Where one of our nodes is about to go: save, say so, and leave for other nodes while there is time."""
        self.heartbeat.set_phase("looking for a drain notice", step, waits_for_others=True)
        notice = ray.train.get_preemption_info()
        if notice is None:
            return
        began = time.monotonic()
        self._read_numbers(all_steps=True)
        self.saver.save(step)
        self.saver.wait_for_upload(step)
        seconds = round(time.monotonic() - began, 3)
        left = None if notice.deadline_ms is None else round(notice.deadline_ms / 1000 - time.time(), 3)
        if self.world.is_leader and self.saver.committed == step:
            self.leader.event("preempted", step=step, seconds=seconds, seconds_left=left, ranks=notice.preempted_ranks)
            self.leader.log(step, preemption_save_s=seconds)
            self.leader.notify(
                f"a node is being drained: saved step {step} in {seconds:.1f} s; starting again elsewhere"
            )
            self.channel.end_attempt(step, "preemption")
        self.world.wait_for_leader()  # No rank leaves before rank 0 is done: the first to leave ends the others.
        raise Preempted(error_msg="a node is being drained", preempted=True)

    def _record_stop(self, step: int) -> None:
        """All is saved, and this is no failure: the next driver does not count as a recovery."""
        self.saver.wait_for_upload(step)
        if not self.is_last(step) and self.saver.committed == step:
            self.leader.event(STOPPED, step=step)


def _statistics(batch: int, previous_end: AttemptEnd | None) -> StepStatistics:
    if previous_end is None:
        return StepStatistics(batch)
    return StepStatistics(batch, previous_end.time, previous_end.step)


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
            f"the {what} of outer step {step} is {value}",
            do="lower train.rate or meta.inner_rate, or set train.clip; checkpoints before this step are kept",
        )
