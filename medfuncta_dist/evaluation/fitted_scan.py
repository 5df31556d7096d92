"""A fitted scan found in its table, ready to be decoded: of one latent, or of those of its patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation.decoded_grid import DecodedGrid
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.latent_table.patched_field import PatchedField
from medfuncta_dist.latent_table.scan_list import SHORTEST_KEY
from medfuncta_dist.latents import table_format
from medfuncta_dist.patches.blended_scan import Slab, Values
from medfuncta_dist.scans.scan import Window

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class FittedScan:
    """A scan with what it is decoded from: ``latents`` (one row) or ``patches``."""

    network: SharedNetwork
    row: dict[str, Any]
    """Its facts as the table has them: key, window, spacing, affine, slice, psnr and below_min."""
    packed: tuple[int, ...]
    """Points per axis."""
    latents: Float[np.ndarray, "scan latent"] | None
    patches: PatchedField | None

    @classmethod
    def open(cls, table: LatentTable, key: str, keep: int | None = None) -> FittedScan:
        """Only what lists the scan, and the part that holds it, is read. ``keep``: as many of each latent's numbers.

        RunFileError where no scan, or several, have the key, and for numbers that there are not.
        """
        network, width = table.network, table.storage.numbers
        _require_part(keep, width, ordered="latent.variances" in network.extras)
        if not table.is_patched:
            found = _found(table, key, table.row)
            return cls(network, found.to_pylist()[0], table.shape, table_format.latents_of(found)[:, :keep], None)
        entry = _found(table, key, table.find)
        row = table.row(entry.key).to_pylist()[0] | {"psnr": entry.psnr, "below_min": entry.below_min}
        grid = table.patches(entry.key)
        field = PatchedField(network, grid, lambda numbers: table.patch_latents(entry.key, numbers)[:, :keep])
        return cls(network, row, grid.shape, None, field)

    @property
    def window(self) -> Window:
        """What 0 and 1 are in the scan's units."""
        return Window(self.row["window_low"], self.row["window_high"])

    @property
    def affine(self) -> Float[np.ndarray, "4 4"] | None:
        """As packed."""
        return None if self.row["affine"] is None else np.array(self.row["affine"]).reshape(4, 4)

    def values(self, grid: DecodedGrid) -> Values:
        """(channel, *spatial) in [0, 1], at a grid's points, on the CPU."""
        if self.patches is not None:
            return self.patches.values(self.patches.positions(grid.shape, grid.region))
        assert self.latents is not None
        latents = torch.from_numpy(np.ascontiguousarray(self.latents))
        return np.asarray(self.network.decode(latents, grid.shape, grid.region)[0].clamp(0, 1).numpy())

    def slabs(self, grid: DecodedGrid, across: int) -> Iterator[Slab]:
        """The same of a scan of patches, slab by slab."""
        assert self.patches is not None
        return self.patches.slabs(self.patches.positions(grid.shape, grid.region), across)


def _found(table: LatentTable, key: str, find: Callable[[str], T]) -> T:
    """What ``find`` finds for a key; of a scan that could not be fitted, it is said."""
    try:
        return find(key)
    except RunFileError as error:
        if len(key) >= SHORTEST_KEY and table.is_quarantined(key):
            what = "this scan was quarantined, and has no latent"
            raise RunFileError(what, where="--key", do="choose another key") from None
        raise RunFileError(error.what, where="--key", do=error.do) from None


def _require_part(keep: int | None, stored: int, ordered: bool) -> None:
    """RunFileError unless a latent has so many numbers. ``ordered``: whether they stand in an order at all."""
    if keep is None:
        return
    if not ordered:
        do = "leave it out; a field of kind basis has latents of which a part can be decoded"
        raise RunFileError("this network's latents can only be decoded whole", where="--keep", do=do)
    if not 1 <= keep <= stored:
        do = f"give a number from 1 to {stored}"
        raise RunFileError(f"a latent has {stored} numbers, of which {keep} cannot be kept", where="--keep", do=do)
