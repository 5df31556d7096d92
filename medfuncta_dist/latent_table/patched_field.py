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
from medfuncta_dist.patches.blended_scan import DecodePatches, Slab, Values, blended_slabs, native_positions
from medfuncta_dist.patches.blending import Reals
from medfuncta_dist.patches.patch_grid import PatchGrid
from medfuncta_dist.scans.scan import MAX_VALUES

LatentsOf = Callable[[list[int]], Float[np.ndarray, "patch latent"]]
"""From the numbers of patches, ascending, to their latents. It is asked once for all patches that what is decoded
touches; these stay in memory meanwhile, a small part of what they decode to."""


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
        own = self.grid.shape
        target = tuple(shape or own)
        if len(target) != len(own) or any(m != n and min(m, n) < 2 for n, m in zip(own, target, strict=True)):
            what = f"a scan of shape {list(own)} cannot be decoded at {list(target)}"
            raise RunFileError(what, where="shape", do=f"give {len(own)} numbers of at least 2")
        axes = native_positions(own, target)
        if region is None:
            return axes
        parts = region_points(target, region)
        return [axis[part.start : part.stop : part.step] for axis, part in zip(axes, parts, strict=True)]

    def slabs(self, positions: Sequence[Reals], across: int = 0) -> Iterator[Slab]:
        """Values in [0, 1] at the grid of these positions, one slab after the other; in memory is one."""
        decode = self._decoder([(axis[0], axis[-1]) for axis in positions])
        for first, values in blended_slabs(self.grid, positions, decode, self.network.spec.channels, across):
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

    def _decoder(self, region: Sequence[tuple[float, float]]) -> DecodePatches:
        on = require_device(torch.device(self.device))
        held = np.array(list(self.grid.touching(region)))
        latents = torch.from_numpy(np.ascontiguousarray(self.latents(held.tolist())))

        def decode(numbers: list[int], local: Sequence[Reals]) -> Values:
            some = latents[np.searchsorted(held, numbers)].to(on)
            # Clamped before they are blended: what one patch exaggerates is not shared with its neighbour.
            values = self.network.decode_at(some, [torch.from_numpy(axis) for axis in local]).clamp(0, 1)
            return np.asarray(values.cpu().numpy())

        return decode


def decode_fields(
    fields: Sequence[PatchedField], shape: Sequence[int] | None, region: Region | None
) -> Float[np.ndarray, "scan channel *space"]:
    """Several scans at grids of the same size. RunFileError where their own sizes differ and no shape is given, and for
    too many values."""
    asked = [field.positions(shape, region) for field in fields]
    sizes = {tuple(map(len, positions)) for positions in asked}
    if len(sizes) > 1:
        what = f"scans of {len(sizes)} different shapes do not make one array"
        raise RunFileError(what, where="shape", do="give a shape, or decode them one by one")
    if sum(math.prod(size) for size in sizes) * len(fields) > MAX_VALUES:
        what = f"{len(fields)} scans have more than {MAX_VALUES} values"
        raise RunFileError(what, where="shape", do="decode fewer scans at a time, a smaller shape, or a region of it")
    return np.stack([field.values(positions) for field, positions in zip(fields, asked, strict=True)])
