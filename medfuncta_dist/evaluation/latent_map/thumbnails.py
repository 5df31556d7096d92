"""Small pictures of scans, decoded from their latents at the size in which they are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from medfuncta_dist.evaluation.decode import reconstruct
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.report_style import pictures

LONGEST_SIDE = 64
"""Points. The page shows a thumbnail three times as large."""
MOST_VALUES = 2**21
"""Of all thumbnails of a map, each in a byte: as PNG in base64 at most 2.8 MB of the page, whatever is on them."""
MIDDLE = 1
"""Of the three points of a volume's last axis: a volume is shown by its middle axial slice."""
DECODED_VALUES = 2**22
"""Most values that are decoded at once: 16 MB."""


Scan = Float[np.ndarray, "channel *spatial"]


def thumbnail_grid(packed: Sequence[int], channels: int, scans: int) -> tuple[int, ...]:
    """Points per axis at which scans are decoded: as packed, or fewer where side or sum would be too large.

    ``packed``: points per axis of the scans; ``scans``: how many thumbnails there are.
    """
    sides = packed[:2]
    shown = 3 if channels == 3 else 1
    room = MOST_VALUES / (max(scans, 1) * shown)
    scale = min(1.0, LONGEST_SIDE / max(sides), (room / math.prod(sides)) ** (1 / len(sides)))
    grid = tuple(max(2, int(n * scale)) for n in sides)
    return grid if len(packed) < 3 else (*grid, 2 * MIDDLE + 1)


def thumbnails(
    network: SharedNetwork, latents: Float[np.ndarray, "scan latent"], grid: Sequence[int], upright: Sequence[bool]
) -> list[np.ndarray]:
    """A picture of each latent, uint8: (row, column), with a third axis of 3 for colour; of signals, (position,).

    ``upright``: which scans are slices of volumes, whose axes run to the right and up.
    """
    few = max(1, DECODED_VALUES // (math.prod(grid) * network.spec.channels))
    made: list[np.ndarray] = []
    for start in range(0, len(latents), few):
        decoded = reconstruct(network, latents[start : start + few], grid)
        made += map(_picture, decoded, upright[start : start + few])
    return made


def _picture(values: Scan, upright: bool) -> np.ndarray:
    if values.ndim == 2:
        return pictures.grey(values[0])
    if values.ndim == 4:
        values, upright = values[..., MIDDLE], True
    return pictures.grey(pictures.plane(values, upright))
