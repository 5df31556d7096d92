"""The two ledgers of packing: sources (files, objects) and the scans that were in them. Both must balance.

sources = sources_packed + sources_quarantined        a source that fails halfway is quarantined; its earlier scans stay
scans   = packed + quarantined                        ``blank`` slices, left out by rule, are not scans
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from medfuncta_dist.errors import IntegrityError, QuarantineLimitError

COUNTS = ("sources", "sources_packed", "sources_quarantined", "scans", "packed", "quarantined", "blank")
LISTED_REASONS = 3


def total(ledgers: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of ledgers, with every count of ``COUNTS``."""
    sums = dict.fromkeys(COUNTS, 0)
    for counts in ledgers:
        for name in COUNTS:
            sums[name] += counts[name]
    return sums


def require_balance(counts: Mapping[str, int], where: str) -> None:
    """``IntegrityError`` unless everything found was either packed or quarantined."""
    sources = counts["sources"] == counts["sources_packed"] + counts["sources_quarantined"]
    scans = counts["scans"] == counts["packed"] + counts["quarantined"]
    if not (sources and scans):
        listed = ", ".join(f"{name} {counts[name]}" for name in COUNTS)
        do = "run `verify`; where it finds nothing damaged, report this as a bug: the counts of scans are wrong"
        raise IntegrityError(
            f"the scans found are not those packed plus those quarantined: {listed}", where=where, do=do
        )


def require_few_quarantined(counts: Mapping[str, int], reasons: Iterable[str], limit: float, where: str) -> None:
    """``QuarantineLimitError`` above the share ``limit``. A quarantined source counts as one scan."""
    unusable = counts["quarantined"] + counts["sources_quarantined"]
    found = counts["scans"] + counts["sources_quarantined"]
    if unusable > limit * found:
        common = "; ".join(f"{n} × {reason}" for reason, n in Counter(reasons).most_common(LISTED_REASONS))
        raise QuarantineLimitError(
            f"{unusable} of {found} scans were quarantined, more than data.max_quarantined = {limit:g}: {common}",
            where=where,
            do="correct the data section or the archive, or raise data.max_quarantined; packed scans are kept",
        )
