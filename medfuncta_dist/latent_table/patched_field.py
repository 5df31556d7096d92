"""A scan from the latents of its patches, blended: whole or a region, at any resolution, in a piece or slab by slab."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.coordinates import Region, region_points
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.meta.device import require_device
from medfuncta_dist.patches.blended_scan import Slab, Values, blended_slabs, native_positions
from medfuncta_dist.patches.blending import Reals
from medfuncta_dist.patches.patch_grid import PatchGrid
from medfuncta_dist.scans.readers.reader import MAX_VALUES

LatentsOf = Callable[[list[int]], Float[np.ndarray, "patch latent"]]
"""From the numbers of patches to their latents. It is asked for the patches of a slab, more than once for those that
reach into the next."""


@dataclass(frozen=True, eq=False)
class PatchedField:
    """A scan as a function of position: its grid of patches, with a latent each."""

    network: SharedNetwork
    grid: PatchGrid
    latents: LatentsOf
    device: str = "cpu"

    def positions(self, shape: Sequence[int] | None = None, region: Region | None = None) -> list[Reals]:
        """Along each axis, where the points of a grid of ``shape`` (None: the scan's own) over the same field of view
        lie, or those of a region of it, in points of the scan. RunFileError for what does not fit."""
        target = tuple(shape or self.grid.shape)
        if len(target) != len(self.grid.shape) or min(target) < (1 if shape is None else 2):
            what = f"a scan of shape {list(self.grid.shape)} cannot be decoded at {list(target)}"
            raise RunFileError(what, where="shape", do=f"give {len(self.grid.shape)} numbers of at least 2")
        axes = native_positions(self.grid.shape, target)
        if region is None:
            return axes
        parts = region_points(target, region)
        return [axis[part.start : part.stop : part.step] for axis, part in zip(axes, parts, strict=True)]

    def slabs(self, positions: Sequence[Reals], across: int = 0) -> Iterator[Slab]:
        """Values in [0, 1] at the grid of these positions, one slab after the other; in memory is one."""
        for first, values in blended_slabs(self.grid, positions, self._decoder(), self.network.spec.channels, across):
            yield Slab(first, np.clip(values, 0, 1, out=values))

    def values(self, positions: Sequence[Reals]) -> Values:
        """All of them: (channel, *spatial). RunFileError for too many."""
        shape = (self.network.spec.channels, *map(len, positions))
        if math.prod(shape) > MAX_VALUES:
            what = f"a scan of shape {list(shape[1:])} has more than {MAX_VALUES} values"
            raise RunFileError(what, where="shape", do="decode a smaller shape, or a region of it")
        found = np.empty(shape, np.float32)
        for first, values in self.slabs(positions):
            found[:, first : first + values.shape[1]] = values
        return found

    def _decoder(self) -> Callable[[list[int], Sequence[Reals]], Values]:
        on = require_device(torch.device(self.device))

        def decode(numbers: list[int], local: Sequence[Reals]) -> Values:
            latents = torch.from_numpy(np.ascontiguousarray(self.latents(numbers))).to(on)
            # Clamped before they are blended: what one patch exaggerates is not shared with its neighbour.
            values = self.network.decode_at(latents, [torch.from_numpy(axis) for axis in local]).clamp(0, 1)
            return np.asarray(values.cpu().numpy())

        return decode
