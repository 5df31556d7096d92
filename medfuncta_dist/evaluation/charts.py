"""Charts of a report, as SVG: PSNR histogram, loss and held-out PSNR over outer steps, receiver operating curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from medfuncta_dist.report_style.report_figure import ACCENT, FOURTH, INK, MUTED, THIRD, WARM, figure, svg_uri

SPLIT_COLOURS = {"train": MUTED, "val": FOURTH, "test": ACCENT}
OTHER_COLOURS = (THIRD, WARM, "#8e4585", "#3b82a0")

Curve = Sequence[tuple[int, float]]
"""(outer step, value), by step."""


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


def roc(curves: Mapping[str, Sequence[float]]) -> str:
    """Receiver operating curves by name: rates of true positives at evenly spaced rates of false ones, 0 to 1."""
    drawing, (axes,) = figure(4.6, 3.4)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    for (name, rates), (colour, dashes) in zip(curves.items(), _lines(len(curves)), strict=True):
        axes.plot(
            [0, *np.linspace(0, 1, len(rates))], [0, *rates], color=colour, linewidth=1.8, linestyle=dashes, label=name
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.legend(loc="lower right", frameon=False)
    return svg_uri(drawing)


def _lines(count: int) -> list[tuple[str, Any]]:
    """A colour and dashes for each of several lines: told apart without colour, too."""
    known: list[tuple[str, Any]] = [
        (ACCENT, "solid"),
        (WARM, (0, (5, 1.5))),
        (THIRD, (0, (1.5, 1.2))),
        (MUTED, (0, (5, 1, 1, 1))),
    ]
    return [known[place % len(known)] for place in range(count)]


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
