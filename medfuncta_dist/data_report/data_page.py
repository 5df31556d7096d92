"""data-report.html: one file that loads nothing. It shows scans, and so is patient data. Content in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.data_report import data_charts
from medfuncta_dist.data_report.tally import ModalityTally
from medfuncta_dist.report_style.report_page import PACKING, SHORT, page
from medfuncta_dist.scans.scan import MODALITY_WORDS
from medfuncta_dist.shards.sample import Sample

TEMPLATE = "data_report.html"
MOST_LABELS = 30
FIRST = ("train", "val", "test")
"""Splits in the order in which people name them; others follow."""
AXES = {1: ("along the signal",), 2: ("first axis", "second axis"), 3: ("right", "anterior", "superior")}
VERDICTS = {"passed": "Passed", "unknown": "Not known", "warning": "Warning", "failed": "Failed"}
LOOK_ALIKES = {
    "across_splits": "pairs that look alike in different splits",
    "across_patients": "pairs of different patients that look alike in one split",
    "compared": "scans compared",
    "uncompared": "scans not compared",
}


@dataclass(frozen=True, eq=False)
class Shown:
    """A sample to show, and the split that it is in."""

    sample: Sample
    split: str


def render(content: Mapping[str, Any], tallies: Mapping[str, ModalityTally], shown: Sequence[Shown], code: str) -> str:
    """The page."""
    return page(
        __package__,
        TEMPLATE,
        content["dataset"]["name"],
        "data report",
        content=content,
        verdict=VERDICTS[content["check"]["state"]],
        cards=_cards(content),
        packing=[(words, content["counts"][name]) for name, words in PACKING.items() if name in content["counts"]],
        splits=_splits(content["splits"]),
        modalities=[
            _modality(name, content["modalities"][name], tallies[name], shown) for name in content["modalities"]
        ],
        look_alikes=_look_alikes(content["look_alikes"]),
        archive=_archive(content["archive"]),
        settings=_settings(content, code),
        short=SHORT,
        plural=plural,
    )


def _cards(content: Mapping[str, Any]) -> list[dict[str, str]]:
    counts, patients, equal = content["counts"], content["patients"], content["equal_samples"]
    known = patients is not None and patients["patients"]
    lost = counts["quarantined"] + counts["sources_quarantined"]
    cards = [
        _card(f"{counts['packed']:,}", "scans packed", f"from {plural(counts['sources_packed'], 'source')}"),
        _card(f"{patients['patients']:,}" if known else "–", "patients", "" if known else "the files name none"),
        _card(
            f"{lost:,}",
            "quarantined",
            f"{plural(counts['quarantined'], 'scan')}, {plural(counts['sources_quarantined'], 'source')}",
        ),
        _card(
            f"{patients['in_several_splits']:,}" if known else "–",
            "patients in 2+ splits",
            "" if known else "not known",
        ),
        _card(f"{equal['copies']:,}", "copies", f"of other scans; {equal['across_splits']:,} across splits"),
    ]
    return cards


def plural(count: int, word: str) -> str:
    """``1 scan``, ``2 scans``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _card(value: str, what: str, remark: str) -> dict[str, str]:
    return {"value": value, "what": what, "remark": remark}


def _splits(splits: Mapping[str, Any]) -> list[dict[str, Any]]:
    every = sum(split["scans"] for split in splits.values())
    order = sorted(splits, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    return [{"name": name, **splits[name], "share": 100 * splits[name]["scans"] / every} for name in order]


def _modality(name: str, found: Mapping[str, Any], tally: ModalityTally, shown: Sequence[Shown]) -> dict[str, Any]:
    axes = len(found["spacing_histogram"]["axes"])
    unit = "s where the file says so, else 1" if axes == 1 else "mm where the file says so, else 1"
    labels = [{"name": label, **_label(label, counts, found)} for label, counts in found["labels"].items()]
    labels.sort(key=lambda row: (-row["total"], row["name"]))
    return {
        "name": name,
        "words": MODALITY_WORDS[name][0].upper() + MODALITY_WORDS[name][1:],
        "found": found,
        "axes": axes,
        "thumbnails": [
            {"key": one.sample.key, "split": one.split, "image": data_charts.thumbnail(one.sample)}
            for one in shown
            if one.sample.meta["modality"] == name
        ],
        "intensity": data_charts.intensity(found["values"]["histogram"]) if sum(found["values"]["histogram"]) else None,
        "windows": data_charts.windows(tally.windows),
        "spacing": data_charts.spacing(found["spacing_histogram"]["axes"], AXES[axes], unit),
        "shapes": data_charts.counts(found["shapes"]),
        "spacings": data_charts.counts(found["spacings"]),
        "types": ", ".join(kind if len(found["types"]) == 1 else f"{n:,} {kind}" for kind, n in found["types"].items()),
        "labels": labels[:MOST_LABELS],
        "labels_left_out": max(0, len(labels) - MOST_LABELS),
    }


def _label(label: str, counts: Mapping[str, int], found: Mapping[str, Any]) -> dict[str, Any]:
    """A label's scans by split, and its share of the split's scans in per cent."""
    cells = {
        split: (counts.get(split, 0), 100 * counts.get(split, 0) / found["splits"][split]) for split in found["splits"]
    }
    return {"total": sum(counts.values()), "cells": cells}


def _look_alikes(found: Mapping[str, Any] | None) -> list[tuple[str, int]] | None:
    return None if found is None else [(words, found[name]) for name, words in LOOK_ALIKES.items() if name in found]


def _archive(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    tables = {
        "formats": "Files by reader",
        "modalities": "DICOM files by modality",
        "sizes": "DICOM files by rows × columns",
        "pixel_spacings": "DICOM files by pixel spacing (mm)",
        "problems": "Problems that headers show",
    }
    shown = [(title, data_charts.counts(found[name])) for name, title in tables.items() if found[name]]
    return {"files": found["files"], "bytes": found["bytes"], "tables": shown}


def _settings(content: Mapping[str, Any], code: str) -> list[tuple[str, str]]:
    rows = [(f"data.{name}", _text(value)) for name, value in sorted(content["contract"].items()) if value is not None]
    digest = content["dataset"]["digest"]
    return [
        ("Data set", f"{content['dataset']['name']}, snapshot {digest[:SHORT]}…"),
        *rows,
        ("Code", f"medfuncta-dist {code}"),
    ]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items() if inner is not None)
    return " × ".join(map(str, value)) if isinstance(value, list) else str(value)
