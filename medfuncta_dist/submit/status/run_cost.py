"""What a run holds, and what holding it costs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.submit.manifest.worker_groups import kinds, most_workers


@dataclass(frozen=True)
class Rates:
    """The price of the whole cluster an hour; None where the run file lacks a price that counts."""

    per_hour: float | None = None
    currency: str = ""

    def cost(self, seconds: float) -> float | None:
        """The price of holding it for so long, to the cent."""
        return None if self.per_hour is None else round(self.per_hour * seconds / 3600, 2)


def gpus(run: RunFile, stages: Sequence[str]) -> float:
    """GPUs that a job of these stages holds."""
    return most_workers(run, "gpu") * run.cluster.gpus_per_worker if "gpu" in kinds(run, stages) else 0.0


def rates(run: RunFile, stages: Sequence[str]) -> Rates:
    """The price of a job's cluster. A GPU's price covers its share of CPUs; the head's CPUs, and those of pods without
    a GPU, are paid apart where they have a price."""
    prices, held = run.kubernetes.prices, gpus(run, stages)
    cores = run.kubernetes.head.cpus
    if "cpu" in kinds(run, stages):
        cores += most_workers(run, "cpu") * run.cluster.cpus_per_worker
    if (prices.gpu_hour if held else prices.cpu_hour) is None:
        return Rates()
    return Rates(held * (prices.gpu_hour or 0) + cores * (prices.cpu_hour or 0), prices.currency)
