"""The fingerprint: what ``--out`` and ``--json`` hold. Pure.

    {"format_version": 1, "kind": "medfuncta fingerprint", "sources": {…}, "scans": {…}, "reasons": {…}, "groups": […]}

A group is the scans of one modality with one number of axes. Nothing in it can name a patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medfuncta_dist.fingerprint.scan_facts import PERCENTILES, ScanFacts
from medfuncta_dist.fingerprint.suggestion import suggest

FORMAT_VERSION = 1
KIND = "medfuncta fingerprint"
COMMON = 5
"""Shapes that are listed, the most frequent ones."""


@dataclass(frozen=True)
class Reading:
    """How much of the archive was read: sources there are and were read, scans that were found in these."""

    sources: int
    sources_read: int
    scans: int
    reasons: Mapping[str, int]


def fingerprint_of(reading: Reading, scans: Sequence[ScanFacts]) -> dict[str, Any]:
    """The whole fingerprint, as JSON has it; the same for the same scans in any order."""
    groups: dict[tuple[str, int], list[ScanFacts]] = {}
    for scan in scans:
        groups.setdefault((scan.modality, len(scan.shape)), []).append(scan)
    return {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "sources": {"found": reading.sources, "read": reading.sources_read},
        "scans": {"found": reading.scans, "sampled": len(scans)},
        "reasons": _counted(reading.reasons),
        "groups": [_group(*key, groups[key]) for key in sorted(groups, key=lambda key: (-len(groups[key]), key))],
    }


def _group(modality: str, axes: int, scans: Sequence[ScanFacts]) -> dict[str, Any]:
    suggested = suggest(scans)
    shapes = Counter(scan.shape for scan in scans)
    common = sorted(shapes.items(), key=lambda item: (-item[1], item[0]))[:COMMON]
    return {
        "modality": modality,
        "axes": axes,
        "scans": len(scans),
        "channels": _counted(Counter(str(scan.channels) for scan in scans)),
        "types": _counted(Counter(scan.dtype for scan in scans)),
        "orientations": _counted(Counter(scan.orientation for scan in scans)),
        "hounsfield": sum(scan.hounsfield for scan in scans),
        "not_finite": sum(not scan.finite for scan in scans),
        "shape": {**_spread([scan.shape for scan in scans]), "common": [[list(s), n] for s, n in common]},
        "spacing": _spread([scan.spacing for scan in scans]),
        "intensity": _intensity(scans),
        "suggested": {"data": suggested.data, "spacing": list(suggested.spacing), "why": suggested.why},
    }


def _intensity(scans: Sequence[ScanFacts]) -> dict[str, Any]:
    """``pooled``: percentiles of all values, each scan counting the same; ``per_scan``: how each scan's own differ."""
    pooled = np.percentile(np.sort(np.concatenate([scan.values for scan in scans])), PERCENTILES)
    background = float(np.median([scan.background for scan in scans]))
    per_scan = _spread([scan.percentiles for scan in scans])
    return {
        "percentiles": list(PERCENTILES),
        "pooled": [float(p) for p in pooled],
        "per_scan": per_scan,
        "background": background,
    }


def _spread(rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    table = np.array(rows, float)
    found = {"lowest": table.min(axis=0), "median": np.median(table, axis=0), "highest": table.max(axis=0)}
    return {name: [float(value) for value in values] for name, values in found.items()}


def _counted(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts, key=lambda name: (-counts[name], name))}
