"""Maps items over a Ray cluster: a bounded window in flight, results in the order of completion, dead calls retried."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import MedfunctaError, RunFileError, WorkerDiedError
from medfuncta_dist.remote_calls import ActorCalls, Calls, Died, TaskCalls
from medfuncta_dist.storage.leftovers import KEPT_SESSIONS, SESSION_LOCK, remove_sessions
from medfuncta_dist.storage.scratch import hold_for_life
from medfuncta_dist.task_map import Done, Failed, FanOut, Within
from medfuncta_dist.telemetry.run_log.keep_log import take_ray_output

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

    Does nothing when this process is connected. Workers' output, and Ray's messages about the cluster, go to the run's
    log instead of the screen. MedfunctaError when the cluster does not answer.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    here = {} if address else _on_this_machine(run)
    try:
        ray.init(address or "local", log_to_driver=_takes_output(), logging_level=logging.ERROR, **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise MedfunctaError(
            f"Ray cannot be reached: {error}",
            where=f"RAY_ADDRESS={address}" if address else "a Ray started on this machine",
            do="check whether the cluster runs (`ray status`), or unset RAY_ADDRESS to start Ray here",
        ) from error
    if not address:
        _hold_session()


def _hold_session() -> None:
    """Mark the folder of the Ray that was started here as ours, for as long as this process lives, and remove those of
    earlier ones, which Ray leaves, but for the newest."""
    node = getattr(ray._private.worker, "_global_node", None)
    if node is not None:
        folder = Path(node.get_session_dir_path())
        hold_for_life(folder, SESSION_LOCK)
        remove_sessions(folder.parent, keep=KEPT_SESSIONS)


def _takes_output() -> bool:
    """Put ours in the place of the function with which Ray prints; False where this version of Ray has none."""
    from ray._private import worker

    if not hasattr(worker, "print_to_stdstream"):
        return False
    vars(worker)["print_to_stdstream"] = take_ray_output
    return True


def _on_this_machine(run: RunFile) -> dict[str, Any]:
    # As many CPUs as the workers ask for, even where there are fewer: a small machine runs them, only more slowly.
    cpus = max(os.cpu_count() or 1, math.ceil(run.cluster.most_workers * run.cluster.cpus_per_worker))
    return {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}


def require_room(*, num_cpus: float, num_gpus: float) -> None:
    """Refuse tasks too large for a Ray that was started here; on a cluster, which may grow, print what they wait for.

    Ray itself waits for ever, without a message. RunFileError where no machine is large enough.
    """
    if _has_room(num_cpus, num_gpus):
        return
    what = f"no node of this Ray cluster has {num_cpus:g} CPUs and {num_gpus:g} GPUs for a task"
    if not os.environ.get("RAY_ADDRESS"):
        keys = "cluster.gpus_per_worker, fit.gpus_per_task or cluster.cpus_per_worker"
        do = f"lower {keys}, or set RAY_ADDRESS to a cluster that has them"
        raise RunFileError(what, where="a Ray started on this machine", do=do)
    print(f"waiting: {what}; the stage continues when one joins", file=sys.stderr)


def _has_room(num_cpus: float, num_gpus: float) -> bool:
    """Whether any node is large enough for a task, if it has nothing else to do."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return any(node.get("CPU", 0) >= num_cpus and node.get("GPU", 0) >= num_gpus for node in nodes)


def ray_fan_out(
    window: int,
    *,
    num_cpus: float,
    num_gpus: float = 0,
    workers: int | None = None,
    max_attempts: int = 3,
    race: bool = False,
    notify: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> FanOut:
    """A fan-out that keeps ``window`` tasks in flight, each with these resources.

    With ``num_gpus``, which may be a fraction, tasks run in ``workers`` processes (``window`` without it) that keep
    their GPU, and end with the iterator; without, Ray chooses a process for each task.

    A task whose worker dies is tried ``max_attempts`` times in all, one whose node is lost more often, so tasks must be
    idempotent. One that raises is not tried again: the error comes back in ``Failed``, unwrapped where it can be
    pickled. Items still in flight when the iterator is closed are cancelled.

    A task that takes ``STRAGGLER_FACTOR`` times the median is reported to ``notify``; with ``race``, once no item is
    left to start, it gets a second copy, and the first of the two to end decides.

    Items with a limit (``task_map.limited``) that all wait for room are given up where it is reached.
    """

    def calls_of(task: Callable[[Any], Any], items: Iterable[Any]) -> Calls:
        if num_gpus == 0:
            return TaskCalls(task, num_cpus)
        count = min(workers or window, window, len(items) if isinstance(items, Sized) else window)
        return ActorCalls(task, count, num_cpus=num_cpus, num_gpus=num_gpus)

    def may_run(in_flight: _TasksInFlight) -> bool:
        return in_flight.any_started and _has_room(num_cpus, num_gpus)

    def fan_out(task: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Done | Failed]:
        in_flight = _TasksInFlight(calls_of(task, items), max_attempts, notify)
        waiting = iter(items)
        try:
            while in_flight.start_next(waiting, window):
                outcome = in_flight.wait_for_one()
                if outcome is not None:
                    yield outcome
                elif isinstance(items, Within) and not may_run(in_flight) and items.is_over():
                    return
                in_flight.check_stragglers(window if race else 0)
        finally:
            in_flight.close()

    return fan_out


@dataclass(frozen=True)
class _TaskInFlight:
    item: Any
    began: float = 0.0
    attempt: int = 1
    nodes_lost: int = 0
    slow: bool = False
    other_copy: Any = None
    """The reference of the other copy of a task that is raced."""


class _TasksInFlight:
    """The tasks in flight. Nothing of an item is kept after its outcome, so a driver's memory does not grow."""

    def __init__(self, calls: Calls, max_attempts: int, notify: Callable[[str], None]) -> None:
        self._calls, self._max_attempts, self._notify = calls, max_attempts, notify
        self._tasks: dict[Any, _TaskInFlight] = {}
        self._to_start: deque[_TaskInFlight] = deque()
        self._seconds: deque[float] = deque(maxlen=RECENT_TASKS)
        self._checked = time.monotonic()
        self._all_taken = False

    def start_next(self, waiting: Iterator[Any], window: int) -> bool:
        """Start items while there is room; False when nothing is in flight or left."""
        while self._in_flight < window and not self._all_taken:
            try:
                self._to_start.append(_TaskInFlight(next(waiting)))
            except StopIteration:
                self._all_taken = True
        while self._to_start and self._started(self._to_start[0], self._calls.start) is not None:
            self._to_start.popleft()
        return self._in_flight > 0

    def wait_for_one(self) -> Done | Failed | None:
        """Wait for one task to end, or for the next check. None when none has ended, or one died and is retried."""
        ended = self._calls.wait(CHECK_S)
        if ended is None:
            return None
        flight, outcome = self._tasks.pop(ended.reference), ended.outcome
        if isinstance(outcome, Died):
            return self._retry(flight, outcome)
        if flight.other_copy is not None:
            self._tasks.pop(flight.other_copy)
            self._calls.stop(flight.other_copy)
        if isinstance(outcome, RayTaskError):
            return Failed(flight.item, _original(outcome), flight.attempt)
        self._seconds.append(time.monotonic() - flight.began)
        return Done(flight.item, outcome)

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
            if self._all_taken and flight.other_copy is None and self._in_flight < window:
                self._race(reference, flight)

    def close(self) -> None:
        """Ask the tasks in flight to stop."""
        self._calls.close()
        self._tasks.clear()

    @property
    def any_started(self) -> bool:
        """Whether any task was given to a process. Ray itself may still look for one, where it chooses them."""
        return bool(self._tasks)

    @property
    def _in_flight(self) -> int:
        return len(self._tasks) + len(self._to_start)

    def _race(self, reference: Any, flight: _TaskInFlight) -> None:
        copy = self._started(replace(flight, other_copy=reference), self._calls.start_copy)
        if copy is not None:
            self._notify(f"slow: a second copy of {_log_name(flight.item)} is started")
            self._tasks[reference] = replace(flight, other_copy=copy)

    def _retry(self, flight: _TaskInFlight, death: Died) -> Failed | None:
        if flight.other_copy is not None:  # which continues alone
            self._tasks[flight.other_copy] = replace(self._tasks[flight.other_copy], other_copy=None)
            return None
        if death.waited:
            again = flight
        elif death.node_lost and flight.nodes_lost < MAX_NODES_LOST:
            again = replace(flight, nodes_lost=flight.nodes_lost + 1)
            self._notify(f"the node of {_log_name(flight.item)} is lost: it is tried again")
        elif flight.attempt < self._max_attempts:
            again = replace(flight, attempt=flight.attempt + 1)
            self._notify(f"the worker of {_log_name(flight.item)} died ({_cause(death.error)}): it is tried again")
        else:
            return Failed(flight.item, _worker_died(death.error, flight.attempt), flight.attempt)
        self._to_start.appendleft(replace(again, slow=False))
        return None

    def _started(self, flight: _TaskInFlight, start: Callable[[Any], Any | None]) -> Any | None:
        """The reference of the call, or None where there is no place for it now."""
        reference = start(flight.item)
        if reference is not None:
            self._tasks[reference] = replace(flight, began=time.monotonic())
        return reference


def _log_name(item: Any) -> str:
    """What a log may call an item: its ``name``, where it has one."""
    return f"{type(item).__name__} {getattr(item, 'name', '')}".rstrip()


def _cause(error: RayError) -> str:
    return "out of memory" if isinstance(error, OutOfMemoryError) else "killed or crashed"


def _original(error: RayTaskError) -> Exception:
    """What the task raised; Ray wraps it, and keeps the original where it could be pickled."""
    return error.cause if isinstance(error.cause, Exception) else error


def _worker_died(death: RayError, attempts: int) -> WorkerDiedError:
    what = f"a worker died on the same task {attempts} times ({type(death).__name__})"
    return WorkerDiedError(what, do="check the logs of Ray and of the nodes for lack of memory")
