"""Colours of scans on the map: of labels and splits by how many scans have them, of PSNR in steps. Pure.

A colour is the number of a variable of the page's style: --k0 to --k8 and --other, --q0 to --q5, in light and dark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from medfuncta_dist.evaluation.metrics import natural

MOST_COLOURS = 9
"""Of labels or splits: more could not be told apart. All others share one."""
STEPS = 6
"""Of PSNR."""
OTHER, NONE = "others", "none"


@dataclass(frozen=True)
class Shade:
    """An entry of a legend: what it stands for, the variable of its colour, and the number of scans."""

    name: str
    colour: str
    scans: int


def by_name(names: Sequence[str]) -> tuple[list[str], list[Shade]]:
    """Each scan's colour, and the legend: the most frequent names, numbers in order; "" is said as ``none``."""
    counts = sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))
    few = len(counts) <= MOST_COLOURS
    shown = sorted(counts[: MOST_COLOURS if few else MOST_COLOURS - 1], key=lambda item: natural(item[0]))
    legend = [Shade(name or NONE, f"k{place}", scans) for place, (name, scans) in enumerate(shown)]
    colours = {name: shade.colour for (name, _), shade in zip(shown, legend, strict=True)}
    if not few:
        legend.append(Shade(OTHER, "other", sum(scans for _, scans in counts[len(shown) :])))
    return [colours.get(name, "other") for name in names], legend


def by_psnr(psnr: Float[np.ndarray, " scan"]) -> tuple[list[str], list[Shade]]:
    """Each scan's colour, and the legend from low to high: steps of equal width, but for the outermost hundredths."""
    low, high = (float(limit) for limit in np.quantile(psnr, (0.01, 0.99)))
    limits = np.linspace(low, high, STEPS + 1)[1:-1]
    steps = np.searchsorted(limits, psnr, side="right") if high > low else np.zeros(len(psnr), int)
    if high <= low:
        return ["q0"] * len(psnr), [Shade(f"{low:.1f} dB", "q0", len(psnr))]
    counts = np.bincount(steps, minlength=STEPS)
    names = [f"below {limits[0]:.1f} dB"]
    names += [f"{a:.1f} to {b:.1f} dB" for a, b in pairwise(limits)]
    names.append(f"{limits[-1]:.1f} dB and more")
    legend = [Shade(name, f"q{place}", int(counts[place])) for place, name in enumerate(names)]
    return [f"q{step}" for step in steps], legend
