"""What all kinds of field share: θ by name, the schedule of ω, and where values start."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from medfuncta_dist.errors import RunFileError

Params = dict[str, Tensor]
"""θ by name: ``layer.{k}.weight|bias``, k counting from 1 as in the formulas, and what a kind has beside its layers."""

OUTPUT_OFFSET = 0.5
"""Values are in [0, 1]: an untrained network starts in the middle."""


def linear_omegas(layers: int, first: float, last: float) -> tuple[float, ...]:
    """ω of the K-1 sine layers, rising linearly over K points from ``first`` to ``last``, which no sine uses."""
    step = (last - first) / (layers - 1)
    return tuple(first + step * k for k in range(layers - 1))


def check_layers(layers: int, omegas: Sequence[float]) -> None:
    """RunFileError unless there are enough layers, and a positive ω for each but the last."""
    if layers < 3:
        raise RunFileError(f"a field needs at least 3 layers, got {layers}")
    if len(omegas) != layers - 1:
        raise RunFileError(
            f"{len(omegas)} values of omega were given, expected one per sine layer: layers - 1 = {layers - 1}"
        )
    if not all(math.isfinite(w) and w > 0 for w in omegas):
        raise RunFileError("every omega must be a positive number")
