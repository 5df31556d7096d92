"""Validation PSNR of the networks of `classification.py` over the time of their training, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

Curve = Sequence[tuple[int, float, float]]
"""(outer step, CPU seconds, dB)."""

COLOURS = {"siren": ("#c1440e", "#e08a5f", "#8a6bbe"), "basis": ("#0b6e99", "#7fb7cf")}
"""Of the networks of each kind, as they come."""


def draw(curves: Mapping[str, tuple[str, Curve]], pca: float, path: Path) -> None:
    """Write the picture of ``curves`` (network → its kind and curve; all of 128 numbers) as PNG. ``pca``: dB."""
    drawing = Figure(figsize=(8.5, 4.4), layout="constrained", dpi=110)
    axes = drawing.subplots()
    colours = {kind: iter(those) for kind, those in COLOURS.items()}
    for name, (kind, curve) in curves.items():
        _, seconds, decibels = zip(*curve, strict=True)
        label = f"{name}: {decibels[-1]:.1f} dB"
        axes.plot(seconds, decibels, "o-", color=next(colours[kind]), label=label, markersize=3.5, linewidth=1.3)
    axes.axhline(pca, color="#5b8c3a", linestyle="--", linewidth=1.3, label=f"PCA of 128 numbers: {pca:.1f} dB")
    axes.axvline(30 * 60, color="#8a8f98", linestyle=":", linewidth=1.3, label="30 minutes")
    axes.set_xscale("log")
    axes.set_xlabel("training, CPU seconds on one thread")
    axes.set_ylabel("validation PSNR, dB")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.grid(color="#d6dbe1", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path)
