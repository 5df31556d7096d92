"""Charts of a report, as SVG: PSNR histogram, loss and held-out PSNR over outer steps."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, MUTED, LINE = "#1f2a37", "#667085", "#d6dbe1"
ACCENT, WARM, THIRD, FOURTH = "#0f766e", "#d9622b", "#5b5bd6", "#b7791f"
SPLIT_COLOURS = {"train": MUTED, "val": FOURTH, "test": ACCENT}
OTHER_COLOURS = (THIRD, WARM, "#8e4585", "#3b82a0")

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "svg.hashsalt": "medfuncta",  # element ids without chance, so that equal figures are equal bytes
}

Curve = Sequence[tuple[int, float]]
"""(outer step, value), by step."""


def figure(width: float, height: float, *, rows: int = 1, heights: Sequence[float] = (1,)) -> tuple[Figure, list[Axes]]:
    """An empty figure (inches) in the report's style, without pyplot's global state."""
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(width, height), layout="constrained")
        axes = drawing.subplots(rows, 1, squeeze=False, height_ratios=heights)
        return drawing, list(axes[:, 0])


def svg_uri(drawing: Figure) -> str:
    """A figure as a data URI, for an ``img`` that loads nothing."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        drawing.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def histogram(psnr: Mapping[str, np.ndarray], min_psnr: float) -> str:
    """One panel per split on a common axis: scans by PSNR, their mean, and the line below which scans are flagged."""
    drawing, panels = figure(9.2, 0.5 + 0.95 * len(psnr), rows=len(psnr), heights=[1] * len(psnr))
    edges = _edges(np.concatenate(list(psnr.values())))
    for axes, (split, values), colour in zip(panels, psnr.items(), colours(list(psnr)), strict=True):
        axes.hist(values, bins=edges.tolist(), color=colour, alpha=0.75, rwidth=0.92)
        axes.axvline(float(np.mean(values)), color=INK, linewidth=1)
        if edges[0] <= min_psnr <= edges[-1]:
            axes.axvline(min_psnr, color=WARM, linewidth=1, linestyle=(0, (4, 2)))
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylabel(f"{split}\n{len(values)} scans", rotation=0, ha="right", va="center", color=INK)
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.tick_params(labelbottom=axes is panels[-1])
    panels[-1].set_xlabel("PSNR (dB)")
    return svg_uri(drawing)


def curve(points: Curve, name: str, *, log: bool = False, colour: str = ACCENT) -> str:
    """One metric over outer steps. Long noisy curves get a running median on top."""
    drawing, (axes,) = figure(4.6, 2.6)
    steps, values = np.asarray(points, float).T
    noisy = len(values) >= 60
    marker = "." if len(values) < 30 else ""
    axes.plot(steps, values, color=colour, alpha=0.3 if noisy else 1, linewidth=1.4, marker=marker)
    if noisy:
        axes.plot(steps, running_median(values, max(5, len(values) // 40)), color=colour, linewidth=1.8)
    if log and (values > 0).all():
        axes.set_yscale("log")
    axes.set_xlabel("outer step")
    axes.set_ylabel(name)
    return svg_uri(drawing)


def running_median(values: np.ndarray, width: int) -> np.ndarray:
    """Median over a centred window of up to ``width`` values; as many values come out as go in."""
    half = width // 2
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def colours(splits: Sequence[str]) -> list[str]:
    """A colour per split: known ones always the same."""
    spare = iter(OTHER_COLOURS * (1 + len(splits) // len(OTHER_COLOURS)))
    return [SPLIT_COLOURS.get(split) or next(spare) for split in splits]


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    middle, width = (low + high) / 2, max(high - low, 1.0)
    return np.linspace(middle - width / 2, middle + width / 2, 41)
