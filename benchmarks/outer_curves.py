"""Training curves of the arms of `outer_steps.py` as one picture: a row a network, over outer steps and over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Curve = Sequence[tuple[int, float, float]]
"""(outer step, CPU seconds, PSNR in dB of the outer loss over the last 25 batches)."""

DASHES = ("-", "--", ":", "-.")
DECIBELS = 8.0
"""dB shown below the best point: the first steps of all curves are alike, and far below."""


def draw(curves: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """Write the picture of ``curves`` (network → arm → its curve) as PNG."""
    drawing = Figure(figsize=(11, 3.4 * len(curves)), layout="constrained", dpi=110)
    rows = drawing.subplots(len(curves), 2, squeeze=False, sharey="row")
    for (network, arms), (over_steps, over_time) in zip(curves.items(), rows, strict=True):
        _panel(over_steps, arms, 0)
        _panel(over_time, arms, 1)
        best = max((point[2] for arm in arms.values() for point in arm), default=0.0)
        over_steps.set_ylim(best - DECIBELS, best + 0.3)
        over_steps.set_ylabel(f"{network}: PSNR of the outer loss, dB")
        over_time.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    for axes, name in zip(rows[-1], ("outer steps", "CPU seconds, one thread"), strict=True):
        axes.set_xlabel(name)
    drawing.savefig(path)


def _panel(axes: Axes, arms: Mapping[str, Curve], over: int) -> None:
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for number, (name, curve) in enumerate(arms.items()):
        across, decibels = [point[over] for point in curve], [point[2] for point in curve]
        style = {"color": colours[number % 10], "linestyle": DASHES[number // 10 % len(DASHES)]}
        axes.plot(across, decibels, label=name, linewidth=1.3, **style)
    axes.grid(color="#d6dbe1", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
