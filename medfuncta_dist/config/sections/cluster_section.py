"""The section ``cluster`` of the run file: what a run computes on."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, field_validator

from medfuncta_dist.config.keys import RESOURCES
from medfuncta_dist.config.section import NaturalFloat, PositiveFloat, PositiveInt, Section


def _at_most_one(gpus: float) -> float:
    if gpus not in (0, 1):
        raise ValueError(
            "a training worker uses one GPU: set 1, or 0 for CPUs. To use more GPUs, raise cluster.workers. To let fit "
            "tasks share a GPU, set fit.gpus_per_task to a fraction. Both keys may change within a run: one that was "
            "begun with another value continues"
        )
    return gpus


class Cluster(Section):
    """Resources. None of these change what is computed, except through float rounding."""

    MEANING: ClassVar = RESOURCES

    workers: PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = 1
    """Training workers, at most train.batch; also the number of concurrent fit tasks. A range, such as [2,
    8]: training uses as many as fit into the cluster, and continues with fewer or more when nodes leave or join."""
    gpus_per_worker: Annotated[NaturalFloat, AfterValidator(_at_most_one)] = 0
    """GPUs per training worker: 1, or 0 for CPUs. To use more GPUs, raise workers. Tasks of the stages fit and evaluate
    get as many, unless fit.gpus_per_task says otherwise."""
    cpus_per_worker: PositiveFloat = 1
    """CPUs per worker or task, as Ray counts them."""
    threads: PositiveInt = 1
    """Compute threads per worker. Workers x threads should not exceed the cores."""
    window: PositiveInt | None = None
    """Pack and fit tasks that run or wait at a time. Default: twice the workers."""
    race_stragglers: bool = True
    """When no pack or fit task is waiting, start a second copy of each task that takes four times the median. The
    first to commit counts; both write the same."""
    cache: str | None = None
    """Folder on each node for verified shards. Default: <temporary folder>/medfuncta-cache-<user id>."""
    cache_gigabytes: PositiveFloat = 20.0
    """Largest size of the cache; the least recently used shards are deleted first."""
    lease_seconds: Annotated[float, Field(ge=1, le=86_400)] = 60
    """Seconds without a heartbeat after which a driver may be replaced. Four heartbeats are sent in this time."""

    @field_validator("workers")
    @classmethod
    def _range(cls, value: int | list[int]) -> int | list[int]:
        if isinstance(value, list) and value[0] > value[1]:
            raise ValueError(f"a range of workers goes from the fewest to the most, got {value}")
        return value

    @property
    def most_workers(self) -> int:
        """The number of workers, or the upper end of its range."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def fewest_workers(self) -> int:
        """The number of workers, or the lower end of its range."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]
