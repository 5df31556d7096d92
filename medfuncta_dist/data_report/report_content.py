"""The content of a data report: data-report.json, from tallies and counts. Pure. It holds no key and no picture.

{"format_version": 1, "kind": "medfuncta data report", "dataset": {…}, "contract": {…}, "counts": {…}, "check": {…},
 "splits": {…}, "patients": …, "equal_samples": {…}, "look_alikes": …, "reasons": {…}, "modalities": {…}, "archive": …}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Any

import numpy as np

from medfuncta_dist.data_report.equal_samples import EqualSamples
from medfuncta_dist.data_report.tally import SPACING_EDGES, ModalityTally
from medfuncta_dist.shards.data_contract import SplitsBy, about_splits, splits_by
from medfuncta_dist.shards.snapshot import Snapshot
from medfuncta_dist.shards.split_patients import SplitPatients

FORMAT_VERSION = 1
KIND = "medfuncta data report"
AXES = 3


SLABS = (
    "Every patient is in several splits: the splits are slabs within each volume, as data.slabs asks. Results are "
    "those of other slices of known patients."
)
BY_SOURCE = (
    "Patients are not known: this data set is split by source, so several scans of a patient may be in different "
    "splits, and results may be better than on new patients. Pack under a new data.dataset with data.group: patient."
)
NOBODYS = {
    "scan": " {:,} scans name no patient; each is split by itself.",
    "file": " {:,} scans are in the splits that their file gives, and name no patient.",
}


class Check(StrEnum):
    """The result of the check for leakage."""

    PASSED = "passed"
    UNKNOWN = "unknown"
    """Patients are not known."""
    WARNING = "warning"
    """A patient is in several splits, as somebody has decided."""
    FAILED = "failed"
    """A patient is in several splits, and should not be."""


def content_of(
    snapshot: Snapshot,
    tallies: Mapping[str, ModalityTally],
    patients: SplitPatients | None,
    equal: EqualSamples,
    look_alikes: Mapping[str, Any] | None,
    archive: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The whole report as JSON objects."""
    state, text = check(snapshot.contract, patients, equal)
    return {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "dataset": {"name": snapshot.name, "digest": snapshot.digest, "generation": snapshot.generation},
        "contract": dict(snapshot.contract),
        "counts": dict(snapshot.counts),
        "check": {"state": str(state), "text": text, "splits_by": about_splits(snapshot.contract)},
        "splits": {name: _split(snapshot, name, patients) for name in sorted(snapshot.splits)},
        "patients": patients
        and {"patients": patients.patients, "in_several_splits": patients.in_several_splits, "by": patients.by},
        "equal_samples": asdict(equal),
        "look_alikes": look_alikes,
        "reasons": _reasons(snapshot.quarantined),
        "modalities": {name: _modality(tallies[name]) for name in sorted(tallies, key=lambda m: -tallies[m].scans)},
        "archive": archive,
    }


def check(contract: Mapping[str, Any], patients: SplitPatients | None, equal: EqualSamples) -> tuple[Check, str]:
    """Whether a patient, or the same scan, is in several splits, and the sentences that say so."""
    state, text = _of_patients(splits_by(contract), patients)
    if not equal.across_splits:
        return state, text
    again = f"{equal.across_splits:,} scans are in one split and, equal in every byte, in another one too"
    return Check.FAILED if state is Check.FAILED else Check.WARNING, f"{text} {again}."


def _of_patients(by: SplitsBy, patients: SplitPatients | None) -> tuple[Check, str]:
    if by is SplitsBy.SLABS:
        return Check.WARNING, SLABS
    if patients is None:
        return Check.UNKNOWN, BY_SOURCE
    if patients.in_several_splits:
        text = f"{patients.in_several_splits:,} of {patients.patients:,} patients are in several splits"
        if by is SplitsBy.GIVEN:
            return Check.WARNING, f"{text}, as the splits were given. Results are better than on new patients."
        return Check.FAILED, f"{text}. That is a bug, or damage: pack the archive again under another data.dataset."
    told = "".join(words.format(patients.by[way]) for way, words in NOBODYS.items() if patients.by.get(way))
    if not patients.patients:
        return Check.UNKNOWN, f"No scan names its patient.{told}"
    return Check.PASSED, f"0 of {patients.patients:,} patients are in several splits.{told}"


def _split(snapshot: Snapshot, name: str, patients: SplitPatients | None) -> dict[str, Any]:
    shards = snapshot.splits[name]
    known = patients is not None and patients.patients > 0
    return {
        "scans": sum(shard.samples for shard in shards),
        "patients": patients.by_split.get(name, 0) if patients is not None and known else None,
        "shards": len(shards),
        "bytes": sum(shard.size for shard in shards),
    }


def _reasons(entries: Sequence[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    found = {kind: Counter(e["reason"] for e in entries if e["kind"] == kind) for kind in ("source", "scan")}
    return {kind: _by_count(counts) for kind, counts in found.items()}


def _modality(tally: ModalityTally) -> dict[str, Any]:
    labels: dict[str, dict[str, int]] = {}
    for (split, label), count in sorted(tally.labels.items()):
        labels.setdefault(label, {})[split] = count
    axes = [axis for axis in range(AXES) if tally.spacing_bins[axis].any()]
    return {
        "scans": tally.scans,
        "splits": _by_count(tally.splits),
        "shapes": _by_count(tally.shapes),
        "types": _by_count(tally.types),
        "spacings": _by_count(tally.spacings),
        "labels": labels,
        "slices": tally.slices,
        "without_position": tally.without_affine,
        "windows": _windows(tally),
        "values": _values(tally),
        "spacing_histogram": {
            "edges": [float(edge) for edge in SPACING_EDGES],
            "axes": [[int(n) for n in tally.spacing_bins[axis]] for axis in axes],
        },
    }


def _windows(tally: ModalityTally) -> dict[str, Any]:
    ends = np.array([(window.low, window.high) for window in tally.windows], float)
    spread = {"lowest": ends.min(axis=0), "median": np.median(ends, axis=0), "highest": ends.max(axis=0)}
    return {"sampled": len(ends), "different": len({*map(tuple, ends)})} | {
        name: [float(end) for end in row] for name, row in spread.items()
    }


def _values(tally: ModalityTally) -> dict[str, Any]:
    below, above, every = (int(n) for n in tally.beyond)
    return {
        "measured": tally.measured,
        "below": below / every if every else 0.0,
        "above": above / every if every else 0.0,
        "histogram": [int(n) for n in tally.value_bins],
    }


def _by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts, key=lambda name: (-counts[name], name))}
