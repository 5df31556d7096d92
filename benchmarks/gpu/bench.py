"""What every section is given: where it computes, its sizes, the time it has left, and a way to keep each result."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import wait_for
from benchmarks.gpu.plan import Job
from benchmarks.gpu.result_lines import append, last_lines_of
from benchmarks.gpu.sizes import DRY, FULL, Sizes
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.machine.gpu_memory import is_out_of_memory

Values = dict[str, Any]
FULL_SECONDS = 0.25
"""Of one timing: several steps where one is shorter, so that starting and waiting do not count."""
WARM_UPS = 2
RESERVE_SECONDS = 2.0
"""Before its process is killed a section starts nothing new."""


class Skipped(Exception):
    """What was asked for cannot run here, and that is no failure; says why."""


@dataclass(frozen=True)
class Turns:
    """Seconds per call of ours and of the baseline, in turns: the medians, and the median of the rounds' ratios."""

    ours: float
    baseline: float
    over_baseline: float


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed; the product halves its chunks once, and then says so in words."""
    return is_out_of_memory(error) or (isinstance(error, MedfunctaError) and error.what.startswith("out of memory"))


class Bench:
    """One section's process."""

    def __init__(self, job: Job) -> None:
        self.job, self.device = job, torch.device(job.device)
        self.sizes: Sizes = DRY if job.dry else FULL
        self._ends = time.monotonic() + job.seconds
        self._path = Path(job.results)

    @property
    def cuda(self) -> bool:
        """Whether this computes on a GPU."""
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds for what has not been started yet."""
        return self._ends - RESERVE_SECONDS - time.monotonic()

    def tell(self, part: str, values: Values) -> None:
        """Keep a result."""
        append(self._path, {"run": self.job.run, "section": self.job.section, "part": part, "values": values})

    def part(self, name: str, work: Callable[[], Values], seconds: float = 0.0) -> Values | None:
        """Do one part and keep what comes of it. None where it was skipped or failed: the next part still runs.

        ``seconds``: what it takes at least; with less left it is not begun.
        """
        if self.left() <= seconds:
            self.tell(name, {"skipped": "no time left in this section"})
            return None
        try:
            found = work()
        except Skipped as why:
            self.tell(name, {"skipped": str(why)})
        except Exception as error:
            self.tell(name, {"failed": last_lines_of(error)})
        else:
            self.tell(name, found)
            return found
        self.release()  # here, where the error no longer holds what it was raised among
        return None

    def release(self) -> None:
        """Give back the memory of what is no longer used."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def fitting_memory(self, sizes: Sequence[int], work: Callable[[int], Values]) -> Values:
        """``work`` with the first of the sizes that the memory is enough for; tells which, if not the first."""
        for size in sizes[:-1]:
            try:
                return work(size)
            except Exception as error:
                if not ran_out_of_memory(error):
                    raise
            self.release()  # here, where the error no longer holds what it was raised among
        return work(sizes[-1])

    def seconds_of(self, work: Callable[[], object], calls: int = 1) -> float:
        """Seconds per call; the device is waited for before each reading of the clock."""
        wait_for(self.device)
        began = time.perf_counter()
        for _ in range(calls):
            work()
        wait_for(self.device)
        return (time.perf_counter() - began) / calls

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds per call after a warm-up: the median of the rounds."""
        calls = self._calls(work)
        return statistics.median(self.seconds_of(work, calls) for _ in range(self.sizes.rounds))

    def side_by_side(self, ours: Callable[[], object], baseline: Callable[[], object]) -> Turns:
        """Both in turns in this process: what else the machine does then hits both alike.

        Ours is warmed up here; the baseline, which many are compared with, has been called before.
        """
        calls = self._calls(ours)
        times: dict[str, list[float]] = {"baseline": [], "ours": []}
        for _ in range(self.sizes.rounds):
            times["baseline"].append(self.seconds_of(baseline))
            times["ours"].append(self.seconds_of(ours, calls))
        ratios = [a / b for a, b in zip(times["ours"], times["baseline"], strict=True)]
        return Turns(*(statistics.median(one) for one in (times["ours"], times["baseline"], ratios)))

    def _calls(self, work: Callable[[], object]) -> int:
        """How many make a timing; called a few times before, as what is captured or compiled takes more than one."""
        once = self.seconds_of(work)
        for _ in range(0 if self.job.dry else WARM_UPS):
            once = min(once, self.seconds_of(work)) if once < 1 else once
        return 1 if self.job.dry else max(1, min(1000, int(FULL_SECONDS / max(once, 1e-6))))

    def peak(self, work: Callable[[], object]) -> Values:
        """GB that the GPU holds at most during one call, and that torch has reserved for it, with all that was there
        before (``before_gb``), network and data among it; empty on a CPU."""
        if not self.cuda:
            work()
            return {}
        self.release()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_reserved()
        work()
        wait_for(self.device)
        return {
            "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
            "reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
            "before_gb": before / 1e9,
        }
