"""The section ``cluster`` of the run file: what a run computes on."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from medfuncta_dist.config.keys import RESOURCES
from medfuncta_dist.config.section import NaturalFloat, PositiveFloat, PositiveInt, Section


class Cluster(Section):
    """Resources. None of these change what is computed, except through float rounding."""

    MEANING: ClassVar = RESOURCES

    workers: PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = 1
    """Training workers, at most train.batch; also the number of concurrent fit tasks. A range, as [2, 8]: training
    takes as many as the cluster has room for, and goes on with fewer, or more, when nodes go or come."""
    gpus_per_worker: NaturalFloat = 0
    """GPUs per worker or fit task."""
    cpus_per_worker: PositiveFloat = 1
    """CPUs per worker or task, as Ray counts them."""
    threads: PositiveInt = 1
    """Compute threads per worker. Workers x threads should not exceed the cores."""
    window: PositiveInt | None = None
    """Pack and fit tasks in flight. Default: twice the workers."""
    race_stragglers: bool = True
    """When no pack or fit task is left to start, give each one that takes four times the median a second copy. The
    first to commit counts; both would write the same."""
    cache: str | None = None
    """Folder on each node for verified shards. Default: <temporary folder>/medfuncta-cache-<user id>."""
    cache_gigabytes: PositiveFloat = 20.0
    """Size of the cache, at most; the shards that were used longest ago are deleted first."""
    lease_seconds: Annotated[float, Field(ge=1, le=86_400)] = 60
    """Seconds without a heartbeat after which a driver may be replaced. Heartbeats come four times as often."""

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
