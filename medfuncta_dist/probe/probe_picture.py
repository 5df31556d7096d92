"""``probe.png``: how well a classifier tells answers apart (ROC), which it confuses, and if its probabilities hold.

The same classifier on latents, on PCA and on small scans, in three panels. It holds numbers of scans, and no scan.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medfuncta_dist.probe.probe_results import LATENTS, ROC_POINTS, Result, Trial, curves
from medfuncta_dist.report_style.report_figure import ACCENT, INK, LINE, MUTED, STYLE, THIRD, WARM

COLOURS = {LATENTS: ACCENT, "pca": THIRD, "pixels": WARM}
NAMES = {LATENTS: "latents", "pca": "PCA of pixels", "pixels": "small scans"}
MOST_CELLS = 12
"""Classes whose counts are written into the confusion matrix."""
DOTS = 150
"""Per inch."""


def draw(trial: Trial, results: Sequence[Result], classifier: str) -> bytes:
    """A PNG of the named classifier's results."""
    mine = [one for one in results if one.candidate.name == classifier]
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(11, 3.7), layout="constrained", facecolor="white")
        panels = list(drawing.subplots(1, 3))
        drawing.suptitle(f"{trial.question.words}: {classifier}, {len(trial.test.answers)} test scans", color=INK)
        if trial.question.kind == "target":
            _target_panels(panels, trial, mine)
        else:
            _class_panels(panels, trial, mine)
        buffer = io.BytesIO()
        drawing.savefig(buffer, format="png", dpi=DOTS, metadata={"Software": None})
    return buffer.getvalue()


def _class_panels(panels: Sequence[Axes], trial: Trial, mine: Sequence[Result]) -> None:
    shown = {one.features: curves(trial, one.found) for one in mine}
    _roc(panels[0], shown, {one.features: float(one.resampled["auroc"][0]) for one in mine})
    first = shown.get(LATENTS, next(iter(shown.values())))
    if first["confusion"] is not None:
        _confusion(panels[1], np.array(first["confusion"]), [str(one) for one in trial.classes])
    else:
        _by_label(panels[1], first["by_label"])
    _calibration(panels[2], shown)


def _roc(axes: Axes, shown: Mapping[str, Mapping[str, Any]], areas: Mapping[str, float]) -> None:
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
    for features, found in shown.items():
        if found["roc"] is not None:
            label = f"{NAMES[features]}, {areas[features]:.3f}"
            wide = 3.0 if features == LATENTS else 1.3  # so that equal curves are both seen
            axes.plot([0, *ROC_POINTS], [0, *found["roc"]], color=COLOURS[features], linewidth=wide, label=label)
    axes.legend(loc="lower right", frameon=False, title="area under the curve")
    _titled(axes, "ROC", "false positive rate", "true positive rate")
    axes.set_aspect("equal")


def _confusion(axes: Axes, counts: np.ndarray, classes: Sequence[str]) -> None:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="BuGn", vmin=0, vmax=1)
    axes.grid(False)
    if len(classes) <= MOST_CELLS:
        axes.set_xticks(range(len(classes)), classes)
        axes.set_yticks(range(len(classes)), classes)
        for (row, column), count in np.ndenumerate(counts):
            dark = shares[row, column] > 0.55
            axes.text(column, row, f"{count:,}", ha="center", va="center", color="white" if dark else INK)
    _titled(axes, "confusion, on latents", "answered", "label")


def _by_label(axes: Axes, labels: Sequence[Mapping[str, Any]]) -> None:
    values = [np.nan if one["scores"]["auroc"] is None else one["scores"]["auroc"] for one in labels]
    axes.barh(range(len(labels)), values, color=ACCENT)
    axes.set_yticks(range(len(labels)), [str(one["label"]) for one in labels])
    axes.axvline(0.5, color=MUTED, linewidth=1)
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    _titled(axes, "each label, on latents", "area under the ROC curve", "label")


def _calibration(axes: Axes, shown: Mapping[str, Mapping[str, Any]]) -> None:
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
    for features, found in shown.items():
        bins = found["calibration"]
        probability, true = [one["probability"] for one in bins], [one["true"] for one in bins]
        axes.plot(probability, true, color=COLOURS[features], linewidth=1.2)
        sizes = [8 + 60 * one["scans"] / sum(b["scans"] for b in bins) for one in bins]
        axes.scatter(probability, true, s=sizes, color=COLOURS[features], label=NAMES[features], zorder=3)
    axes.legend(loc="upper left", frameon=False)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    _titled(axes, "calibration (dot: share of scans)", "probability of the answer", "share that is right")
    axes.set_aspect("equal")


def _target_panels(panels: Sequence[Axes], trial: Trial, mine: Sequence[Result]) -> None:
    """Found against true, one panel for each set of features."""
    for axes, one in zip(panels, mine, strict=False):
        ends = [float(trial.test.answers.min()), float(trial.test.answers.max())]
        axes.plot(ends, ends, color=LINE, linewidth=1)
        axes.scatter(trial.test.answers, one.found, s=6, color=COLOURS[one.features], alpha=0.6, linewidths=0)
        _titled(axes, f"{NAMES[one.features]}: R² {one.resampled['r2'][0]:.3f}", "target", "found")
    for axes in panels[len(mine) :]:
        axes.set_visible(False)


def _titled(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, color=INK, fontsize=9)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
