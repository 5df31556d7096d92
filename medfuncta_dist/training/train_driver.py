"""The driver's part while Ray Train trains: it passes messages on, kills ranks that hang, raises what went wrong."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import psutil
import ray
from ray.exceptions import RayError
from ray.train import PreemptionError
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import InterruptedRunError, LimitReachedError, MedfunctaError
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport
from medfuncta_dist.training.mailbox import HALVED, Mailbox

POLL_S = 0.3
STOP_S = 60.0
"""How long a stopping run may take to save: a step, a checkpoint, and some."""
LIMIT_STOP_S = 600.0
"""The same where the run has used its hours: nobody waits for its node, and one long step may be on the way."""
KILL_S = 15.0
"""For a task to start on the node of a worker that hangs."""
QUIET_S = 60.0
"""After this long without a message from the workers, print what the cluster has."""


OnMessage = Callable[[str, dict[str, Any]], None]
"""Called with each message of the workers: its kind (``started``, ``step``, ``checkpoint`` …) and its fields."""


LimitReached = Callable[[], LimitReachedError | None]
"""Answers with an error once the run has used its hours or its money."""


def without_limit() -> None:
    """For a run that may take as long as it takes."""


class TrainDriver:
    """Follows one Ray Train run to its end."""

    def __init__(
        self,
        run: RunFile,
        on_progress: OnProgress,
        notify: Callable[[str], None],
        on_message: OnMessage | None,
        limit_reached: LimitReached = without_limit,
    ) -> None:
        self._run, self._on_progress, self._notify, self._on_message = run, on_progress, notify, on_message
        self._limit_reached = limit_reached
        self.limit: LimitReachedError | None = None
        """With what training must end, if the run has used its hours or its money."""
        self.first_step: int | None = None
        self.attempts = 0
        self.saved: int | None = None
        """The step of the last checkpoint that was committed meanwhile."""
        self._step = 0
        self._notes: dict[str, float | str] = {}
        self._no_kill_before = 0.0

    @cached_property
    def mailbox(self) -> Any:
        """On the driver's own node, so that it does not go down with a preempted worker."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return ray.remote(num_cpus=0)(Mailbox).options(scheduling_strategy=here).remote()

    def follow(self, trainer: TorchTrainer) -> None:
        """Run the trainer, pass messages on, and raise what went wrong."""
        # In a thread of its own: there Ray Train installs no signal handler, whose exit code for Ctrl-C would be 0.
        training = _TrainerThread(trainer)
        with _sigterm_interrupts():
            try:
                self._poll(training, math.inf)
                self._stop_at_limit(training)
            except KeyboardInterrupt:
                self._notify("stopping: saving a checkpoint first (repeat to stop at once)")
                self.mailbox.request_stop.remote()
                self._poll(training, STOP_S)
        failure = ray.get(self.mailbox.failure.remote())
        if failure is not None:
            raise failure
        if training.error is not None:
            raise _explained(training.error, self._run) from training.error

    def require_within_limit(self) -> None:
        """LimitReachedError where there is nothing left to train with."""
        error = self._limit_reached()
        if error is not None:
            raise error

    def _stop_at_limit(self, training: _TrainerThread) -> None:
        """Where the limit ended the polling: have the workers save, and wait for them."""
        if self.limit is None:
            return
        self._notify(f"stopping: {self.limit.what}; saving a checkpoint first")
        self.mailbox.request_stop.remote()
        # Workers that have not begun are not long waited for: they may never find room, and have nothing to save.
        self._poll(training, LIMIT_STOP_S if self.attempts else STOP_S)
        self.limit = self._limit_reached() or self.limit  # which tells the last step

    def _poll(self, training: _TrainerThread, seconds: float) -> None:
        """Pass messages on until training is over, for at most ``seconds``; without such a time, until the limit."""
        deadline, last_message = time.monotonic() + seconds, time.monotonic()
        while not training.wait(POLL_S) and time.monotonic() < deadline:
            if seconds == math.inf and (error := self._limit_reached()) is not None:
                self.limit = error
                break
            messages = ray.get(self.mailbox.drain.remote())
            self._kill_hung_workers()
            if messages or self.attempts:
                last_message = time.monotonic()
            elif time.monotonic() - last_message > QUIET_S:
                last_message = time.monotonic()
                self._notify(_awaited_resources(self._run))
            self._handle(messages)
        self._handle(ray.get(self.mailbox.drain.remote()))

    def _kill_hung_workers(self) -> None:
        """Kill the processes that keep the others waiting; Ray Train then starts the group again, as after a crash."""
        if time.monotonic() < self._no_kill_before:
            return
        for hung in ray.get(self.mailbox.find_hung.remote(self._run.train.hang_timeout)):
            beat = hung.heartbeat
            killed = kill_worker(beat.node, beat.pid)
            if killed is None:
                self._no_kill_before = time.monotonic() + KILL_S
                return
            self.mailbox.mark_hung_killed.remote()
            if killed:
                where = f"rank {beat.rank} (process {beat.pid} on node {beat.node[:12]})"
                self._notify(f"{where} hangs, {hung.reason}: killed, the workers start again")
                self._pass_on("hung", {"rank": beat.rank, "pid": beat.pid, "node": beat.node, "why": hung.reason})

    def _pass_on(self, kind: str, fields: dict[str, Any]) -> None:
        if self._on_message is not None:
            self._on_message(kind, fields)

    def _handle(self, messages: Sequence[tuple[str, dict[str, Any]]]) -> None:
        for kind, fields in messages:
            if kind == "note":
                self._notify(fields["text"])
            elif kind == HALVED:
                self._notify(
                    f"rank {fields['rank']} ran out of memory: it goes on with half the chunks, at most "
                    f"{fields['points']} points of {fields['scans']} scans at once"
                )
            elif kind == "started":
                self._start_attempt(fields["step"], fields["workers"])
            elif kind == "checkpoint":
                self.saved = fields["step"]
                self._step = max(self._step, self.saved)
                self._report(checkpoint=time.time())
            elif kind in ("step", "validated", "finished"):
                self._step = fields["step"]
                self._report(**{name: fields[name] for name in ("loss", "psnr") if fields.get(name) is not None})
            self._pass_on(kind, fields)

    def _start_attempt(self, step: int, workers: int) -> None:
        self.attempts += 1
        self._step = step
        self.first_step = step if self.first_step is None else self.first_step
        again = "started again, " if self.attempts > 1 else ""
        self._notify(f"{again}{workers} worker{'s' * (workers > 1)}, from step {step}")
        self._report(workers_started=True)

    def _report(self, workers_started: bool = False, **figures: float) -> None:
        """Report the last step that is known, with the last figures that are known."""
        self._notes |= figures
        total = self._run.train.steps
        self._on_progress(ProgressReport("train", self._step, total, dict(self._notes), workers_started))


def kill_worker(node: str, pid: int) -> bool | None:
    """SIGKILL a training worker, by a task on its node: nothing less ends a stopped process. Whether it was there.

    None where the node does not answer: if it is dead, Ray notices that; if not, the caller may try again.
    """
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(_kill).options(scheduling_strategy=there)
    try:
        return bool(ray.get(task.remote(pid), timeout=KILL_S))
    except RayError:
        return None


def _kill(pid: int) -> bool:
    """Only a worker of Ray's: another process may have got the number of one that has ended."""
    try:
        process = psutil.Process(pid)
        if not any(word.startswith("ray::") for word in process.cmdline()):
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


class _TrainerThread:
    """``trainer.fit()`` in a daemon thread: the driver can leave although Ray Train still waits."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self.error: Exception | None = None
        # Not Thread.join: Python 3.11 takes a thread for ended whose join a signal handler's exception interrupts.
        self._over = threading.Event()
        threading.Thread(target=self._fit, args=(trainer,), daemon=True).start()

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except Exception as error:
            self.error = error
        finally:
            self._over.set()

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds``; whether training is over."""
        return self._over.wait(seconds)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
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


def _awaited_resources(run: RunFile) -> str:
    """What is waited for and what there is: Ray itself waits for resources for ever, in silence."""
    cluster, total = run.cluster, ray.cluster_resources()  # type: ignore[no-untyped-call]
    return (
        f"waiting for {cluster.fewest_workers} workers of {cluster.cpus_per_worker:g} CPUs and "
        f"{cluster.gpus_per_worker:g} GPUs; "
        f"the cluster has {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
    )


def _explained(error: Exception, run: RunFile) -> MedfunctaError:
    """Ray Train's error, with the first worker's reason instead of its pages of tracebacks."""
    if isinstance(error, PreemptionError):
        return InterruptedRunError(
            f"nodes were preempted more than train.max_preemptions = {run.train.max_preemptions} times",
            do="run the same command again: it resumes at the last checkpoint",
        )
    failures = getattr(error, "worker_failures", None) or {0: error}
    # What a worker raised comes wrapped with its traceback. One worker's error fails the others' collectives, too: an
    # error of ours is the cause, theirs follow from it.
    reasons = {rank: getattr(failure, "_base_exc", failure) for rank, failure in failures.items()}
    ours = [reason for reason in reasons.values() if isinstance(reason, MedfunctaError)]
    if ours:
        return ours[0]
    rank, reason = next(iter(reasons.items()))
    lines = [line for line in str(reason).splitlines() if line.strip()]
    last = lines[-1] if lines else type(reason).__name__
    return MedfunctaError(
        f"workers failed more than train.max_failures = {run.train.max_failures} times; the last failure: {last}",
        where=f"worker {rank}",
        do="fix the cause and run the same command again: it resumes at the last checkpoint",
    )
