"""A fingerprint for people: a table per modality, and the lines to write into the run file. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medfuncta_dist.scans.scan import MODALITY_WORDS


def lines_of(found: Mapping[str, Any]) -> list[str]:
    """The lines that the command prints."""
    lines = [*_read(found)]
    lines += [f"set aside: {n} x {reason}" for reason, n in found["aside"].items()]
    lines += [f"not read: {n} x {reason}" for reason, n in found["reasons"].items()]
    for group in found["groups"]:
        lines += ["", *_table(group), "", *_snippet(group)]
    if len(found["groups"]) > 1:
        lines += ["", "a run has one shape: give each modality a run file, with data.source narrowed to its files"]
    return lines


def _read(found: Mapping[str, Any]) -> Iterator[str]:
    """How much was read of how much."""
    files, sources, series, scans = (found[name] for name in ("files", "sources", "series", "scans"))
    of_series = f", {series['read']} of {series['found']} DICOM series among them" if series["found"] else ""
    yield (
        f"fingerprint: {scans['sampled']} of {scans['found']} scans"
        f" in {sources['read']} of {sources['found']} sources{of_series}"
    )
    if files["headers_read"] < files["dicom"]:
        yield f"headers: {files['headers_read']} of {files['dicom']} DICOM files, those of whole folders"


def _table(group: Mapping[str, Any]) -> Iterator[str]:
    percentiles = group["intensity"]
    rows = [
        ("measured", _scans(group)),
        ("shape", _ranged(group["shape"])),
        ("spacing", _ranged(group["spacing"])),
        ("channels", _counts(group["channels"])),
        ("type", _counts(group["types"])),
        ("orientation", _counts(group["orientations"])),
        ("background", f"{percentiles['background']:.0%} of a scan is its smallest value (median)"),
    ]
    if group["not_finite"]:
        rows.append(("not finite", f"{group['not_finite']} scans have values that are not finite"))
    yield f"{_title(group)} ({MODALITY_WORDS[group['modality']]})"
    yield from (f"  {name:<12} {value}" for name, value in rows)
    yield from _percentile_rows(percentiles)


def _percentile_rows(intensity: Mapping[str, Any]) -> Iterator[str]:
    cells = {
        "percentile": [f"{p:g}" for p in intensity["percentiles"]],
        "all values": [f"{p:.4g}" for p in intensity["pooled"]],
        "lowest scan": [f"{p:.4g}" for p in intensity["per_scan"]["lowest"]],
        "highest scan": [f"{p:.4g}" for p in intensity["per_scan"]["highest"]],
    }
    widths = [max(len(row[i]) for row in cells.values()) for i in range(len(intensity["percentiles"]))]
    for name, row in cells.items():
        yield f"  {name:<12} " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))


def _snippet(group: Mapping[str, Any]) -> Iterator[str]:
    """In YAML, with the reasons as comments."""
    suggested = group["suggested"]
    yield f"# {_title(group)}, from {_scans(group)}: for the run file"
    yield "data:"
    for key, value in suggested["data"].items():
        if key in suggested["why"]:
            yield f"  # {suggested['why'][key]}"
        yield f"  {key}: {_flow(value)}"


def _scans(group: Mapping[str, Any]) -> str:
    scans, series = group["scans"], group["series"]
    kind = {2: "image", 3: "volume"}.get(group["axes"], "scan")
    of_series = f" of {series} DICOM series" if series else ""
    return f"{scans} {kind}{'' if scans == 1 else 's'}{of_series}"


def _title(group: Mapping[str, Any]) -> str:
    return f"{group['modality']}, {group['axes']} {'axis' if group['axes'] == 1 else 'axes'}"


def _flow(value: Any) -> str:
    """YAML's flow style, without the quotes that JSON has around words."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    return value if isinstance(value, str) else json.dumps(value)


def _ranged(spread: Mapping[str, Any]) -> str:
    low, median, high = (_times(spread[name]) for name in ("lowest", "median", "highest"))
    return median if low == high else f"{median} (median; {low} to {high})"


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{n:.4g}" for n in numbers)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(name if len(counts) == 1 else f"{n} {name}" for name, n in counts.items())
