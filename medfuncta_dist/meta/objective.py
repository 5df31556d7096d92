"""What latents are moved to lower, as every sweep takes it: the scans' errors on some points, in chunks.

The only loop over chunks of scans and points is here (``Objective.blocks``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from medfuncta_dist.meta.machine.compiled import Sweep, swept
from medfuncta_dist.meta.point_weights import counted, has_weight, relative
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.folded import Folded


@dataclass(frozen=True)
class Block:
    """One chunk of an objective: some of its scans at some of its points."""

    network: Folded
    scans: slice
    points: slice
    coordinates: Float[Tensor, "point coord"]
    targets: Float[Tensor, "scan point channel"]
    weights: Float[Tensor, "scan point"] | None

    def run(self, sweep: Sweep, *inputs: Any) -> Any:
        """``sweep(network, coordinates, *inputs)`` at this block's points, compiled where the network says so."""
        return swept(sweep, self.network, self.coordinates, *inputs)


@dataclass(frozen=True)
class Objective:
    """Each scan's mean squared error: a network, the points and values that it should reconstruct, and latents.

    ``chunks`` bounds how much of it a sweep holds at once.
    """

    network: Folded
    coordinates: Float[Tensor, "point coord"]
    targets: Float[Tensor, "batch point channel"]
    latents: Float[Tensor, "batch latent"]
    chunks: Chunks
    weights: Float[Tensor, "batch point"] | None = None
    """How much each point counts, over the mean of its scan (``point_weights.relative``); None for all alike."""

    def weighted(self, weights: Float[Tensor, "batch point"] | None) -> Objective:
        """The same with points that count as these weights say; the same object for None.

        The error is then a weighted mean. Targets at points of weight 0 may be anything.
        """
        if weights is None:
            return self
        weights = weights.to(self.targets.dtype)
        return replace(self, targets=counted(self.targets, weights), weights=relative(weights))

    def at(self, latents: Float[Tensor, "batch latent"]) -> Objective:
        """The same at other latents."""
        return replace(self, latents=latents)

    def on(self, context: Int[Tensor, " context"]) -> Objective:
        """The same on a context set alone; a full one needs no copy, for its indices are sorted.

        Of points with weights, the error is the weighted mean over the context's; 0 for a scan that has none there.
        """
        if len(context) == len(self.coordinates):
            return self
        context = context.to(self.targets.device)
        coordinates, targets = self.coordinates[context], self.targets[:, context]
        weights = None if self.weights is None else relative(self.weights[:, context])
        return replace(self, coordinates=coordinates, targets=targets, weights=weights)

    @property
    def counted(self) -> Bool[Tensor, " batch"] | None:
        """Of which scans any point here counts; None where all points do."""
        return None if self.weights is None else has_weight(self.weights)

    @property
    def values_per_scan(self) -> int:
        """Points times channels: what a sum of squared errors is divided by."""
        return self.targets.shape[1] * self.targets.shape[2]

    @property
    def shifts(self) -> Float[Tensor, "batch layer hidden"]:
        """The latents as shifts, computed anew at each call."""
        return self.network.shifts(self.latents)

    def zero_errors(self) -> Float[Tensor, " batch"]:
        """A zero for every scan, to add errors to."""
        return self.targets.new_zeros(len(self.targets))

    def blocks(self) -> Iterator[Block]:
        """The objective in chunks, fixed by position: all points of some scans, then of the next scans."""
        for scans, points in self.chunks.blocks(*self.targets.shape[:2]):
            weights = None if self.weights is None else self.weights[scans, points]
            yield Block(self.network, scans, points, self.coordinates[points], self.targets[scans, points], weights)
