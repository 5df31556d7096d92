"""What a rule is: a name, a remedy, and a check that says where a manifest breaks it, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from medfuncta_dist.submit.rules.manifest_view import RayJob

Check = Callable[[RayJob], Iterator[tuple[str, str]]]
"""Yields (where, what) for each breach."""


@dataclass(frozen=True)
class Finding:
    """One fault of a manifest: which rule, where in the manifest, what is wrong, what to do."""

    rule: str
    where: str
    what: str
    do: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}: {self.what}; {self.do}"


@dataclass(frozen=True)
class Rule:
    """A named check; ``do`` is the remedy in the words of the run file, or of the overlay."""

    name: str
    do: str
    check: Check

    def findings(self, job: RayJob) -> list[Finding]:
        """All breaches."""
        return [Finding(self.name, where, what, self.do) for where, what in self.check(job)]


class RuleBook:
    """Rules in the order in which they are written down."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def rule(self, name: str, do: str) -> Callable[[Check], Check]:
        """Decorator: the check becomes a rule of this book."""

        def add(check: Check) -> Check:
            self.rules.append(Rule(name, do, check))
            return check

        return add
