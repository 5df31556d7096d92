"""The section of the report about the probe: its scores, receiver operating curves and confusion, from probe.json; or
how to get them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from medfuncta_dist.errors import ObjectMissingError
from medfuncta_dist.evaluation import charts
from medfuncta_dist.evaluation.stored_scores import report_folder
from medfuncta_dist.report_style.report_page import fragment
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.strict_json import parse_object

TEMPLATE = "probe_section.html"
VERSION = 2
"""Of probe.json, that this section shows."""
LARGEST = 2**26
"""Bytes. Three sets of features with six classifiers of a hundred classes take a few."""
LATENTS = "latents"
SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1", "auroc": "AUROC", "mae": "MAE", "r2": "R²"}
"""Those that the table shows, as far as a probe has them."""
MOST_CLASSES = 20
"""Of a table of confusion: more would not fit a page."""


def read_probe(store: ObjectStore, run: str) -> dict[str, Any] | None:
    """The content of a run's probe.json, of whatever version; None where no probe has been run."""
    path = f"{report_folder(run)}/probe.json"
    try:
        data = store.read(path, limit=LARGEST)
    except ObjectMissingError:
        return None
    return parse_object(data, "the probe's record", store.uri(path), "run probe again")


def probe_section(probe: Mapping[str, Any] | None, labelled: bool) -> Markup | None:
    """The section's HTML. None where there is no probe and, without labels, nothing to ask it for."""
    if probe is None or probe.get("format_version") != VERSION:
        return fragment(__package__, TEMPLATE, rows=[], earlier=probe is not None) if probe or labelled else None
    rows = probe["classifiers"]
    best = best_row(rows)
    return fragment(
        __package__,
        TEMPLATE,
        rows=rows,
        names={name: words for name, words in SCORES.items() if any(name in row["scores"] for row in rows)},
        best=best,
        scans=probe["scans"],
        roc=_roc(rows, best),
        confusion=_confusion(best, probe.get("classes") or []),
    )


def best_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of the classifiers on latents, the one that scored best on training scans: the test split has no say."""
    mine = [row for row in rows if row["features"] == LATENTS]
    return max(mine, key=lambda row: -1.0 if row["trial_score"] is None else row["trial_score"])


def _roc(rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> str | None:
    """The curves of one classifier on all kinds of features."""
    curves = {row["features"]: row["roc"] for row in rows if row["classifier"] == best["classifier"] and row["roc"]}
    return charts.roc(curves) if curves else None


def _confusion(best: Mapping[str, Any], classes: Sequence[int]) -> list[tuple[str, list[tuple[int, float]]]] | None:
    """By true class: how many scans were taken for each class, and their share of the true class's."""
    counts = best["confusion"]
    if counts is None or len(counts) > MOST_CLASSES:
        return None
    names = [str(one) for one in classes] if len(classes) == len(counts) else [str(at) for at in range(len(counts))]
    return [
        (name, [(count, count / max(sum(row), 1)) for count in row]) for name, row in zip(names, counts, strict=True)
    ]
