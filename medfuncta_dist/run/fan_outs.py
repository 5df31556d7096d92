"""Fan-outs over Ray with the run file's resources. Ray starts with the first task, not before: a stage that is refused,
or already done, needs no cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.task_map import Done, Failed, FanOut


def cpu_fan_out(run: RunFile) -> FanOut:
    """For tasks that read and write: they never hold a GPU."""
    return _fan_out(run, num_gpus=0)


def compute_fan_out(run: RunFile) -> FanOut:
    """For tasks that compute with the shared network: they fit or evaluate."""
    return _fan_out(run, num_gpus=run.gpus_per_task)


def trial_fan_out(run: RunFile) -> FanOut:
    """For a task that tries, before training, how a training worker computes."""
    return _fan_out(run, num_gpus=run.cluster.gpus_per_worker)


def _fan_out(run: RunFile, num_gpus: float) -> FanOut:
    # Twice the workers: the next task is already at its worker when one finishes.
    workers = run.cluster.most_workers
    window = run.cluster.window or 2 * workers

    def fan_out(task: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Done | Failed]:
        if not items:
            return
        from medfuncta_dist.fanout import ray_fan_out, require_room, start_ray

        start_ray(run)
        num_cpus = run.cluster.cpus_per_worker
        require_room(num_cpus=num_cpus, num_gpus=num_gpus)
        race = run.cluster.race_stragglers
        yield from ray_fan_out(window, workers=workers, num_cpus=num_cpus, num_gpus=num_gpus, race=race)(task, items)

    return fan_out
