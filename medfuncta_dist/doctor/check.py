"""Checks: questions about this machine, the storage or a cluster; each has a finding and, if it is bad, a fix."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from medfuncta_dist.errors import MedfunctaError


class Outcome(StrEnum):
    """The outcome of a check, with the value that ``doctor --json`` prints and scripts read."""

    PASSED = "good"
    WARNED = "odd"
    """It works, but not as well as it could, or the check cannot tell."""
    FAILED = "bad"
    """A run would fail here, or be unsafe."""
    SKIPPED = "unasked"
    """It does not matter for this run, or depends on another check."""

    @property
    def label(self) -> str:
        """The word for people."""
        return LABELS[self]


LABELS = {
    Outcome.PASSED: "ok",
    Outcome.WARNED: "warning",
    Outcome.FAILED: "failed",
    Outcome.SKIPPED: "skipped",
}


@dataclass(frozen=True)
class Finding:
    """What a check found. ``do`` is the fix, for warnings and failures."""

    state: Outcome
    what: str
    do: str = ""


def passed(what: str) -> Finding:
    """Everything is as it should be."""
    return Finding(Outcome.PASSED, what)


def warned(what: str, do: str) -> Finding:
    """It works, with a warning."""
    return Finding(Outcome.WARNED, what, do)


def failed(what: str, do: str) -> Finding:
    """A run would fail."""
    return Finding(Outcome.FAILED, what, do)


def skipped(why: str) -> Finding:
    """Not checked."""
    return Finding(Outcome.SKIPPED, why)


@dataclass(frozen=True)
class Check:
    """A named check. If ``run`` raises a MedfunctaError, that becomes a failure with the error's text."""

    name: str
    run: Callable[[], Finding]


@dataclass(frozen=True)
class CheckResult:
    """What a check found, and how many seconds it took."""

    name: str
    finding: Finding
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"check": self.name, **asdict(self.finding), "seconds": self.seconds}

    def __str__(self) -> str:
        do = f"\n{'':9}→ {self.finding.do}" if self.finding.do else ""
        return f"{self.finding.state.label:<8} {self.name}: {self.finding.what}{do}"


def run_checks(checks: list[Check]) -> Iterator[CheckResult]:
    """Run one check after the other. Every error becomes a failure of its check, and the next check still runs."""
    for check in checks:
        began = time.monotonic()
        try:
            finding = check.run()
        except MedfunctaError as error:
            finding = failed(error.what + (f" ({error.where})" if error.where else ""), error.do)
        except Exception as error:
            finding = failed(f"{type(error).__name__}: {error}", "this is an unexpected error: please report it")
        yield CheckResult(check.name, finding, round(time.monotonic() - began, 3))
