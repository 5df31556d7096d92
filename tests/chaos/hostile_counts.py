"""How many files are made to harm, and how many kinds of real ones are mutated: docs/reliability.md says it, between
marks of its own. A unit test compares.

python -m tests.chaos.hostile_counts
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.chaos.bombs import BOMBS
from tests.chaos.page import put_between
from tests.chaos.test_hostile_input import BUNDLES, LONG, SHORT, SOURCES, STORED

MARK = "hostile"


def counts() -> str:
    """A table: files made to harm, then kinds of files that are mutated."""
    made = Counter(name.partition(":")[0].partition(" in ")[0] for name in BOMBS)
    rows = [
        ("files made to harm", len(BOMBS), (f"{name} {number}" for name, number in made.items())),
        ("mutated kinds of scans", len(SOURCES), SOURCES),
        ("mutated kinds of archive files", len(BUNDLES), BUNDLES),
        ("mutated kinds of our own files", len(STORED), STORED),
    ]
    kinds = len(SOURCES) + len(BUNDLES) + len(STORED)
    return "\n".join(
        [
            "| input | number | which |",
            "|---|---|---|",
            *(f"| {what} | {number} | {_listed(names)} |" for what, number, names in rows),
            "",
            f"Each of the {kinds} kinds is mutated {SHORT} times in `make test` and {LONG} times in `make chaos`: "
            f"{kinds * SHORT:,} and {kinds * LONG:,} files.",
            "",
        ]
    )


def _listed(names: Iterable[str]) -> str:
    return "; ".join(names)


if __name__ == "__main__":
    put_between(MARK, counts())
