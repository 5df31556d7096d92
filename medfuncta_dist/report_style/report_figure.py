"""Figures of a report: an empty one in its colours, and a drawn one as SVG. They are drawn for a light page; in a dark
one, the style turns their colours round."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, LINE = "#1f2a37", "#667085", "#d6dbe1"
ACCENT, WARM, THIRD, FOURTH = "#0f766e", "#d9622b", "#5b5bd6", "#b7791f"

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
