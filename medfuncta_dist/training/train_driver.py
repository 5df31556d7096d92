"""The driver's part while Ray Train trains: it passes messages on, ends ranks that hang, and says how it ended."""

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
from medfuncta_dist.errors import InterruptedRunError, MedfunctaError
from medfuncta_dist.telemetry.progress_bar import Progress
from medfuncta_dist.training.mailbox import Mailbox

POLL_S = 0.3
STOP_S = 60.0
"""How long a stopping run may take to save: a step, a checkpoint, and some."""
KILL_S = 15.0
"""For a task to start on the node of a worker that hangs."""
QUIET_S = 60.0
"""After this long without a word from the workers, say what the cluster has."""


OnProgress = Callable[[str, dict[str, Any]], None]
"""Called with each message of the workers: its kind (``started``, ``step``, ``checkpoint`` …) and its fields."""


class Driver:
    """Follows one Ray Train run to its end."""

    def __init__(self, run: RunFile, on_progress: OnProgress | None) -> None:
        self._run, self._on_progress = run, on_progress
        self.first_step: int | None = None
        self.attempts = 0
        self.saved: int | None = None
        """The step of the last checkpoint that was committed meanwhile."""
        self._notes: dict[str, str] = {}
        self._kill_again = 0.0

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
        if time.monotonic() < self._kill_again:
            return
        for hung in ray.get(self.mailbox.hung.remote(self._run.train.hang_timeout)):
            beat = hung.beat
            killed = kill_worker(beat.node, beat.pid)
            if killed is None:
                self._kill_again = time.monotonic() + KILL_S
                return
            self.mailbox.ended_hung.remote()
            if killed:
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
            elif kind == "checkpoint":
                self.saved = fields["step"]
            elif kind == "validated":
                self._notes["psnr"] = f"{fields['psnr']:.2f} dB"
            self._heard(kind, fields)

    def _started(self, step: int, workers: int, progress: Progress) -> None:
        self.attempts += 1
        self.first_step = step if self.first_step is None else self.first_step
        again = "started again, " if self.attempts > 1 else ""
        progress.say(f"{again}{workers} worker{'s' * (workers > 1)}, from step {step}")


def kill_worker(node: str, pid: int) -> bool | None:
    """SIGKILL to a training worker, by a task on its node: nothing less ends a stopped one. Whether it was there.

    None where the node does not answer. Ray finds out by itself when it is dead; otherwise it is worth another try.
    """
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(_kill).options(scheduling_strategy=there)
    try:
        return bool(ray.get(task.remote(pid), timeout=KILL_S))
    except RayError:
        return None


def _kill(pid: int) -> bool:
    """Only a worker of Ray's: a process that has ended may have left its number to another one."""
    try:
        process = psutil.Process(pid)
        if not any(word.startswith("ray::") for word in process.cmdline()):
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


class _Outcome:
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

    def over(self, seconds: float) -> bool:
        """Wait at most ``seconds``; whether it is over."""
        return self._over.wait(seconds)


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
