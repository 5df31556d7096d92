"""Items mapped over Ray tasks: a bounded window in flight, results in the order of completion, deaths retried."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import MedfunctaError, RunFileError, WorkerDiedError
from medfuncta_dist.work import Done, Failed, FanOut

OBJECT_STORE_BYTES = 500_000_000
"""Of a Ray that is started here. Nothing large travels through it, and the default is a third of the memory."""


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


def ray_fan_out(window: int, *, num_cpus: float, num_gpus: float = 0, max_attempts: int = 3) -> FanOut:
    """A fan-out that keeps ``window`` tasks in flight, each with these resources.

    A task whose worker or node dies is tried ``max_attempts`` times in all, so tasks must be idempotent. One that
    raises is not tried again: the error comes back as ``Failed``, itself where it can cross processes. Items still in
    flight when the iterator is closed are cancelled.
    """

    def fan_out(task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done | Failed]:
        # max_retries: deaths are counted here, where attempts are reported. max_calls: by default a process that held
        # a GPU ends after one task, and the network that it has loaded with it.
        options: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": 0, "max_calls": 0}
        flights = _Flights(ray.remote(**options)(task), max_attempts)
        waiting = iter(items)
        try:
            while flights.fill(waiting, window):
                outcome = flights.land()
                if outcome is not None:
                    yield outcome
        finally:
            flights.cancel()

    return fan_out


@dataclass(frozen=True)
class _Flight:
    item: Any
    attempt: int


class _Flights:
    """The tasks in flight. Nothing of an item is kept after its outcome, so a driver's memory does not grow."""

    def __init__(self, remote: Any, max_attempts: int) -> None:
        self._remote, self._max_attempts = remote, max_attempts
        self._flying: dict[Any, _Flight] = {}

    def fill(self, waiting: Iterator[Any], window: int) -> bool:
        """Start items while there is room; False when nothing is in flight or left."""
        while len(self._flying) < window:
            try:
                self._start(_Flight(next(waiting), 1))
            except StopIteration:
                break
        return bool(self._flying)

    def land(self) -> Done | Failed | None:
        """Wait for one task to end. None when it died and was started again."""
        (done,), _ = ray.wait(list(self._flying), num_returns=1)
        flight = self._flying.pop(done)
        try:
            return Done(flight.item, ray.get(done))
        except RayTaskError as error:
            return Failed(flight.item, _original(error), flight.attempt)
        except RayError as death:
            if flight.attempt < self._max_attempts:
                self._start(_Flight(flight.item, flight.attempt + 1))
                return None
            return Failed(flight.item, _lost(death, flight.attempt), flight.attempt)

    def cancel(self) -> None:
        """Ask the tasks in flight to stop."""
        for reference in self._flying:
            ray.cancel(reference)
        self._flying.clear()

    def _start(self, flight: _Flight) -> None:
        self._flying[self._remote.remote(flight.item)] = flight


def _original(error: RayTaskError) -> Exception:
    """What the task raised; Ray wraps it, and keeps the wrapped one where it could be pickled."""
    return error.cause if isinstance(error.cause, Exception) else error


def _lost(death: RayError, attempts: int) -> WorkerDiedError:
    what = f"a worker died on the same task {attempts} times ({type(death).__name__})"
    return WorkerDiedError(what, do="look for lack of memory in the logs of Ray and of the nodes")
