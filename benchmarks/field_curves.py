"""Curves of `fields.py` as one picture: a row a data set; over numbers per scan, training time and fitting time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLES = {
    "basis": ("#0b6e99", "o", "-"),
    "siren": ("#c1440e", "s", "-"),
    "pca": ("#5b8c3a", "^", "--"),
    "pca of augmented scans": ("#8a6bbe", "v", "--"),
    "dct": ("#8a8f98", "D", ":"),
}
"""Colour, marker and line of each method."""


def draw(sets: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write the picture of ``sets`` (data set → method → its result) as PNG."""
    drawing = Figure(figsize=(13, 2.9 * len(sets) + 0.4), layout="constrained", dpi=100)
    rows = drawing.subplots(len(sets), 3, squeeze=False, sharey="row")
    for (name, end), panels in zip(sets.items(), rows, strict=True):
        for method, style in STYLES.items():
            for axes, points in zip(panels, curves(end[method]), strict=True):
                _line(axes, points, method, style)
        panels[0].set_ylabel(f"{name}\nvalidation PSNR, dB")
        panels[0].set_xscale("log", base=2)
        for axes in panels[1:]:
            axes.set_xscale("log")
    rows[0][2].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    words = ("numbers per scan", "training, CPU seconds on one thread", "fitting, CPU ms per scan")
    for axes, text in zip(rows[-1], words, strict=True):
        axes.set_xlabel(text)
    drawing.savefig(path)


def curves(result: Mapping[str, Any]) -> tuple[list[tuple[float, float]], ...]:
    """(x, dB) over numbers per scan, training seconds and milliseconds per fit; one point where there is no more."""
    end = result["validation"]
    over_seconds = [(seconds, decibels) for _, seconds, decibels in result.get("over_seconds", [])]
    over_fit = [(ms, decibels) for ms, decibels in result.get("over_fit", [])]
    numbers = [(p, decibels) for p, decibels in result["over_numbers"]]
    return numbers, over_seconds or [(result["seconds"], end)], [*over_fit, (result["fit_ms"], end)]


def _line(axes: Axes, points: list[tuple[float, float]], name: str, style: tuple[str, str, str]) -> None:
    colour, marker, line = style
    across, decibels = zip(*points, strict=True)
    axes.plot(across, decibels, label=name, color=colour, marker=marker, linestyle=line, markersize=4, linewidth=1.3)
    axes.grid(color="#d6dbe1", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
