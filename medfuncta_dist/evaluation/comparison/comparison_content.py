"""The content of comparison.json. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Int

from medfuncta_dist.evaluation.comparison.paired_scores import Difference, PairedScores, difference
from medfuncta_dist.evaluation.metrics import natural

FORMAT_VERSION = 1
KIND = "medfuncta comparison"
METRICS = ("psnr", "ssim")


def content_of(
    facts: Mapping[str, Mapping[str, Any]],
    pairs: PairedScores,
    split: str,
    clusters: Int[np.ndarray, " scan"],
    by_patient: bool,
    settings: Sequence[Mapping[str, Any]],
    extremes: int,
) -> dict[str, Any]:
    """What is stored. ``facts`` of runs a and b; ``extremes``: scans to list of those that lose and gain most."""
    a, b = pairs.values("psnr")
    return {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "runs": facts,
        "split": split,
        "pairs": len(a),
        "only_a": pairs.only_a,
        "only_b": pairs.only_b,
        "patients": len(np.unique(clusters)) if by_patient else None,
        **{metric: _json(difference(*pairs.values(metric), clusters)) for metric in METRICS},
        "labels": _by_label(pairs, clusters),
        "losers": [
            scan for scan in _listed(pairs, np.argsort(b - a, kind="stable")[:extremes]) if scan["difference"] < 0
        ],
        "gainers": [
            scan for scan in _listed(pairs, np.argsort(a - b, kind="stable")[:extremes]) if scan["difference"] > 0
        ],
        "settings": list(settings),
        "notes": _notes(facts),
    }


def _by_label(pairs: PairedScores, clusters: Int[np.ndarray, " scan"]) -> dict[str, Any]:
    """Differences of PSNR by label; empty without labels."""
    names, (a, b) = np.array(pairs.labels), pairs.values("psnr")
    found = {}
    for name in sorted({name for name in names.tolist() if name}, key=natural):
        here = names == name
        found[name] = _json(difference(a[here], b[here], clusters[here]))
    return found


def _listed(pairs: PairedScores, places: Int[np.ndarray, " scan"]) -> list[dict[str, Any]]:
    a, b = pairs.values("psnr")
    keys, labels = pairs.a["key"].to_pylist(), pairs.labels
    return [
        {"key": keys[i], "label": labels[i], "a": float(a[i]), "b": float(b[i]), "difference": float(b[i] - a[i])}
        for i in places.tolist()
    ]


def _notes(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What keeps the two from being compared like with like."""
    a, b = facts["a"], facts["b"]
    notes = []
    if a["shape"] != b["shape"]:
        shapes = " and ".join(" × ".join(map(str, one["shape"])) for one in (a, b))
        notes.append(f"Scans were packed with {shapes} points: each PSNR is against the run's own points.")
    elif a["dataset"]["digest"] != b["dataset"]["digest"]:
        notes.append("The runs are on different data sets, or states of one: the same scan may have other values.")
    return notes


def _json(found: Difference | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)
