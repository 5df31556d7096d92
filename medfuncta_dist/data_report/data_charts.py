"""Charts and thumbnails of a data report: SVG and PNG as data URIs, in the style of the evaluation report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from medfuncta_dist.data_report.tally import SPACING_EDGES, KeptWindow
from medfuncta_dist.report_style import pictures
from medfuncta_dist.report_style.report_figure import ACCENT, INK, THIRD, WARM, figure, svg_uri
from medfuncta_dist.shards.sample import Sample

LARGEST_SIDE = 256
"""Pixels of a thumbnail."""
CUT = 1.5
"""Times the highest bar but for the outer two, at which these are cut off."""
SIGNALS = 4
"""Channels of a signal that are drawn."""
AXIS_COLOURS = (ACCENT, WARM, THIRD)


def thumbnail(sample: Sample) -> str:
    """A sample as a small picture: an image, the middle planes of a volume, or the curves of a signal."""
    values = sample.values()
    if values.ndim == 2:
        return _signal(values)
    picture = pictures.grey(pictures.plane(values, sample.meta["slice"] is not None))
    if max(picture.shape[:2]) > LARGEST_SIDE and values.ndim == 3:
        small = Image.fromarray(picture)
        small.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        picture = np.asarray(small)
    return pictures.png_uri(picture)


def _signal(values: np.ndarray) -> str:
    drawing, (axes,) = figure(3.2, 1.8)
    for channel, colour in zip(values[:SIGNALS], (INK, ACCENT, WARM, THIRD), strict=False):
        axes.plot(channel, color=colour, linewidth=1.0)
    axes.set_ylim(-0.05, 1.05)
    axes.set_xlabel("sample")
    return svg_uri(drawing)


def intensity(histogram: Sequence[int]) -> str:
    """How often values lie where in the window, as a share of those inside."""
    drawing, (axes,) = figure(4.6, 2.1)
    counts = np.asarray(histogram, float) / max(sum(histogram), 1)
    axes.stairs(counts, np.linspace(0, 1, len(counts) + 1), fill=True, color=ACCENT, alpha=0.75)
    rest = counts[1:-1].max()
    if 0 < CUT * rest < counts.max():  # background, or values at the window's end, would flatten the others
        axes.set_ylim(0, CUT * rest)
        for place, aligned in ((0, "left"), (-1, "right")):
            if counts[place] > CUT * rest:
                x = 0.03 if place == 0 else 0.97
                text = f"{100 * counts[place]:.0f} %, cut off"
                axes.text(x, 0.94, text, transform=axes.transAxes, ha=aligned, va="top", fontsize=7, color=INK)
    axes.set_xlim(0, 1)
    axes.set_xlabel("value after the window (0 to 1)")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    return svg_uri(drawing)


def windows(kept: Sequence[KeptWindow]) -> str:
    """The windows of sampled scans, from narrow to wide: one flat band where all are the same."""
    drawing, (axes,) = figure(4.6, 2.1)
    ends = np.array(sorted((window.low, window.high) for window in kept), float)
    ends = ends[np.argsort(ends[:, 1] - ends[:, 0], kind="stable")]
    place = np.linspace(0, 100, len(ends)) if len(ends) > 1 else np.array([0.0, 100.0])
    low, high = np.resize(ends[:, 0], len(place)), np.resize(ends[:, 1], len(place))
    axes.fill_between(place, low, high, color=ACCENT, alpha=0.18, linewidth=0, step="mid")
    axes.step(place, high, color=WARM, linewidth=1.2, label="becomes 1", where="mid")
    axes.step(place, low, color=ACCENT, linewidth=1.2, label="becomes 0", where="mid")
    axes.legend(loc="upper left", bbox_to_anchor=(0, 1.16), frameon=False, fontsize=7, ncols=2)
    axes.set_xlim(0, 100)
    axes.set_xlabel("scans, from the narrowest window to the widest (%)")
    return svg_uri(drawing)


def spacing(axes_counts: Sequence[Sequence[int]], names: Sequence[str], unit: str) -> str | None:
    """Scans by spacing, an outline per axis, on a logarithmic axis cut to where there are any.

    None where all have about the same."""
    counts = np.asarray(axes_counts)
    used = np.flatnonzero(counts.any(axis=0))
    if len(used) < 2:
        return None
    first, last = max(0, used[0] - 2), min(counts.shape[1], used[-1] + 3)
    drawing, (axes,) = figure(4.6, 2.1)
    for row, name, colour in zip(counts, names, AXIS_COLOURS, strict=False):
        axes.stairs(row[first:last], SPACING_EDGES[first : last + 1], fill=True, color=colour, alpha=0.3)
        axes.stairs(row[first:last], SPACING_EDGES[first : last + 1], color=colour, linewidth=1.3, label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel(f"spacing of packed values ({unit})")
    axes.set_ylabel("scans")
    if len(counts) > 1:
        axes.legend(loc="upper right", frameon=False, fontsize=7)
    return svg_uri(drawing)


def counts(table: Mapping[str, int], most: int = 12) -> list[dict[str, Any]]:
    """Rows of a table with bars: the most frequent ones, and how many others."""
    rows = list(table.items())
    shown, rest = rows[:most], rows[most:]
    if rest:
        shown = [*shown, (f"{len(rest)} others", sum(count for _, count in rest))]
    top = max((count for _, count in shown), default=1)
    return [{"name": name, "count": count, "bar": 100 * count / top} for name, count in shown]
