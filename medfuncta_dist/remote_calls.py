"""Where the calls of a fan-out run: in Ray tasks, or, with GPUs, in Ray actors that keep theirs for life.

Ray sets CUDA_VISIBLE_DEVICES anew for each task, but CUDA reads it once per process: a second task in the same process
would compute on the GPU of the first one. An actor is assigned its GPUs once, so what it is assigned is what it uses.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import ray
from ray.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    RayError,
    RayTaskError,
)

from medfuncta_dist.errors import WorkerDiedError
from medfuncta_dist.telemetry.run_log.worker_lines import logged

CALLS_PER_ACTOR = 2
"""One runs; the next one is already there when it ends."""
TOLD_S = 10.0
"""Within which Ray fails the calls of an actor that died; it takes two seconds."""
NODE_TOLD_S = 60.0
"""Within which Ray knows that a node is lost."""


@dataclass(frozen=True)
class Died:
    """A call that ended without an answer."""

    error: RayError
    node_lost: bool = False
    waited: bool = False
    """The call only waited at a worker that died, and has no part in it."""


@dataclass(frozen=True)
class Ended:
    """A call that ended: ``outcome`` is a result, or what the call raised, or ``Died``."""

    reference: Any
    outcome: Any | RayTaskError | Died


class Calls(Protocol):
    """Calls of one function in flight. A reference stands for a call from ``start`` until it is returned or stopped."""

    def start(self, item: Any) -> Any | None:
        """The reference of a new call, or None where there is no place for it now."""

    def start_copy(self, item: Any) -> Any | None:
        """A call that would wait for no other, or None."""

    def wait(self, seconds: float) -> Ended | None:
        """The next call that ends, or None when none has ended in this time, or sooner, when there may be places."""

    def stop(self, reference: Any) -> None:
        """Forget a call and end it, even if it hangs."""

    def close(self) -> None:
        """End all calls."""


class TaskCalls:
    """Each call is a Ray task; Ray chooses the process and finds the place."""

    def __init__(self, function: Callable[[Any], Any], num_cpus: float) -> None:
        # max_retries: attempts are counted and reported by the fan-out. max_calls: processes stay warm.
        self._remote = ray.remote(num_cpus=num_cpus, max_retries=0, max_calls=0)(logged(function))
        self._references: dict[Any, None] = {}

    def start(self, item: Any) -> Any:
        reference = self._remote.remote(item)
        self._references[reference] = None
        return reference

    start_copy = start

    def wait(self, seconds: float) -> Ended | None:
        ended, _ = ray.wait(list(self._references), num_returns=1, timeout=seconds)
        if not ended:
            return None
        del self._references[ended[0]]
        outcome = _outcome(ended[0])
        if isinstance(outcome, Died):
            outcome = replace(outcome, node_lost=isinstance(outcome.error, NodeDiedError | LocalRayletDiedError))
        return Ended(ended[0], outcome)

    def stop(self, reference: Any) -> None:
        del self._references[reference]
        ray.cancel(reference, force=True)  # a task that hangs would ignore a request, and keep its worker for ever

    def close(self) -> None:
        for reference in self._references:
            ray.cancel(reference)
        self._references.clear()


class _Process(NamedTuple):
    """In which an actor runs. Ray restarts an actor in another one."""

    name: str
    node: str


class _Caller:
    """What runs in an actor's process."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function, self._name = logged(function), uuid.uuid4().hex

    def call(self, item: Any) -> Any:
        return self._function(item)

    def process(self) -> _Process:
        """Answered once the actor has a place."""
        return _Process(self._name, ray.get_runtime_context().get_node_id())


@dataclass
class _Actor:
    handle: Any
    asked: Any
    """The reference of the question for its process, while that is not answered: the actor may have no place yet."""
    process: _Process | None = None
    killed: _Process | None = None
    """The process that was killed here; an answer may still come from it."""
    calls: list[Any] = field(default_factory=list)
    """In the order in which the actor runs them."""


@dataclass(frozen=True)
class _Death:
    """A death of which it is not known yet whether its node is lost."""

    reference: Any
    error: RayError
    actor: _Actor
    node: str
    since: float


class ActorCalls:
    """Each call runs in one of ``count`` actors, which keep their GPUs, and what they have loaded there, until closed.

    A call is only given to an actor that has a place in the cluster, and to the one with the fewest calls.
    """

    def __init__(self, function: Callable[[Any], Any], count: int, *, num_cpus: float, num_gpus: float) -> None:
        options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": -1, "max_task_retries": 0}
        self._remote, self._function = ray.remote(**options)(_Caller), function  # type: ignore[call-overload]
        self._actors = [self._new_actor() for _ in range(count)]
        self._ended: deque[Ended] = deque()
        self._deaths: list[_Death] = []

    def start(self, item: Any) -> Any | None:
        return self._start(item, CALLS_PER_ACTOR)

    def start_copy(self, item: Any) -> Any | None:
        return self._start(item, 1)  # behind a call that hangs, too, a copy would be of no use

    def wait(self, seconds: float) -> Ended | None:
        if not self._ended:
            # Calls in their order at the actor: the first one that failed is then the one that ran.
            references = [reference for actor in self._actors for reference in (*actor.calls, actor.asked) if reference]
            ready, _ = ray.wait(references, num_returns=1, timeout=seconds)
            for reference in ready:
                self._take(reference)
            self._settle_deaths()
        return self._ended.popleft() if self._ended else None

    def stop(self, reference: Any) -> None:
        self._ended = deque(ended for ended in self._ended if ended.reference != reference)
        self._deaths = [death for death in self._deaths if death.reference != reference]
        for actor in self._actors:
            if reference in actor.calls:
                runs = actor.calls[0] == reference
                actor.calls.remove(reference)
                self._kill(actor) if runs else ray.cancel(reference)

    def close(self) -> None:
        """Kill the actors: an idle process would keep its memory on the GPU."""
        for actor in self._actors:
            ray.kill(actor.handle)
        self._actors, self._deaths = [], []
        self._ended.clear()

    def _start(self, item: Any, most: int) -> Any | None:
        placed = [actor for actor in self._actors if actor.asked is None and len(actor.calls) < most]
        if not placed:
            return None
        actor = min(placed, key=lambda actor: len(actor.calls))
        reference = actor.handle.call.remote(item)
        actor.calls.append(reference)
        return reference

    def _take(self, reference: Any) -> None:
        for actor in self._actors:
            if reference == actor.asked:
                self._hear_from(actor)
            elif reference in actor.calls:
                outcome = _outcome(reference)
                if isinstance(outcome, Died):
                    self._take_dead(actor)
                else:
                    actor.calls.remove(reference)
                    self._ended.append(Ended(reference, outcome))

    def _hear_from(self, actor: _Actor) -> None:
        """The actor has answered: it has a place, unless it is the killed process that has answered."""
        try:
            actor.process, actor.asked = ray.get(actor.asked), None
        except ActorDiedError as error:
            if error.actor_init_failed:
                raise WorkerDiedError(
                    "workers with GPUs cannot start: what they have to run cannot be loaded there",
                    do="check that all nodes have the same version of the package; Ray's logs have the error",
                ) from error
            fresh = self._new_actor()  # Ray does not restart one that ended itself, or was killed by someone else
            actor.handle, actor.asked = fresh.handle, fresh.asked
        except RayError:  # it has not been restarted yet, and Ray has waited two seconds for it
            actor.asked = actor.handle.process.remote()
        else:
            if actor.process == actor.killed:
                actor.asked = actor.handle.process.remote()

    def _take_dead(self, actor: _Actor) -> None:
        """Take all calls from an actor that died. The first one without an answer ran, the others waited."""
        blamed = False
        for reference in actor.calls:
            outcome = _outcome(reference, TOLD_S)
            if isinstance(outcome, Died) and not blamed:
                blamed = True
                node = actor.process.node if actor.process else ""
                self._deaths.append(_Death(reference, outcome.error, actor, node, time.monotonic()))
            else:
                if isinstance(outcome, Died):
                    outcome = replace(outcome, waited=True)
                self._ended.append(Ended(reference, outcome))
        actor.calls, actor.asked = [], actor.handle.process.remote()

    def _kill(self, actor: _Actor) -> None:
        """End what the actor runs. Ray restarts it; the calls that waited go elsewhere."""
        error = ActorDiedError()
        self._ended.extend(Ended(reference, Died(error, waited=True)) for reference in actor.calls)
        ray.kill(actor.handle, no_restart=False)
        actor.calls, actor.killed, actor.asked = [], actor.process, actor.handle.process.remote()

    def _settle_deaths(self) -> None:
        """Return a dead call once it is known whether its node is lost, which Ray notices later than the death."""
        if not self._deaths:
            return
        # Before the nodes: Ray restarts an actor after it has noticed how it died.
        known = [death.actor.asked is None or time.monotonic() - death.since > NODE_TOLD_S for death in self._deaths]
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
        waiting = []
        for death, settled in zip(self._deaths, known, strict=True):
            lost = death.node not in alive
            if lost or settled:
                self._ended.append(Ended(death.reference, Died(death.error, node_lost=lost)))
            else:
                waiting.append(death)
        self._deaths = waiting

    def _new_actor(self) -> _Actor:
        handle = self._remote.remote(self._function)
        return _Actor(handle, handle.process.remote())


def _outcome(reference: Any, seconds: float | None = None) -> Any | RayTaskError | Died:
    try:
        return ray.get(reference, timeout=seconds)
    except RayTaskError as error:
        return error
    except (GetTimeoutError, RayError) as error:
        return Died(error)
