"""What a run holds, and what holding it costs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.submit.groups import COMPUTE


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
    on_gpus = any(stage in COMPUTE for stage in stages)
    return run.cluster.most_workers * run.cluster.gpus_per_worker if on_gpus else 0.0


def rates(run: RunFile, stages: Sequence[str]) -> Rates:
    """The price of a job's cluster. A GPU's price covers its share of CPUs; the head's CPUs, and those of pods without
    a GPU, are paid apart where they have a price."""
    prices, held = run.kubernetes.prices, gpus(run, stages)
    cores = run.kubernetes.head.cpus + (0 if held else run.cluster.most_workers * run.cluster.cpus_per_worker)
    if (prices.gpu_hour if held else prices.cpu_hour) is None:
        return Rates()
    return Rates(held * (prices.gpu_hour or 0) + cores * (prices.cpu_hour or 0), prices.currency)
