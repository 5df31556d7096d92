"""Maps items over Ray tasks: a bounded window in flight, results in the order of completion, dead tasks retried."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import ray
from ray.exceptions import LocalRayletDiedError, NodeDiedError, RayError, RayTaskError

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import MedfunctaError, RunFileError, WorkerDiedError
from medfuncta_dist.task_map import Done, Failed, FanOut

OBJECT_STORE_BYTES = 500_000_000
"""Of a Ray that is started here. Nothing large passes through it, and the default is a third of the memory."""
MAX_NODES_LOST = 20
"""Nodes that may be lost under one task. A lost node is no sign of a bad task, but a task that kills every node
must end, too."""
STRAGGLER_FACTOR = 4.0
"""Of the median time of finished tasks: a task that takes longer is a straggler."""
STRAGGLER_MIN_S = 5.0
"""A task that takes less is no straggler: below this, differences are noise."""
RECENT_TASKS = 100
"""Last finished tasks that the median is taken over."""
MIN_RECENT_TASKS = 3
"""Finished tasks without which there is no median to compare with."""
CHECK_S = 1.0
"""Between checks of how long tasks take."""


def start_ray(run: RunFile) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine with room for the run's workers.

    Does nothing when this process is connected. Workers' output stays in Ray's own logs: here it would reach stdout,
    which holds only the command's answer. MedfunctaError when the cluster does not answer.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    here = {} if address else _on_this_machine(run)
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise MedfunctaError(
            f"Ray cannot be reached: {error}",
            where=f"RAY_ADDRESS={address}" if address else "a Ray started on this machine",
            do="check whether the cluster runs (`ray status`), or unset RAY_ADDRESS to start Ray here",
        ) from error


def _on_this_machine(run: RunFile) -> dict[str, Any]:
    # As many CPUs as the workers ask for, even where there are fewer: a small machine runs them, only more slowly.
    cpus = max(os.cpu_count() or 1, math.ceil(run.cluster.most_workers * run.cluster.cpus_per_worker))
    return {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}


def require_room(*, num_cpus: float, num_gpus: float) -> None:
    """Refuse tasks too large for a Ray that was started here; on a cluster, which may grow, print what they wait for.

    Ray itself waits for ever, without a message. RunFileError where no machine is large enough.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if any(node.get("CPU", 0) >= num_cpus and node.get("GPU", 0) >= num_gpus for node in nodes):
        return
    what = f"no node of this Ray cluster has {num_cpus:g} CPUs and {num_gpus:g} GPUs for a task"
    if not os.environ.get("RAY_ADDRESS"):
        do = "lower cluster.gpus_per_worker or cluster.cpus_per_worker, or set RAY_ADDRESS to a cluster that has them"
        raise RunFileError(what, where="a Ray started on this machine", do=do)
    print(f"waiting: {what}; the stage continues when one joins", file=sys.stderr)


def ray_fan_out(
    window: int,
    *,
    num_cpus: float,
    num_gpus: float = 0,
    max_attempts: int = 3,
    race: bool = False,
    notify: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> FanOut:
    """A fan-out that keeps ``window`` tasks in flight, each with these resources.

    A task whose worker dies is tried ``max_attempts`` times in all, one whose node is lost more often, so tasks must be
    idempotent. One that raises is not tried again: the error comes back in ``Failed``, unwrapped where it can be
    pickled. Items still in flight when the iterator is closed are cancelled.

    A task that takes ``STRAGGLER_FACTOR`` times the median is reported to ``notify``; with ``race``, once no item is
    left to start, it gets a second copy, and the first of the two to end decides.
    """

    def fan_out(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        # max_retries: attempts are counted and reported here. max_calls: by default a process that held a GPU ends
        # after one task, and loses the network that it has loaded.
        options: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": 0, "max_calls": 0}
        in_flight = _TasksInFlight(ray.remote(**options)(task), max_attempts, notify)
        waiting = iter(items)
        try:
            while in_flight.start_next(waiting, window):
                outcome = in_flight.wait_for_one()
                if outcome is not None:
                    yield outcome
                in_flight.check_stragglers(window if race else 0)
        finally:
            in_flight.cancel()

    return fan_out


@dataclass(frozen=True)
class _TaskInFlight:
    item: Any
    began: float
    attempt: int = 1
    nodes_lost: int = 0
    slow: bool = False
    other_copy: Any = None
    """The reference of the other copy of a task that is raced."""


class _TasksInFlight:
    """The tasks in flight. Nothing of an item is kept after its outcome, so a driver's memory does not grow."""

    def __init__(self, remote: Any, max_attempts: int, notify: Callable[[str], None]) -> None:
        self._remote, self._max_attempts, self._notify = remote, max_attempts, notify
        self._tasks: dict[Any, _TaskInFlight] = {}
        self._seconds: deque[float] = deque(maxlen=RECENT_TASKS)
        self._checked = time.monotonic()
        self._all_started = False

    def start_next(self, waiting: Iterator[Any], window: int) -> bool:
        """Start items while there is room; False when nothing is in flight or left."""
        while len(self._tasks) < window and not self._all_started:
            try:
                self._start(_TaskInFlight(next(waiting), time.monotonic()))
            except StopIteration:
                self._all_started = True
        return bool(self._tasks)

    def wait_for_one(self) -> Done | Failed | None:
        """Wait for one task to end, or for the next check. None when none has ended, or one died and is retried."""
        ended, _ = ray.wait(list(self._tasks), num_returns=1, timeout=CHECK_S)
        if not ended:
            return None
        flight = self._tasks.pop(ended[0])
        try:
            done = Done(flight.item, ray.get(ended[0]))
        except RayTaskError as error:
            self._cancel_copy(flight.other_copy)
            return Failed(flight.item, _original(error), flight.attempt)
        except RayError as death:
            return self._retry(flight, death)
        self._seconds.append(time.monotonic() - flight.began)
        self._cancel_copy(flight.other_copy)
        return done

    def check_stragglers(self, window: int) -> None:
        """Report tasks that take far longer than others; with room in ``window``, start a second copy of each."""
        now = time.monotonic()
        if now - self._checked < CHECK_S or len(self._seconds) < MIN_RECENT_TASKS:
            return
        self._checked, typical = now, median(self._seconds)
        for reference, flight in list(self._tasks.items()):
            seconds = now - flight.began
            if seconds < max(STRAGGLER_FACTOR * typical, STRAGGLER_MIN_S):
                continue
            if not flight.slow:
                self._notify(f"slow: {_log_name(flight.item)} takes {seconds:.0f} s, others {typical:.1f} s")
                self._tasks[reference] = flight = replace(flight, slow=True)
            if self._all_started and flight.other_copy is None and len(self._tasks) < window:
                self._race(reference, flight)

    def cancel(self) -> None:
        """Ask the tasks in flight to stop."""
        for reference in self._tasks:
            ray.cancel(reference)
        self._tasks.clear()

    def _race(self, reference: Any, flight: _TaskInFlight) -> None:
        self._notify(f"slow: a second copy of {_log_name(flight.item)} is started")
        copy = self._start(replace(flight, other_copy=reference))
        self._tasks[reference] = replace(flight, other_copy=copy)

    def _retry(self, flight: _TaskInFlight, death: RayError) -> Failed | None:
        if flight.other_copy is not None:  # which continues alone
            self._tasks[flight.other_copy] = replace(self._tasks[flight.other_copy], other_copy=None)
            return None
        if isinstance(death, NodeDiedError | LocalRayletDiedError) and flight.nodes_lost < MAX_NODES_LOST:
            again = replace(flight, nodes_lost=flight.nodes_lost + 1)
        elif flight.attempt < self._max_attempts:
            again = replace(flight, attempt=flight.attempt + 1)
        else:
            return Failed(flight.item, _worker_died(death, flight.attempt), flight.attempt)
        self._start(replace(again, began=time.monotonic(), slow=False))
        return None

    def _start(self, flight: _TaskInFlight) -> Any:
        reference = self._remote.remote(flight.item)
        self._tasks[reference] = flight
        return reference

    def _cancel_copy(self, copy: Any) -> None:
        if copy is not None:
            self._tasks.pop(copy)
            ray.cancel(copy, force=True)  # a task that hangs would ignore a request, and keep its worker for ever


def _log_name(item: Any) -> str:
    """What a log may call an item: its ``name``, where it has one."""
    return f"{type(item).__name__} {getattr(item, 'name', '')}".rstrip()


def _original(error: RayTaskError) -> Exception:
    """What the task raised; Ray wraps it, and keeps the original where it could be pickled."""
    return error.cause if isinstance(error.cause, Exception) else error


def _worker_died(death: RayError, attempts: int) -> WorkerDiedError:
    what = f"a worker died on the same task {attempts} times ({type(death).__name__})"
    return WorkerDiedError(what, do="check the logs of Ray and of the nodes for lack of memory")
