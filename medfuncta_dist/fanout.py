"""Items mapped over Ray tasks: a bounded window in flight, results in the order of completion, deaths retried."""

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
"""Of a Ray that is started here. Nothing large travels through it, and the default is a third of the memory."""
MOST_NODES = 20
"""Nodes that may be lost under one task. A node that goes says nothing about the task, but a task that takes every node
with it must end, too."""
STRAGGLING = 4.0
"""Times the median of the tasks that are done."""
STRAGGLING_S = 5.0
"""At least: below it, a slow task is noise."""
COMPARED = 100
"""Last tasks that the median is taken over; ``FEWEST_COMPARED`` of them are enough to begin with."""
FEWEST_COMPARED = 3
LOOK_S = 1.0
"""Between looks at how long tasks take."""


def start_ray(run: RunFile) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine with room for the run's workers.

    Does nothing when this process is connected. Workers' lines stay in Ray's own logs: here they would reach stdout,
    which belongs to the command's answer. MedfunctaError when the cluster does not answer.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    here = {} if address else _on_this_machine(run)
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise MedfunctaError(
            f"Ray can not be reached: {error}",
            where=f"RAY_ADDRESS={address}" if address else "a Ray started on this machine",
            do="see whether the cluster runs (`ray status`), or unset RAY_ADDRESS to start Ray here",
        ) from error


def _on_this_machine(run: RunFile) -> dict[str, Any]:
    # As many CPUs as the workers ask for, if that is more than there are: a small machine runs them, only slower.
    cpus = max(os.cpu_count() or 1, math.ceil(run.cluster.most_workers * run.cluster.cpus_per_worker))
    return {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}


def check_room(*, num_cpus: float, num_gpus: float) -> None:
    """Refuse tasks too large for a Ray that was started here; on a cluster, which may grow, say what they wait for.

    Ray itself waits for ever, in silence. RunFileError.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if any(node.get("CPU", 0) >= num_cpus and node.get("GPU", 0) >= num_gpus for node in nodes):
        return
    what = f"no machine of this Ray has {num_cpus:g} CPUs and {num_gpus:g} GPUs for a task"
    if not os.environ.get("RAY_ADDRESS"):
        do = "lower cluster.gpus_per_worker or cluster.cpus_per_worker, or set RAY_ADDRESS to a cluster that has them"
        raise RunFileError(what, where="a Ray started on this machine", do=do)
    print(f"waiting: {what}; the stage goes on when one joins", file=sys.stderr)


def ray_fan_out(
    window: int,
    *,
    num_cpus: float,
    num_gpus: float = 0,
    max_attempts: int = 3,
    race: bool = False,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> FanOut:
    """A fan-out that keeps ``window`` tasks in flight, each with these resources.

    A task whose worker dies is tried ``max_attempts`` times in all, one whose node is lost more often, so tasks must be
    idempotent. One that raises is not tried again: the error comes back as ``Failed``, itself where it can cross
    processes. Items still in flight when the iterator is closed are cancelled.

    A task that takes ``STRAGGLING`` times the median is told to ``say``; with ``race``, once no item is left to start,
    it gets a second copy, and the first of the two to end decides.
    """

    def fan_out(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        # max_retries: deaths are counted here, where attempts are reported. max_calls: by default a process that held
        # a GPU ends after one task, and the network that it has loaded with it.
        options: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": 0, "max_calls": 0}
        flights = _Flights(ray.remote(**options)(task), max_attempts, say)
        waiting = iter(items)
        try:
            while flights.fill(waiting, window):
                outcome = flights.land()
                if outcome is not None:
                    yield outcome
                flights.look(window if race else 0)
        finally:
            flights.cancel()

    return fan_out


@dataclass(frozen=True)
class _Flight:
    item: Any
    began: float
    attempt: int = 1
    nodes_lost: int = 0
    slow: bool = False
    twin: Any = None
    """The reference of the other copy, of a task that is raced."""


class _Flights:
    """The tasks in flight. Nothing of an item is kept after its outcome, so a driver's memory does not grow."""

    def __init__(self, remote: Any, max_attempts: int, say: Callable[[str], None]) -> None:
        self._remote, self._max_attempts, self._say = remote, max_attempts, say
        self._flying: dict[Any, _Flight] = {}
        self._seconds: deque[float] = deque(maxlen=COMPARED)
        self._looked = time.monotonic()
        self._all_started = False

    def fill(self, waiting: Iterator[Any], window: int) -> bool:
        """Start items while there is room; False when nothing is in flight or left."""
        while len(self._flying) < window and not self._all_started:
            try:
                self._start(_Flight(next(waiting), time.monotonic()))
            except StopIteration:
                self._all_started = True
        return bool(self._flying)

    def land(self) -> Done | Failed | None:
        """Wait for one task to end, or for the next look. None when none has, or when it died and is not given up."""
        landed, _ = ray.wait(list(self._flying), num_returns=1, timeout=LOOK_S)
        if not landed:
            return None
        flight = self._flying.pop(landed[0])
        try:
            done = Done(flight.item, ray.get(landed[0]))
        except RayTaskError as error:
            self._end(flight.twin)
            return Failed(flight.item, _original(error), flight.attempt)
        except RayError as death:
            return self._died(flight, death)
        self._seconds.append(time.monotonic() - flight.began)
        self._end(flight.twin)
        return done

    def look(self, window: int) -> None:
        """Tell of tasks that take far longer than others; with room in ``window``, start a second copy of each."""
        now = time.monotonic()
        if now - self._looked < LOOK_S or len(self._seconds) < FEWEST_COMPARED:
            return
        self._looked, typical = now, median(self._seconds)
        for reference, flight in list(self._flying.items()):
            seconds = now - flight.began
            if seconds < max(STRAGGLING * typical, STRAGGLING_S):
                continue
            if not flight.slow:
                self._say(f"slow: {_name(flight.item)} takes {seconds:.0f} s, others {typical:.1f} s")
                self._flying[reference] = flight = replace(flight, slow=True)
            if self._all_started and flight.twin is None and len(self._flying) < window:
                self._race(reference, flight)

    def cancel(self) -> None:
        """Ask the tasks in flight to stop."""
        for reference in self._flying:
            ray.cancel(reference)
        self._flying.clear()

    def _race(self, reference: Any, flight: _Flight) -> None:
        self._say(f"slow: a second copy of {_name(flight.item)} is started")
        twin = self._start(replace(flight, twin=reference))
        self._flying[reference] = replace(flight, twin=twin)

    def _died(self, flight: _Flight, death: RayError) -> Failed | None:
        if flight.twin is not None:  # which goes on alone
            self._flying[flight.twin] = replace(self._flying[flight.twin], twin=None)
            return None
        if isinstance(death, NodeDiedError | LocalRayletDiedError) and flight.nodes_lost < MOST_NODES:
            again = replace(flight, nodes_lost=flight.nodes_lost + 1)
        elif flight.attempt < self._max_attempts:
            again = replace(flight, attempt=flight.attempt + 1)
        else:
            return Failed(flight.item, _lost(death, flight.attempt), flight.attempt)
        self._start(replace(again, began=time.monotonic(), slow=False))
        return None

    def _start(self, flight: _Flight) -> Any:
        reference = self._remote.remote(flight.item)
        self._flying[reference] = flight
        return reference

    def _end(self, twin: Any) -> None:
        if twin is not None:
            self._flying.pop(twin)
            ray.cancel(twin, force=True)  # what hangs would not hear a question, and keep its place for ever


def _name(item: Any) -> str:
    """What an item may be called in a log: its ``name``, where it has one."""
    return f"{type(item).__name__} {getattr(item, 'name', '')}".rstrip()


def _original(error: RayTaskError) -> Exception:
    """What the task raised; Ray wraps it, and keeps the wrapped one where it could be pickled."""
    return error.cause if isinstance(error.cause, Exception) else error


def _lost(death: RayError, attempts: int) -> WorkerDiedError:
    what = f"a worker died on the same task {attempts} times ({type(death).__name__})"
    return WorkerDiedError(what, do="look for lack of memory in the logs of Ray and of the nodes")
