"""The GPUs that a run holds, and what its cluster costs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.submit.manifest.worker_groups import count_gpus_per_worker, count_max_workers, list_group_kinds


@dataclass(frozen=True)
class HourlyCost:
    """The price of the whole cluster per hour; None if the run file lacks a price that it needs."""

    per_hour: float | None = None
    currency: str = ""

    def cost(self, seconds: float) -> float | None:
        """The price for so many seconds, to the cent."""
        return None if self.per_hour is None else round(self.per_hour * seconds / 3600, 2)


def count_gpus(run: RunFile, stages: Sequence[str]) -> float:
    """The GPUs that a job of these stages holds."""
    if "gpu" not in list_group_kinds(run, stages):
        return 0.0
    return count_max_workers(run, "gpu") * count_gpus_per_worker(run, stages)


def compute_hourly_cost(run: RunFile, stages: Sequence[str]) -> HourlyCost:
    """The price of a job's cluster. A GPU's price includes its share of CPUs; the CPUs of the head and of pods
    without GPUs cost extra if they have a price."""
    prices, held = run.kubernetes.prices, count_gpus(run, stages)
    cores = run.kubernetes.head.cpus
    if "cpu" in list_group_kinds(run, stages):
        cores += count_max_workers(run, "cpu") * run.cluster.cpus_per_worker
    if (prices.gpu_hour if held else prices.cpu_hour) is None:
        return HourlyCost()
    return HourlyCost(held * (prices.gpu_hour or 0) + cores * (prices.cpu_hour or 0), prices.currency)
