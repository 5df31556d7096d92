"""What latents are moved to lower, as every sweep takes it: the scans' errors on some points, in chunks.

The only loop over chunks of scans and points is here (``Objective.blocks``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from medfuncta_dist.meta.machine.compiled import Sweep, swept
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

    def at(self, latents: Float[Tensor, "batch latent"]) -> Objective:
        """The same at other latents."""
        return replace(self, latents=latents)

    def on(self, context: Int[Tensor, " context"]) -> Objective:
        """The same on a context set alone; a full one needs no copy, for its indices are sorted."""
        if len(context) == len(self.coordinates):
            return self
        context = context.to(self.targets.device)
        return replace(self, coordinates=self.coordinates[context], targets=self.targets[:, context])

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
            yield Block(self.network, scans, points, self.coordinates[points], self.targets[scans, points])
