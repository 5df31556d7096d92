"""The fingerprint: what ``--out`` and ``--json`` hold. Pure.

    {"format_version": 1, "kind": "medfuncta fingerprint", "files": {…}, "sources": {…}, "series": {…}, "scans": {…},
     "aside": {…}, "reasons": {…}, "groups": […]}

A source is a file, or a DICOM series. A group is the scans of one modality with one number of axes. Nothing in it can
name a patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medfuncta_dist.fingerprint.drawn_sources import Archive
from medfuncta_dist.fingerprint.scan_facts import PERCENTILES, ScanFacts
from medfuncta_dist.fingerprint.suggestion import suggest

FORMAT_VERSION = 1
KIND = "medfuncta fingerprint"
COMMON = 5
"""Shapes that are listed, the most frequent ones."""


@dataclass(frozen=True)
class Reading:
    """How much there is, and how much of it was read: sources, those of them that are DICOM series, and the scans that
    were found in them."""

    archive: Archive
    sources: int = 0
    series: int = 0
    scans: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def and_also(self, sources: int, series: int, scans: int, reasons: Counter[str]) -> Reading:
        """This and what was read besides."""
        sums = self.sources + sources, self.series + series, self.scans + scans
        return Reading(self.archive, *sums, self.reasons + reasons)


def fingerprint_of(reading: Reading, scans: Sequence[ScanFacts]) -> dict[str, Any]:
    """The whole fingerprint, as JSON has it; the same for the same scans in any order."""
    archive = reading.archive
    groups: dict[tuple[str, int], list[ScanFacts]] = {}
    for scan in scans:
        groups.setdefault((scan.modality, len(scan.shape)), []).append(scan)
    return {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "files": {"found": archive.files, "dicom": archive.dicom, "headers_read": archive.headers},
        "sources": {"found": archive.sources, "read": reading.sources},
        "series": {"found": archive.series, "read": reading.series},
        "scans": {"found": reading.scans, "sampled": len(scans)},
        "aside": _counted(archive.aside),
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
        "series": len({scan.series for scan in scans if scan.series}),
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
