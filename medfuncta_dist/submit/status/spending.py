"""What a run has used of the hours and the money that its run file allows, and whether the rest suffices. Pure.

Hours are those with a driver, of all stages and attempts: `runs/<run>/progress/` keeps them. A queued or suspended job,
and the start of its cluster, use none.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.submission_id import submission_id
from medfuncta_dist.errors import LimitReachedError, RunFileError
from medfuncta_dist.submit.status.run_cost import HourlyCost, compute_hourly_cost
from medfuncta_dist.submit.status.time_left import estimate_seconds_left
from medfuncta_dist.telemetry.progress_record import StageProgress, priced

QUEUE_MARGIN_S = 3600
"""By so much later than the driver, Kueue ends a job: its clock runs from admission, which includes the start of nodes
and the pull of an image; and the driver first finishes tasks that run, or a checkpoint."""
QUEUE_MARGIN = 0.1
"""And by this part of the time: each preemption is another start of the cluster."""
LARGEST_QUEUE_S = 2**31 - 1
"""Kueue reads 32 bits."""


@dataclass(frozen=True)
class Spent:
    """Seconds with a driver, and what they cost."""

    seconds: float = 0.0
    cost: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.cost + other.cost)


NOTHING_SPENT = Spent()


@dataclass(frozen=True)
class Budget:
    """What a run may use. ``rates``: what the cluster of the job costs that uses it now."""

    max_hours: float | None
    max_cost: float | None
    rates: HourlyCost

    @classmethod
    def of(cls, run: RunFile, stages: Sequence[str]) -> Budget:
        """The budget of a job of these stages. RunFileError where money is limited and the job has no price."""
        limits, rates = run.kubernetes, compute_hourly_cost(run, stages)
        if limits.max_cost is not None and rates.per_hour is None:
            raise RunFileError(
                f"kubernetes.max_cost cannot be kept: {' and '.join(stages)} would run on a cluster without a price",
                where="kubernetes.prices",
                do="set kubernetes.prices.gpu_hour (with GPUs) or cpu_hour (without), or limit kubernetes.max_hours",
            )
        return cls(limits.max_hours, limits.max_cost, rates)

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.max_hours is not None or self.max_cost is not None

    def seconds_left(self, spent: Spent) -> float:
        """Seconds until the first limit is reached; infinite without one, 0 or less beyond it."""
        left = [math.inf]
        if self.max_hours is not None:
            left.append(3600 * self.max_hours - spent.seconds)
        if self.max_cost is not None:
            money = self.max_cost - spent.cost
            per_hour = self.rates.per_hour or 0.0
            left.append(3600 * money / per_hour if per_hour else math.copysign(math.inf, money))
        return min(left)

    def used(self, spent: Spent) -> str:
        """``1.5 of 10 hours (kubernetes.max_hours) and 12.00 of 80.00 EUR (kubernetes.max_cost)``."""
        found = []
        if self.max_hours is not None:
            found.append(f"{_hours(spent.seconds)} of {self.max_hours:g} hours (kubernetes.max_hours)")
        if self.max_cost is not None:
            found.append(f"{spent.cost:.2f} of {self.max_cost:.2f} {self.rates.currency} (kubernetes.max_cost)")
        return " and ".join(found)

    def higher_limits(self, needed: Spent = NOTHING_SPENT) -> str:
        """The limits as ``--set`` would raise them: to what is needed in all, or to twice what they are."""
        found = []
        if self.max_hours is not None:
            found.append(f"--set kubernetes.max_hours={_rounded_up(needed.seconds / 3600 or 2 * self.max_hours)}")
        if self.max_cost is not None:
            found.append(f"--set kubernetes.max_cost={_rounded_up(needed.cost or 2 * self.max_cost)}")
        return " ".join(found)

    def reached(self, spent: Spent, done: str) -> LimitReachedError | None:
        """The error of a stage that must stop; ``done`` says how far it is. None while there is time and money left."""
        if self.seconds_left(spent) > 0:
            return None
        job = submission_id()
        command = f"medfuncta-dist resume {job}" if job else "the same command"
        return LimitReachedError(
            f"the run has used {self.used(spent)}: {done}",
            do=f"nothing that is done is lost; to go on from there, run {command} with a higher limit: "
            f"{self.higher_limits()}{_about_retries(job)}",
        )

    def queue_seconds(self, spent: Spent) -> int | None:
        """The time after which Kueue ends a job that did not end by itself; None without a limit."""
        left = self.seconds_left(spent)
        if math.isinf(left):
            return None
        return min(LARGEST_QUEUE_S, QUEUE_MARGIN_S + round((1 + QUEUE_MARGIN) * max(0.0, left)))


def _about_retries(job: str | None) -> str:
    """KubeRay retries whatever fails, each time on a new cluster, and a RayJob cannot name exit codes that end that.
    Until the retries are over the job is active, and `resume` would return it as it is."""
    if job is None or not os.environ.get("KUBERNETES_SERVICE_HOST"):
        return ""
    return (
        f". Before that, run medfuncta-dist cancel {job}: KubeRay retries it, and each retry starts a cluster in vain"
    )


def compute_spent(run: RunFile, progress: Mapping[str, StageProgress]) -> Spent:
    """What the stages of a run have used so far. Time that had no price is paid at the run file's."""
    paid = [priced(found, compute_hourly_cost(run, [stage]).per_hour) for stage, found in progress.items()]
    return Spent(sum(max(p.used_s, p.held_s) for p in paid), sum(p.cost for p in paid))


def require_budget(budget: Budget, spent: Spent, where: str) -> None:
    """RunFileError where nothing is left for a job that is about to be submitted."""
    if budget.seconds_left(spent) <= 0:
        raise RunFileError(
            f"the run has used {budget.used(spent)}: the job would end as it begins",
            where=where,
            do=f"submit or resume it with a higher limit: {budget.higher_limits()}",
        )


def forecast(budget: Budget, spent: Spent, stages: Sequence[str], progress: Mapping[str, StageProgress]) -> str:
    """One line for who submits a job: what is used, and whether the rest suffices, if a rate is known. Empty without a
    limit."""
    if not budget.limited:
        return ""
    left, known = budget.seconds_left(spent), {stage: _seconds_left(progress.get(stage)) for stage in stages}
    line = f"used {budget.used(spent)}"
    unknown = [stage for stage, seconds in known.items() if seconds is None]
    if unknown:
        return f"{line}; how long {' and '.join(unknown)} will take is not known yet: `status` tells when it runs"
    needed = sum(seconds or 0.0 for seconds in known.values())
    line += f"; at the last recorded rate {' and '.join(stages)} needs {_hours(needed)} hours more"
    if needed <= left:
        return f"{line}: the limit suffices"
    more = Spent(needed, (budget.rates.per_hour or 0.0) * needed / 3600)
    enough = budget.higher_limits(spent + more)
    return f"{line}: the limit does not suffice, and the run will stop before its end; {enough} would"


def _seconds_left(progress: StageProgress | None) -> float | None:
    return None if progress is None else estimate_seconds_left(progress)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"


def _rounded_up(value: float) -> str:
    """To two digits, so that it is easily read."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(round(value / unit, 6)) * unit:.6g}"
