"""A rule for manifests: a name, a remedy, and a check that yields each place where a manifest breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from medfuncta_dist.submit.rules.manifest_view import RayJob

Breaches = Iterator[tuple[str, str]]
"""(where in the manifest, what is wrong) for each breach of a rule."""
Check = Callable[[RayJob], Breaches]


@dataclass(frozen=True)
class Finding:
    """One fault of a manifest: the rule, where in the manifest, what is wrong, what to do."""

    rule: str
    where: str
    what: str
    do: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}: {self.what}; {self.do}"


@dataclass(frozen=True)
class Rule:
    """A named check; ``do`` is the remedy, in terms of the run file or the overlay."""

    name: str
    do: str
    check: Check

    def findings(self, job: RayJob) -> list[Finding]:
        """A finding for each breach."""
        return [Finding(self.name, where, what, self.do) for where, what in self.check(job)]


class RuleBook:
    """A set of rules, in the order of their definition."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def rule(self, name: str, do: str) -> Callable[[Check], Check]:
        """Decorator: adds the check to this book as a rule."""

        def add(check: Check) -> Check:
            self.rules.append(Rule(name, do, check))
            return check

        return add
