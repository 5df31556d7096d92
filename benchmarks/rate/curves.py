"""Curves of rate and distortion: read at a rate, and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLES = {
    "basis 8": ("#0b6e99", "o", "-"),
    "basis": ("#2aa1c9", "p", "-"),
    "SIREN": ("#c1440e", "s", "-"),
    "PCA": ("#5b8c3a", "^", "--"),
    "KLT": ("#5b8c3a", "v", "--"),
    "DCT": ("#8a8f98", "D", "--"),
    "HEVC intra": ("#b58900", "x", ":"),
    "HEVC inter": ("#7a3e9d", "P", "-"),
    "JPEG 2000": ("#444b55", "+", ":"),
    "HTJ2K": ("#9aa1ab", "1", ":"),
    "JPEG-LS": ("#c7ccd3", "2", ":"),
    "JPEG XL": ("#d0719a", "3", ":"),
}
"""Colour, marker and line by the first words of a coder's name."""
SHADES = {"int8 + zlib": 0.45}
"""Opacity of lines whose name has these words."""
HOLLOW = "neighbours"
"""Lines whose name has this word have hollow markers."""
ACROSS = (0.02, 2.0)
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
"""Bits that are drawn, and named."""


def at(points: Sequence[Sequence[float]], rate: float) -> float | None:
    """dB at a rate, on straight lines over its logarithm; None where the curve does not reach."""
    upper = envelope(points)
    rates = [point[0] for point in upper]
    if not rates[0] <= rate <= rates[-1]:
        return None
    return float(np.interp(np.log(rate), np.log(rates), [point[1] for point in upper]))


def envelope(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Points by rate, without those that cost more for no better a picture."""
    found: list[tuple[float, float]] = []
    for rate, decibels, *_ in sorted(points):
        if not found or decibels > found[-1][1]:
            found.append((rate, decibels))
    return found


def draw(sets: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A panel a data set, as PNG."""
    drawing = Figure(figsize=(6.2 * len(sets), 6.4), layout="constrained", dpi=100)
    for axes, (name, found) in zip(drawing.subplots(1, len(sets), squeeze=False)[0], sets.items(), strict=True):
        for coder, result in sorted(found.items(), key=lambda item: [*STYLES].index(style_of(item[0]))):
            _line(axes, coder, envelope(result["points"]))
        axes.set(title=name, xscale="log", xlim=ACROSS, xlabel="bits per value that counts", ylabel="PSNR, dB")
        axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.grid(color="#d6dbe1", linewidth=0.5, which="both")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7.5, loc="upper left", frameon=False)
    drawing.savefig(path)


def style_of(coder: str) -> str:
    """The first of ``STYLES`` that its name begins with."""
    return next(first for first in STYLES if coder.startswith(first))


def _line(axes: Axes, coder: str, points: Sequence[tuple[float, float]]) -> None:
    colour, marker, line = STYLES[style_of(coder)]
    look: dict[str, Any] = {"markersize": 4, "linewidth": 1.3, "linestyle": line, "color": colour}
    look["alpha"] = next((value for words, value in SHADES.items() if words in coder), 1.0)
    if HOLLOW in coder:
        look["markerfacecolor"] = "white"
    inside = [point for point in points if ACROSS[0] <= point[0] <= ACROSS[1]]
    across, up = ([point[axis] for point in inside] for axis in (0, 1))
    axes.plot(across, up, marker, label=coder, **look)
