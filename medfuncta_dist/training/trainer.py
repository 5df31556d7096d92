"""Training as seen from the driver: start the workers, follow them, end with the network or a clear error.

Ray Train starts workers, restarts the group when one dies, and handles preemptions. It keeps no state of ours: each
driver gives it a new run name and a local folder for its own files; checkpoints are ours (checkpoint.py).
"""

from __future__ import annotations

import math
import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray.train
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.constants import TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
from ray.train.torch import TorchConfig, TorchTrainer

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import InterruptedRunError, LimitReachedError, RunChangedError
from medfuncta_dist.fanout import start_ray
from medfuncta_dist.meta.device import granted_device
from medfuncta_dist.network.committed_network import Committed, committed_network
from medfuncta_dist.network.start_network import take_start
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, Guard
from medfuncta_dist.storage.scratch import scratch_folder
from medfuncta_dist.streaming.compile_cache import use_compile_cache
from medfuncta_dist.streaming.shard_cache import cache_folder
from medfuncta_dist.telemetry.event_log import read_events
from medfuncta_dist.telemetry.goodput import Goodput, goodput
from medfuncta_dist.telemetry.progress_report import OnProgress, ignore_progress
from medfuncta_dist.telemetry.run_log.worker_lines import logging_errors, write_line
from medfuncta_dist.training.liveness.heartbeat import collective_timeout_s
from medfuncta_dist.training.network_subject import NetworkSubject
from medfuncta_dist.training.subject import Subject
from medfuncta_dist.training.train_driver import LimitReached, OnMessage, TrainDriver, without_limit

SHUTDOWN_S = 5
"""How long Ray Train waits, before it kills the workers, for their process group to be destroyed; 30 s by default. A
sound group takes less than a second. One that lost a rank may never be: its GPUs wait in a collective for that rank.
Nothing is lost with it, since all that counts is in storage, and each second of the wait is one of a recovery."""


@dataclass(frozen=True)
class TrainSummary:
    """What training did. ``first_step`` is where this command began: 0, or a checkpoint's step, or all of them."""

    steps: int
    first_step: int
    attempts: int
    loss: float | None
    psnr: float | None
    """Mean held-out PSNR (dB) at the end; None without a held-out split."""
    network_digest: str
    seconds: float
    goodput: Goodput
    """Of the whole run, over all its attempts and commands."""
    started_from: str | None = None
    """Digest of the network that it began with; None where it was drawn."""


def log_line(text: str) -> None:
    """Print a line for people."""
    print(text, file=sys.stderr, flush=True)


def train(
    run: RunFile,
    snapshot_digest: str,
    on_message: OnMessage | None = None,
    *,
    on_progress: OnProgress = ignore_progress,
    notify: Callable[[str], None] = log_line,
    limit_reached: LimitReached = without_limit,
    fence: Guard = ALONE,
) -> TrainSummary:
    """Train the run's network on a snapshot, from its last checkpoint if there is one.

    ``on_message`` gets each message of the workers, ``on_progress`` what follows from them for the stage's progress,
    ``notify`` lines for people. Returns at once, without Ray, when the network is there already. Raises
    TrainingCollapsedError when the loss is not finite, InterruptedRunError after Ctrl-C or SIGTERM (saved first), other
    MedfunctaErrors as they are, and MedfunctaError when workers failed more than ``train.max_failures`` times. Once
    ``limit_reached`` answers with an error, training is stopped as by Ctrl-C, and ends with that error.
    ``fence`` is passed before every commit (LeaseLostError).
    """
    began = time.monotonic()
    store = ObjectStore(run.storage)
    driver = TrainDriver(run, on_progress, notify, on_message, limit_reached)
    _require_own(found := committed_network(store, run.name), store.uri(f"runs/{run.name}"))
    if _is_short(found, run):
        driver.require_within_limit()
        take_start(run, store, fence)
        _warn_of_idle_steps(run, notify)
        follow(run, NetworkSubject(snapshot_digest), driver, fence)
    done = committed_network(store, run.name)
    if done is None or _is_short(done, run):
        raise stopped_early(driver)
    _check_dataset(done, snapshot_digest, store.uri(f"runs/{run.name}"))
    first = driver.first_step if driver.first_step is not None else done.step
    figures = goodput(read_events(store, run.name, notify))
    seconds = round(time.monotonic() - began, 3)
    return TrainSummary(
        done.step, first, driver.attempts, done.loss, done.psnr, done.digest, seconds, figures, done.started_from
    )


def follow(run: RunFile, subject: Subject, driver: TrainDriver, fence: Guard) -> None:
    """Have Ray Train's workers train the subject, to its end or until the driver stops them. ``run``: as the run file
    says, which the workers place as the subject wants it."""
    start_ray(run)
    with scratch_folder("train") as folder:
        here = run.model_copy(update={"storage": ObjectStore(run.storage).root})
        driver.follow(_trainer(here, subject, driver.mailbox, str(folder), fence))


def stopped_early(driver: TrainDriver) -> InterruptedRunError:
    """The error of training that was stopped before its last step: by hand, or at a limit of the run."""
    saved = "nothing new saved" if driver.saved is None else f"saved up to step {driver.saved}"
    if driver.limit is not None:
        return LimitReachedError(f"{driver.limit.what}, {saved}", do=driver.limit.do)
    return InterruptedRunError(
        f"training stopped before its last step, {saved}", do="run the same command again to resume"
    )


def _is_short(done: Committed | None, run: RunFile) -> bool:
    """Whether steps are left to take: there is no network yet, or it is that of the steps that the run had before."""
    return done is None or done.step < run.train.steps


def _require_own(done: Committed | None, where: str) -> None:
    if done is not None and done.imported:
        raise RunChangedError(
            "this run's network was imported, and is not trained here",
            where=where,
            do="go on with the fit stage; to train it further, begin a run that starts from this one: "
            "`medfuncta-dist fork RUN.yaml NEW`",
        )


def _warn_of_idle_steps(run: RunFile, notify: Callable[[str], None]) -> None:
    if run.train.idle_steps:
        notify(
            f"warning: the last {run.train.idle_steps} of {run.train.steps} outer steps change nothing: the step size "
            f"is 0 from step {run.train.horizon} on, where the cosine schedule ends (train.schedule_steps). For a new "
            "schedule, begin a run that starts from this one: medfuncta-dist fork RUN.yaml NEW"
        )


def _trainer(run: RunFile, subject: Subject, mailbox: Any, folder: str, fence: Guard) -> TorchTrainer:
    # Workers keep the driver's working folder: relative paths of the run file mean the same there.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    cluster, elastic = run.cluster, run.cluster.fewest_workers < run.cluster.most_workers
    # How long to wait for room. A node that has to pull an image needs long; but a range is asked for as many as were
    # there 20 s ago, and must ask again when one of their nodes has gone since.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "10" if elastic else "600"
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")  # Until a dead worker is noticed; the default is 2.
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")  # Some clouds give 12 s; the default is 5.
    workers = (cluster.fewest_workers, cluster.most_workers) if elastic else cluster.most_workers
    resources = {"CPU": cluster.cpus_per_worker}
    if cluster.gpus_per_worker:
        resources["GPU"] = cluster.gpus_per_worker
    return TorchTrainer(
        worker_entry,
        train_loop_config={"run": run.model_dump(), "subject": subject, "mailbox": mailbox, "fence": fence},
        torch_config=QuickShutdown(timeout_s=math.ceil(collective_timeout_s(run.train.hang_timeout))),
        scaling_config=ScalingConfig(
            num_workers=workers,  # type: ignore[arg-type]
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=f"{run.name}-{secrets.token_hex(4)}",
            storage_path=folder,
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=run.train.max_failures,
                max_preemption_failures=-1 if run.train.max_preemptions is None else run.train.max_preemptions,
            ),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_shutdown(self, *arguments: Any) -> None:
        # Read here, in Ray Train's controller, which gets no variable of that name from the driver's process.
        os.environ.setdefault(TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S, str(SHUTDOWN_S))
        super().on_shutdown(*arguments)


class QuickShutdown(TorchConfig):
    """Torch's process group, which is not long waited for when it ends."""

    @property
    def backend_cls(self) -> type[_Backend]:
        """What Ray Train's controller starts and ends the group with."""
        return _Backend


def worker_entry(config: dict[str, Any]) -> None:
    """What Ray Train calls on each worker. Imports late: deepspeed prints when imported, and the driver's is stdout."""
    began = time.time()
    # Before the first import of deepspeed, which else takes whatever it finds.
    os.environ["DS_ACCELERATOR"] = granted_device(config["run"]["cluster"]["gpus_per_worker"]).type
    use_compile_cache(cache_folder(config["run"]["cluster"]["cache"]))
    from medfuncta_dist.training.train_worker import train_worker

    run, place = config["subject"].placed(RunFile.model_validate(config["run"])), ray.train.get_context()
    rank = place.get_world_rank()
    write_line(f"a training worker starts, one of {place.get_world_size()}", rank=rank)
    with logging_errors("the training worker ends with an error", rank):
        train_worker(run, config["subject"], config["mailbox"], config["fence"], began)


def _check_dataset(done: Committed, snapshot_digest: str, where: str) -> None:
    if done.dataset_digest != snapshot_digest:
        raise RunChangedError(
            "this run's network was trained on another snapshot",
            where=where,
            do="use another run name, or that snapshot",
        )
