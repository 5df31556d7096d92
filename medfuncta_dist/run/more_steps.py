"""Whether a run may get another number of outer steps: only if each step keeps its step size, and none is undone."""

from __future__ import annotations

from typing import Any

from medfuncta_dist.config.load import difference
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.errors import RunChangedError
from medfuncta_dist.storage.object_store import ObjectStore

STEPS, HORIZON = "steps", "schedule_steps"
SCHEDULED = (STEPS, HORIZON)
"""The keys of ``train`` that a run's number of steps and its schedule's end are given by."""


def same_schedule(begun: Train, now: Train) -> bool:
    """Whether the schedule gives each outer step the same step size, whatever the number of steps."""
    return begun.schedule == now.schedule and (now.schedule == "constant" or begun.horizon == now.horizon)


def without_steps(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a run file, as plain values, without what tells the number of steps."""
    return {**part, "train": {key: value for key, value in part["train"].items() if key not in SCHEDULED}}


def only_horizon_differs(begun: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two parts of run files differ in the number of steps, or where the schedule ends, and in nothing else."""
    return not difference(without_steps(begun), without_steps(now)) and begun["train"] != now["train"]


def way_to_other_steps(begun: Train, now: Train) -> str:
    """What to do about a number of steps with which the schedule would end elsewhere."""
    keep = f"set train.schedule_steps to {begun.horizon}, where this run's schedule ends"
    if now.steps <= begun.horizon:
        return f"{keep}, and train.steps may be {now.steps}"
    return (
        f"{keep}; train.steps may then be {now.steps}, but steps beyond {begun.horizon} have a step size of 0. To "
        "train on with a new schedule, begin a run that starts from this one: `medfuncta-dist fork RUN.yaml NEW`"
    )


def require_trained_within(begun: RunFile, run: RunFile, store: ObjectStore) -> None:
    """RunChangedError where a run gets fewer steps than it has taken."""
    if run.train.steps >= begun.train.steps:
        return
    taken = steps_taken(store, run.name)
    if run.train.steps < taken:
        raise RunChangedError(
            f"train.steps is {run.train.steps}, but step {taken} is already done, and no step can be undone",
            where=store.uri(f"runs/{run.name}"),
            do=f"set train.steps to at least {taken}, or use another run name",
        )


def steps_taken(store: ObjectStore, run: str) -> int:
    """How many outer steps of the run are saved, in a checkpoint or in its network."""
    from medfuncta_dist.network.committed_network import committed_network
    from medfuncta_dist.training.checkpoints.checkpoint import newest_first, step_of

    done = committed_network(store, run)
    saved = newest_first(store, f"runs/{run}/checkpoints")
    return max(0 if done is None else done.step, step_of(saved[0]) if saved else 0)
