"""The section of the report about the probe: its scores, receiver operating curves and confusion, from probe.json; or
how to get them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from medfuncta_dist.errors import IntegrityError, ObjectMissingError
from medfuncta_dist.evaluation import charts
from medfuncta_dist.evaluation.stored_scores import report_folder
from medfuncta_dist.report_style.report_page import fragment
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.strict_json import parse_object

TEMPLATE = "probe_section.html"
VERSIONS = (2, 3)
"""Of probe.json, that this section shows: what it shows is the same in both."""
LARGEST = 2**26
"""Bytes. Three sets of features with six classifiers of a hundred classes take a few."""
LATENTS = "latents"
FEATURES = {LATENTS: "latents", "pca": "PCA of pixels", "pixels": "small scans"}
SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1", "auroc": "AUROC", "mae": "MAE", "r2": "R²"}
"""Those that the table shows, as far as a probe has them."""
MOST_CLASSES = 20
"""Of a table of confusion, and labels of a table: more would not fit a page."""


def read_probe(store: ObjectStore, run: str) -> dict[str, Any] | None:
    """The content of a run's probe.json, of whatever version; None where no probe has been run.

    Empty where it is damaged: that is no reason to be without a report.
    """
    path = f"{report_folder(run)}/probe.json"
    try:
        return parse_object(store.read(path, limit=LARGEST), "the probe's record", store.uri(path))
    except ObjectMissingError:
        return None
    except IntegrityError:
        return {}


def probe_section(probe: Mapping[str, Any] | None, latents: str, labelled: bool) -> Markup | None:
    """The section's HTML. ``latents``: folder of the table that the report is about; a probe of another is not shown.

    None where there is no probe and, without labels, nothing to ask it for.
    """
    if probe is None and not labelled:
        return None
    if probe is None or probe.get("latents") != latents or probe.get("format_version") not in VERSIONS:
        return fragment(__package__, TEMPLATE, rows=[], other=probe is not None)
    try:
        return fragment(__package__, TEMPLATE, other=True, **_content(probe))
    except (KeyError, TypeError, ValueError, AttributeError):  # it is JSON, but not what a probe writes
        return fragment(__package__, TEMPLATE, rows=[], other=True)


def _content(probe: Mapping[str, Any]) -> dict[str, Any]:
    rows = probe["results"]
    best = chosen_row(rows, probe.get("chosen"))
    return {
        "rows": rows,
        "features": FEATURES,
        "names": {name: words for name, words in SCORES.items() if any(name in row["scores"] for row in rows)},
        "best": best,
        "words": probe["question"]["words"],
        "patients": probe["groups"]["by"] != "scan",
        "scans": probe["scans"],
        "roc": _roc(rows, best),
        "confusion": _confusion(best, probe["classes"]),
        "by_label": (best["by_label"] or [])[:MOST_CLASSES],
    }


def chosen_row(rows: Sequence[Mapping[str, Any]], chosen: str | None) -> Mapping[str, Any]:
    """The classifier that the probe chose, on latents; else the one that scored best there on training scans: the test
    split has no say."""
    mine = [row for row in rows if row["features"] == LATENTS]
    named = [row for row in mine if row["classifier"] == chosen]
    return max(named or mine, key=lambda row: float("-inf") if row["trial_score"] is None else row["trial_score"])


def _roc(rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> str | None:
    """The curves of one classifier on all kinds of features."""
    mine = [row for row in rows if row["classifier"] == best["classifier"] and row["roc"]]
    return charts.roc({FEATURES.get(row["features"], row["features"]): row["roc"] for row in mine}) if mine else None


def _confusion(best: Mapping[str, Any], classes: Sequence[int]) -> list[tuple[str, list[tuple[int, float]]]] | None:
    """By true class: how many scans were taken for each class, and their share of the true class's."""
    counts = best["confusion"]
    if counts is None or len(counts) > MOST_CLASSES:
        return None
    return [
        (str(name), [(count, count / max(sum(row), 1)) for count in row])
        for name, row in zip(classes, counts, strict=True)
    ]
