"""The two ledgers of packing: sources (files, objects) and the scans that were in them. Both must balance.

sources = sources_packed + sources_quarantined        a source that fails halfway is quarantined; its earlier scans stay
scans   = packed + quarantined                        ``blank`` slices, left out by rule, are not scans

Where DICOM series are assembled, a third one counts their files, of which a source has many:
instances = instances_packed + instances_quarantined + instances_left_out
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from medfuncta_dist.errors import IntegrityError, QuarantineLimitError

COUNTS = ("sources", "sources_packed", "sources_quarantined", "scans", "packed", "quarantined", "blank")
INSTANCES = ("instances", "instances_packed", "instances_quarantined", "instances_left_out")
"""Missing where there are none, as in data sets of earlier versions."""
LISTED_REASONS = 3


def total(ledgers: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of ledgers, with every count of ``COUNTS``."""
    sums, instances = dict.fromkeys(COUNTS, 0), dict.fromkeys(INSTANCES, 0)
    for counts in ledgers:
        for name in COUNTS:
            sums[name] += counts[name]
        for name in INSTANCES:
            instances[name] += counts.get(name, 0)
    return sums | (instances if any(instances.values()) else {})


def less(counts: Mapping[str, int], gone: Mapping[str, int]) -> dict[str, int]:
    """A ledger without what another one counts."""
    return total([counts, {name: -number for name, number in gone.items()}])


def instance_counts(counted: Iterable[Sequence[int]]) -> dict[str, int]:
    """The third ledger from (packed, quarantined, left out) of each series; empty where there is none."""
    columns = [sum(column) for column in zip(*counted, strict=True)]
    return dict(zip(INSTANCES, [sum(columns), *columns], strict=True)) if columns else {}


def require_balance(counts: Mapping[str, int], where: str) -> None:
    """``IntegrityError`` unless everything found was either packed or quarantined."""
    sources = counts["sources"] == counts["sources_packed"] + counts["sources_quarantined"]
    scans = counts["scans"] == counts["packed"] + counts["quarantined"]
    instances = counts.get("instances", 0) == sum(counts.get(name, 0) for name in INSTANCES[1:])
    if not (sources and scans and instances):
        listed = ", ".join(f"{name} {number}" for name, number in counts.items())
        do = "run `verify`; where it finds nothing damaged, report this as a bug: the counts of scans are wrong"
        raise IntegrityError(
            f"the scans found are not those packed plus those quarantined: {listed}", where=where, do=do
        )


def require_few_quarantined(counts: Mapping[str, int], reasons: Iterable[str], limit: float, where: str) -> None:
    """``QuarantineLimitError`` above the share ``limit``. A quarantined source counts as one scan."""
    unusable = counts["quarantined"] + counts["sources_quarantined"]
    found = counts["scans"] + counts["sources_quarantined"]
    if unusable > limit * found:
        common = most_common(reasons)
        raise QuarantineLimitError(
            f"{unusable} of {found} scans were quarantined, more than data.max_quarantined = {limit:g}: {common}",
            where=where,
            do="correct the data section or the archive, or raise data.max_quarantined; packed scans are kept",
        )


def most_common(reasons: Iterable[str]) -> str:
    """The most frequent reasons, with their number."""
    return "; ".join(f"{n} × {reason}" for reason, n in Counter(reasons).most_common(LISTED_REASONS))
