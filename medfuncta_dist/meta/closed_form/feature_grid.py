"""A basis field without M on a grid: its functions, a block of points at a time, and the way back to θ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.fields.basis import BasisSpec, features, mean_of
from medfuncta_dist.fields.params import Params
from medfuncta_dist.meta.learner import Ranks


@dataclass(frozen=True)
class Part:
    """The field's functions at some points. Rows of several channels follow each other."""

    points: slice
    rows: Float[Tensor, "value feature"]
    means: Float[Tensor, " value"]


@dataclass(frozen=True)
class FeatureGrid:
    """Nothing that it computes grows with the number of points but the work."""

    spec: BasisSpec
    params: Params
    coordinates: Float[Tensor, "point coord"]
    block_points: int
    ranks: Ranks = field(default_factory=Ranks)
    """Whoever computes this together: each takes its share of the points, and sums are over all."""

    @property
    def values(self) -> int:
        """Points times channels."""
        return len(self.coordinates) * self.spec.channels

    def parts(self) -> Iterator[Part]:
        """This rank's points in blocks, the functions computed without a graph."""
        points, rank, size = len(self.coordinates), self.ranks.rank, self.ranks.size
        first, stop = rank * points // size, (rank + 1) * points // size
        for start in range(first, stop, self.block_points):
            yield self._at(slice(start, min(start + self.block_points, stop)))

    @torch.no_grad()
    def _at(self, points: slice) -> Part:
        found = features(self.spec, self.params, self.coordinates[points])
        return Part(points, found.flatten(0, 1), mean_of(self.params, found).flatten())

    def pull_back(
        self, points: slice, by_rows: Float[Tensor, "value feature"], by_means: Float[Tensor, " value"]
    ) -> list[Tensor]:
        """Gradients by θ, in the order of its shapes, given those by the functions and means at some points."""
        names = list(self.spec.shapes())
        leaves = {name: self.params[name].detach().requires_grad_() for name in names}
        with torch.enable_grad():
            found = features(self.spec, leaves, self.coordinates[points])
            # A number with these adjoints: handing them to autograd itself would import torch's compiler.
            pulled = (found * by_rows.view_as(found)).sum() + (
                mean_of(leaves, found) * by_means.view(len(found), -1)
            ).sum()
        return list(torch.autograd.grad(pulled, [leaves[name] for name in names]))
