"""What one training worker does, from its first line to its last. Imported in workers only: it pulls in deepspeed."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train
import torch
from torch import Tensor

from medfuncta_dist import __version__
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import MedfunctaError, RunChangedError, StorageError, TrainingCollapsedError
from medfuncta_dist.fields.siren import FieldSpec, Params
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.shards.snapshot import load_snapshot, split_digest
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.cache import ShardCache, cache_folder
from medfuncta_dist.streaming.order import EpochOrder, position, rank_slice
from medfuncta_dist.streaming.source import SampleReader
from medfuncta_dist.streaming.stream import Batch, training_stream
from medfuncta_dist.streaming.transfer import on_device
from medfuncta_dist.telemetry.event_log import EventLog, history
from medfuncta_dist.telemetry.metrics import RayMetrics
from medfuncta_dist.telemetry.telemetry import Sink, Telemetry
from medfuncta_dist.training.attempt import Attempt, next_attempt
from medfuncta_dist.training.checkpoint import Checkpoint, Checkpoints, Facts
from medfuncta_dist.training.collapse import ADVICE, Finding, Watch, scatter, squares_about_mean
from medfuncta_dist.training.engine import Engine, connect, share_of_loss
from medfuncta_dist.training.leader import Leader, Wishes
from medfuncta_dist.training.network import commit_network, new_learner
from medfuncta_dist.training.pace import Pace
from medfuncta_dist.training.schedule import learning_rate
from medfuncta_dist.training.validation import Validation, held_out_split, spread
from medfuncta_dist.training.world import World

T = TypeVar("T")

TRAIN = "train"
"""The split that is trained on."""


def train_worker(run: RunFile, snapshot_digest: str, mailbox: Any) -> None:
    """Train until done, stopped or broken. Ray Train starts this again, on every rank, when any rank breaks.

    An error that starting again can not heal goes to the driver's mailbox first; whoever starts after that leaves.
    """
    if ray.get(mailbox.failure.remote()) is not None:
        return
    try:
        Training(run, snapshot_digest, mailbox).finish()
    except TrainingCollapsedError as error:
        ray.get(mailbox.fail.remote(error))  # Every rank saw it and returns, so nothing is left to restart.
    except StorageError:
        raise
    except MedfunctaError as error:
        ray.get(mailbox.fail.remote(error))
        raise


class Training:
    """One rank of one attempt, restored and ready; ``finish`` takes the steps that are left."""

    def __init__(self, run: RunFile, snapshot_digest: str, mailbox: Any) -> None:
        torch.set_num_threads(run.cluster.threads)
        self.run, self.world, self.store = run, World.here(connect()), ObjectStore(run.storage)
        self.snapshot = load_snapshot(self.store, run.dataset, snapshot_digest)
        attempt: Attempt = self.world.from_leader(next_attempt(self.store, run.name) if self.world.leads else None)
        self.checkpoints = Checkpoints(self.store, run.name, attempt, run.train.keep_checkpoints)
        self.leader = _leader(run, self.store, attempt, mailbox, self.world)

        self.learner = new_learner(run)
        found = self._restore()
        if found is not None:
            self.learner.load({name: whole.param for name, whole in found.state.items()})
        self.engine = Engine(self.learner, run.train)
        if found is not None:
            self.engine.still_step(*self._inputs(torch.zeros(1, run.data.points, run.data.channels), step=0))
            self.engine.load_moments(found.state, found.facts.step)
        self.first = found.facts.step if found is not None else 0
        self.cache = _cache(run, self.store)
        pids = self.world.gather(os.getpid())
        self.leader.event("started", attempt=attempt.name, step=self.first, workers=self.world.size, pids=pids)

    def finish(self) -> None:
        """Take the steps that are left and write the network; or stop early, saved, when the driver asks."""
        try:
            if self._take_steps() == self.run.train.steps:
                self._write_network()
        finally:
            self.leader.close()

    def _take_steps(self) -> int:
        """The train loop. Returns the number of steps taken since the beginning of the run."""
        train, step, pace = self.run.train, self.first, Pace(self.run.train.batch)
        validation = self._validation()
        seen_preemption, watch = False, Watch(train.steps)
        for (batch, targets), began, waited in _timed(self._batches()):
            losses = self.engine.losses(*self._inputs(targets, batch.step))
            loss, wait, wish, *spread_out = self.world.sum(
                [
                    float(losses.detach().sum()) / train.batch,
                    waited / self.world.size,
                    self.leader.wishes().encode(),
                    *squares_about_mean(targets),
                ]
            )
            _check_finite("loss", loss, batch.step)
            rate = learning_rate(batch.step, train)
            norm = self.engine.step(share_of_loss(losses, train.batch, self.world.size), rate)
            _check_finite("gradient norm", norm, batch.step)
            step, wishes = batch.step + 1, Wishes.decode(wish)

            last = step == train.steps
            pace.add(loss, time.perf_counter() - began, wait)
            self.leader.at(step, loss)
            self._warn(step, watch.trained(step, loss, scatter(*spread_out)))
            if last or step % self.run.telemetry.log_steps == 0:
                self.leader.log(step, **pace.take(), rate=rate, gradient_norm=norm)
            if validation is not None and (last or step % train.validate_steps == 0):
                psnr = validation.psnr(*self._field())
                self.leader.validated(step, psnr, validation.picture)
                self._warn(step, watch.validated(psnr))
            preempted = wishes.look and not seen_preemption and ray.train.get_preemption_info() is not None
            seen_preemption = seen_preemption or preempted
            if last or step % train.checkpoint_steps == 0 or wishes.save or wishes.stop or preempted:
                self._save(step)
            if wishes.stop:
                break
        return step

    def _warn(self, step: int, findings: Iterable[Finding]) -> None:
        """Say that training goes wrong. It goes on: whoever watches may know better, and stopping can be asked for."""
        for finding in findings:
            self.leader.event("collapse", step=step, finding=finding)
            self.leader.say(f"outer step {step}: {ADVICE[finding]}")

    def _save(self, step: int) -> None:
        """Every rank its share, then rank 0 the commit record."""
        self.leader.saving()
        share = self.engine.share_of_state()
        file = self.checkpoints.write_share(step, self.world.rank, self.world.size, share)
        files = self.world.gather(file)
        if self.world.leads:
            self.checkpoints.commit(self._facts(step), files)
            self.leader.event("checkpoint", step=step)

    def _restore(self) -> Checkpoint | None:
        """The newest whole checkpoint: rank 0 finds and verifies it, the others then read the same one."""
        shapes = self.learner.shapes
        found = self.checkpoints.restore_latest(shapes, self.leader.say) if self.world.leads else None
        record = self.world.from_leader(found.record if found is not None else None)
        if record is not None and found is None:
            found = self.checkpoints.load(record, shapes)
        if found is not None:
            _check_same(found.facts, self._facts(self.run.train.steps), self.store.uri(found.record))
        return found

    def _facts(self, step: int) -> Facts:
        epoch, batch = position(step, self._order(0).batches)
        return Facts(
            step=step,
            epoch=epoch,
            batch=batch,
            dataset_digest=self.snapshot.digest,
            run_digest=self.run.digest(),
            field_digest=self.run.digest("field"),
            zero_stage=self.run.train.zero_stage,
            world_size=self.world.size,
            code_version=__version__,
        )

    def _order(self, epoch: int) -> EpochOrder:
        train = self.run.train
        return EpochOrder(
            [shard.samples for shard in self.snapshot.shards(TRAIN)],
            batch=train.batch,
            seed=train.seed,
            epoch=epoch,
            digest=split_digest(self.snapshot, TRAIN),
            window=train.shuffle_window,
        )

    def _batches(self) -> Iterable[tuple[Batch, Tensor]]:
        reader = SampleReader(self.store, self.snapshot.shards(TRAIN), self.cache)
        rows = rank_slice(self.run.train.batch, self.world.size, self.world.rank)
        stream = training_stream(reader, self._order, self.first, self.run.train.steps, rows)
        return on_device(stream, self.world.device)

    def _validation(self) -> Validation | None:
        split = held_out_split(self.snapshot)
        if split is None:
            return None
        shards = self.snapshot.shards(split)
        ids = spread([shard.samples for shard in shards], self.run.train.validate_scans)
        return Validation(self.run, SampleReader(self.store, shards, self.cache), ids, self.world)

    def _inputs(self, targets: Tensor, step: int) -> tuple[Any, ...]:
        """What the learner's forward takes: scans, latents to start from, and the step's context sets."""
        meta, device = self.run.meta, self.world.device
        # Requires grad, although nobody asks for its gradient: at ZeRO 3 its hook gathers the parameters (engine.py).
        latents = torch.zeros(len(targets), self.run.field.latent, device=device, requires_grad=True)
        contexts = context_sets(
            targets.shape[1], meta.selection_ratio, meta.inner_steps, seed=self.run.train.seed, outer_step=step
        )
        return targets.to(device), latents, contexts

    def _field(self) -> tuple[FieldSpec, Params, Tensor]:
        return self.learner.spec, self.engine.full_parameters(), self.learner.coordinates

    def _write_network(self) -> None:
        params = self.engine.full_parameters()
        if not self.world.leads:
            return
        self.leader.saving()
        loss, psnr = (history(self.store, self.run.name, metric) for metric in ("loss", "psnr"))
        last = [found[-1][1] if found else None for found in (loss, psnr)]
        done = commit_network(self.store, self.run, self.snapshot, params, *last)
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


def _leader(run: RunFile, store: ObjectStore, attempt: Attempt, mailbox: Any, world: World) -> Leader:
    """Rank 0's telemetry and its line to the driver; on other ranks, a leader that does nothing."""

    def tell(kind: str, **fields: Any) -> None:
        mailbox.post.remote(kind, fields)

    def asked_to_stop() -> bool:
        return bool(ray.get(mailbox.stopping.remote()))

    telemetry = _telemetry(run, store, attempt) if world.leads else None
    return Leader(telemetry, tell, asked_to_stop, run.train.checkpoint_minutes)


def _telemetry(run: RunFile, store: ObjectStore, attempt: Attempt) -> Telemetry:
    openers: list[Callable[[], Sink]] = [
        lambda: EventLog(store, run.name, attempt.name),
        lambda: RayMetrics(run.name, "train"),
    ]
    if run.telemetry.wandb != "off":
        openers.append(lambda: _wandb(run, attempt))
    return Telemetry(openers, images=run.telemetry.images)


def _wandb(run: RunFile, attempt: Attempt) -> Sink:
    from medfuncta_dist.telemetry.wandb_sink import WandbSink  # half a second that only rank 0 of a W&B run needs

    return WandbSink(run, attempt.name, work_folder(run.name))


def work_folder(run: str) -> Path:
    """A run's local folder on this machine: what is in it (offline W&B runs) is never uploaded."""
    return Path(tempfile.gettempdir()) / "medfuncta-work" / run


def _cache(run: RunFile, store: ObjectStore) -> ShardCache:
    return ShardCache(store, cache_folder(run.cluster.cache), int(run.cluster.cache_gigabytes * 2**30))
