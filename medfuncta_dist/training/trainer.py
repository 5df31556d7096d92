"""Training as seen from the driver: start the workers, follow them, end with the network or an error in words.

Ray Train brings workers up, restarts the group when one dies, and knows of preemptions. It keeps no state of ours: each
driver gives it a fresh run name and a local folder for its marker; checkpoints are our own (checkpoint.py).
"""

from __future__ import annotations

import math
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psutil
import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, LoggingConfig, PreemptionError, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import InterruptedRunError, MedfunctaError, RunChangedError
from medfuncta_dist.fanout import start_ray
from medfuncta_dist.storage.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import read_events
from medfuncta_dist.telemetry.goodput import Goodput, goodput
from medfuncta_dist.telemetry.progress import Progress
from medfuncta_dist.training.heartbeat import PATIENT_S
from medfuncta_dist.training.mailbox import Mailbox
from medfuncta_dist.training.network import Committed, committed_network

POLL_S = 0.3
STOP_S = 60.0
"""How long a stopping run may take to save: a step, a checkpoint, and some."""
KILL_S = 15.0
"""For a task to start on the node of a worker that hangs."""
QUIET_S = 60.0
"""After this long without a word from the workers, say what the cluster has."""


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


OnProgress = Callable[[str, dict[str, Any]], None]
"""Called with each message of the workers: its kind (``started``, ``step``, ``checkpoint`` …) and its fields."""


def train(
    run: RunFile, snapshot_digest: str, on_progress: OnProgress | None = None, *, fence: Fence | None = None
) -> TrainSummary:
    """Train the run's network on a snapshot, from its last checkpoint if there is one.

    Shows progress on stderr. Returns at once, without Ray, when the network is there already. Raises
    TrainingCollapsedError when the loss is not finite, InterruptedRunError after Ctrl-C or SIGTERM (saved first), other
    MedfunctaErrors as they are, and MedfunctaError when workers failed more than ``train.max_failures`` times.
    ``fence`` is passed before every commit (LeaseLostError).
    """
    began = time.monotonic()
    store = ObjectStore(run.storage)
    driver = _Driver(run, on_progress)
    if committed_network(store, run.name) is None:
        start_ray(run)
        with tempfile.TemporaryDirectory(prefix="medfuncta-train-", ignore_cleanup_errors=True) as folder:
            here = run.model_copy(update={"storage": store.root})
            driver.follow(_trainer(here, snapshot_digest, driver.mailbox, folder, fence))
    done = committed_network(store, run.name)
    if done is None:
        raise InterruptedRunError("training stopped before its last step", do="run the same command again to resume")
    _check_dataset(done, snapshot_digest, store.uri(f"runs/{run.name}"))
    first = driver.first_step if driver.first_step is not None else done.step
    figures = goodput(read_events(store, run.name, lambda text: print(text, file=sys.stderr)))
    seconds = round(time.monotonic() - began, 3)
    return TrainSummary(done.step, first, driver.attempts, done.loss, done.psnr, done.digest, seconds, figures)


def _trainer(run: RunFile, snapshot_digest: str, mailbox: Any, folder: str, fence: Fence | None) -> TorchTrainer:
    # Workers keep the driver's working folder: relative paths of the run file mean the same there.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    cluster, elastic = run.cluster, run.cluster.fewest_workers < run.cluster.most_workers
    # How long to wait for room. A node that has to pull an image needs long; but a range is asked for as many as were
    # there 20 s ago, and must ask again when one of their nodes has gone since.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "10" if elastic else "600"
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")  # Some clouds give 12 s; the default is 5.
    workers = (cluster.fewest_workers, cluster.most_workers) if elastic else cluster.most_workers
    resources = {"CPU": cluster.cpus_per_worker}
    if cluster.gpus_per_worker:
        resources["GPU"] = cluster.gpus_per_worker
    return TorchTrainer(
        worker_entry,
        train_loop_config={"run": run.model_dump(), "snapshot": snapshot_digest, "mailbox": mailbox, "fence": fence},
        # Only for collectives on which the heartbeats keep silent: start-up, and a driver that is gone.
        torch_config=TorchConfig(timeout_s=math.ceil(max(PATIENT_S, 2 * run.train.hang_timeout))),
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


def worker_entry(config: dict[str, Any]) -> None:
    """What Ray Train calls on each worker. Imports late: deepspeed prints when imported, and the driver's is stdout."""
    began = time.time()
    if not config["run"]["cluster"]["gpus_per_worker"]:
        os.environ["DS_ACCELERATOR"] = "cpu"
    from medfuncta_dist.training.worker import train_worker

    run = RunFile.model_validate(config["run"])
    train_worker(run, config["snapshot"], config["mailbox"], config["fence"], began)


class _Driver:
    """Follows one Ray Train run to its end."""

    def __init__(self, run: RunFile, on_progress: OnProgress | None) -> None:
        self._run, self._on_progress = run, on_progress
        self.first_step: int | None = None
        self.attempts = 0
        self._notes: dict[str, str] = {}

    @cached_property
    def mailbox(self) -> Any:
        """On the driver's own node, so that it does not go down with a preempted worker."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return ray.remote(num_cpus=0)(Mailbox).options(scheduling_strategy=here).remote()

    def follow(self, trainer: TorchTrainer) -> None:
        """Run the trainer, pass messages on, and raise what went wrong."""
        # In a thread of its own: there, Ray Train installs no signal handler, whose exit code for Ctrl-C would be 0.
        outcome = _Outcome(trainer)
        with Progress("train", self._run.train.steps) as progress, _interruptible():
            try:
                self._poll(outcome, progress, math.inf)
            except KeyboardInterrupt:
                progress.say("stopping: saving a checkpoint first (once more to stop at once)")
                self.mailbox.stop.remote()
                self._poll(outcome, progress, STOP_S)
        failure = ray.get(self.mailbox.failure.remote())
        if failure is not None:
            raise failure
        if outcome.error is not None:
            raise _in_words(outcome.error, self._run) from outcome.error

    def _poll(self, outcome: _Outcome, progress: Progress, seconds: float) -> None:
        deadline, heard = time.monotonic() + seconds, time.monotonic()
        while not outcome.over(POLL_S) and time.monotonic() < deadline:
            messages = ray.get(self.mailbox.drain.remote())
            self._end_hung(progress)
            if messages or self.attempts:
                heard = time.monotonic()
            elif time.monotonic() - heard > QUIET_S:
                heard = time.monotonic()
                progress.say(_waiting(self._run))
            self._tell(messages, progress)
        self._tell(ray.get(self.mailbox.drain.remote()), progress)

    def _end_hung(self, progress: Progress) -> None:
        """Kill the processes that keep the others waiting; Ray Train then starts the group again, as after a crash."""
        for hung in ray.get(self.mailbox.hung.remote(self._run.train.hang_timeout)):
            beat = hung.beat
            if kill_worker(beat.node, beat.pid):
                where = f"rank {beat.rank} (process {beat.pid} on node {beat.node[:12]})"
                progress.say(f"{where} hangs, {hung.why}: killed, the workers start again")
                self._heard("hung", {"rank": beat.rank, "pid": beat.pid, "node": beat.node, "why": hung.why})

    def _heard(self, kind: str, fields: dict[str, Any]) -> None:
        if self._on_progress is not None:
            self._on_progress(kind, fields)

    def _tell(self, messages: Sequence[tuple[str, dict[str, Any]]], progress: Progress) -> None:
        for kind, fields in messages:
            if kind == "step":
                progress.at(fields["step"], loss=f"{fields['loss']:.5f}", **self._notes)
            elif kind == "note":
                progress.say(fields["text"])
            elif kind == "started":
                self._started(fields["step"], fields["workers"], progress)
            elif kind == "finished":
                progress.at(fields["step"], **self._notes)
            elif kind == "validated":
                self._notes["psnr"] = f"{fields['psnr']:.2f} dB"
            self._heard(kind, fields)

    def _started(self, step: int, workers: int, progress: Progress) -> None:
        self.attempts += 1
        self.first_step = step if self.first_step is None else self.first_step
        again = "started again, " if self.attempts > 1 else ""
        progress.say(f"{again}{workers} worker{'s' * (workers > 1)}, from step {step}")


def kill_worker(node: str, pid: int) -> bool:
    """SIGKILL to a training worker, by a task on its node: nothing less ends a stopped one. Whether it was there.

    False also where the node does not answer: then Ray finds it dead by itself.
    """
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(_kill).options(scheduling_strategy=there)
    try:
        return bool(ray.get(task.remote(pid), timeout=KILL_S))
    except RayError:
        return False


def _kill(pid: int) -> bool:
    """Only a worker of Ray Train: a process that has ended may have left its number to another one."""
    try:
        process = psutil.Process(pid)
        if not any("TrainWorker" in word for word in process.cmdline()):
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


class _Outcome:
    """``trainer.fit()`` in a daemon thread: the driver can leave although Ray Train still waits."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self._thread.start()

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except Exception as error:
            self.error = error

    def over(self, seconds: float) -> bool:
        """Wait at most ``seconds``; whether it is over."""
        self._thread.join(seconds)
        return not self._thread.is_alive()


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM (a pod being stopped) becomes KeyboardInterrupt, as Ctrl-C is. Only a main thread may ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = [(number, signal.signal(number, interrupt)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _waiting(run: RunFile) -> str:
    """Ray waits for resources for ever, in silence; people should know."""
    cluster, total = run.cluster, ray.cluster_resources()  # type: ignore[no-untyped-call]
    return (
        f"waiting for {cluster.fewest_workers} workers of {cluster.cpus_per_worker:g} CPUs and "
        f"{cluster.gpus_per_worker:g} GPUs; "
        f"the cluster has {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
    )


def _in_words(error: Exception, run: RunFile) -> MedfunctaError:
    """Ray Train's error, with the first worker's reason instead of its pages of tracebacks."""
    if isinstance(error, PreemptionError):
        return InterruptedRunError(
            f"nodes went more than train.max_preemptions = {run.train.max_preemptions} times",
            do="run the same command again: it resumes at the last checkpoint",
        )
    failures = getattr(error, "worker_failures", None) or {0: error}
    # What a worker raised comes wrapped with its traceback. One worker's error fails the others' collectives, too: an
    # error of ours is the cause, theirs are the echo.
    reasons = {rank: getattr(failure, "_base_exc", failure) for rank, failure in failures.items()}
    ours = [reason for reason in reasons.values() if isinstance(reason, MedfunctaError)]
    if ours:
        return ours[0]
    rank, reason = next(iter(reasons.items()))
    lines = [line for line in str(reason).splitlines() if line.strip()]
    last = lines[-1] if lines else type(reason).__name__
    return MedfunctaError(
        f"workers failed more than train.max_failures = {run.train.max_failures} times, at last with: {last}",
        where=f"worker {rank}",
        do="mend the cause and run the same command again: it resumes at the last checkpoint",
    )


def _check_dataset(done: Committed, snapshot_digest: str, where: str) -> None:
    if done.dataset_digest != snapshot_digest:
        raise RunChangedError(
            "this run's network was trained on another snapshot",
            where=where,
            do="use another run name, or that snapshot",
        )
