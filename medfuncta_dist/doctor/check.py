"""A check: a question about this machine, the storage or a cluster, its answer, and what to do about a bad one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from medfuncta_dist.errors import MedfunctaError


class Outcome(StrEnum):
    """How a check ended."""

    GOOD = "good"
    """As it should be."""
    ODD = "odd"
    """Works, but not as well as it could, or can not be told."""
    BAD = "bad"
    """A run would fail here, or be unsafe."""
    UNASKED = "unasked"
    """Does not matter for this run, or hangs on another check."""


@dataclass(frozen=True)
class Finding:
    """What a check found; ``do`` is the fix, for all that is not good."""

    state: Outcome
    what: str
    do: str = ""


def passed(what: str) -> Finding:
    """As it should be."""
    return Finding(Outcome.GOOD, what)


def warned(what: str, do: str) -> Finding:
    """Works, with a remark."""
    return Finding(Outcome.ODD, what, do)


def failed(what: str, do: str) -> Finding:
    """A run would fail."""
    return Finding(Outcome.BAD, what, do)


def skipped(why: str) -> Finding:
    """Not looked at."""
    return Finding(Outcome.UNASKED, why)


@dataclass(frozen=True)
class Check:
    """``name`` and the function that answers; a MedfunctaError of it is a bad finding in its own words."""

    name: str
    ask: Callable[[], Finding]


@dataclass(frozen=True)
class CheckResult:
    """A check, answered, and the seconds that it took."""

    name: str
    finding: Finding
    seconds: float

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {"check": self.name, **asdict(self.finding), "seconds": self.seconds}

    def __str__(self) -> str:
        do = f"\n{'':9}→ {self.finding.do}" if self.finding.do else ""
        return f"{self.finding.state:<8} {self.name}: {self.finding.what}{do}"


def run_checks(checks: list[Check]) -> Iterator[CheckResult]:
    """Ask one after the other. No answer ends the examination: what is broken is what it is for."""
    for check in checks:
        began = time.monotonic()
        try:
            finding = check.ask()
        except MedfunctaError as error:
            finding = failed(error.what + (f" ({error.where})" if error.where else ""), error.do)
        except Exception as error:
            finding = failed(f"{type(error).__name__}: {error}", "this is not foreseen: report it")
        yield CheckResult(check.name, finding, round(time.monotonic() - began, 3))
