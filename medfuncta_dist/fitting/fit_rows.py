"""What a batch's fit gives, as rows of the latent table; unusable scans are left out, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped

from medfuncta_dist.fitting.batch_transfer import Returning
from medfuncta_dist.fitting.latent_ledger import Quarantined
from medfuncta_dist.latents.fit_result import FitResult
from medfuncta_dist.latents.table_format import Rows

NOT_FINITE = "its latent is not finite"
NOT_STORABLE = "its latent does not fit the storage type"


DAMAGED_SAMPLE = "its bytes in the shard are damaged"
WRONG_SHAPE = "its shape is not the data contract's"


class PatchPlace(NamedTuple):
    """Where a patch is: its scan's row in the shard, its number in the scan's grid, how many points of it lie in the
    scan, and of the scan its shape and the patches of its grid."""

    scan: int
    number: int
    points: int
    shape: tuple[int, ...]
    of: int


class Described(NamedTuple):
    """A scan, or a patch of one, that is read: all but its values, which are in the batch's targets."""

    key: str
    meta: dict[str, Any]
    """Of the scan."""
    patch: PatchPlace | None = None


@dataclass(frozen=True)
class LostPatch(Quarantined):
    """A patch that cannot be read, for which its whole scan is quarantined. ``scan``: its row in the shard."""

    scan: int


Place = Described | Quarantined | None
"""A unit of a batch: read, quarantined, or (None) outside the range."""


class Columns(NamedTuple):
    """A batch's results on the host, one row per place."""

    numbers: Shaped[np.ndarray, "batch latent"]
    """Latents in the type that is stored."""
    psnr: Float[np.ndarray, " batch"]
    steps: Int[np.ndarray, " batch"]
    finite: Bool[np.ndarray, " batch"]
    storable: Bool[np.ndarray, " batch"]
    unsolved: Int[np.ndarray, " batch"]
    """Steps that had no solution."""
    scales: Float[np.ndarray, " batch"] | None = None
    """For int8: what each latent's numbers are multiples of."""

    @property
    def reasons(self) -> dict[int, str]:
        """The places whose latents cannot be used, and why."""
        unusable = dict.fromkeys(np.flatnonzero(~self.finite).tolist(), NOT_FINITE)
        return unusable | dict.fromkeys(np.flatnonzero(~self.storable).tolist(), NOT_STORABLE)


class ColumnsComing:
    """A batch's results on their way to the host: one wait for all of them."""

    def __init__(self, result: FitResult, storage_type: str) -> None:
        latents, stored = result.latents, result.stored
        # Beyond float16, a latent is infinite as stored; in another type, an infinite one is merely not finite.
        storable = ~torch.isinf(latents).any(dim=1) if storage_type == "float16" else torch.ones_like(result.finite)
        scales = [] if stored.scales is None else [stored.scales]
        by_scan = [result.psnr, result.steps, result.finite, storable, result.unsolved]
        self._coming = Returning([stored.numbers, *by_scan, *scales])

    def wait(self) -> Columns:
        """When they have arrived."""
        return Columns(*self._coming.wait())


def rows_of(split: str, columns: Columns, kept: Mapping[int, Described], min_psnr: float) -> Rows:
    """The rows of the scans at these places of the batch."""
    places = list(kept)

    def of(values: np.ndarray) -> np.ndarray:
        return values if len(places) == len(values) else values[places]

    metas, psnr = [scan.meta for scan in kept.values()], of(columns.psnr)
    return Rows(
        split=split,
        keys=[scan.key for scan in kept.values()],
        labels=[meta["labels"] for meta in metas],
        latents=of(columns.numbers),
        scales=None if columns.scales is None else of(columns.scales),
        psnr=psnr,
        below_min=psnr.astype(np.float64) < min_psnr,  # float32 would round the limit
        steps=of(columns.steps),
        windows=[meta["window"] for meta in metas],
        spacings=[meta["spacing"] for meta in metas],
        affines=[flat(meta["affine"]) for meta in metas],
        modalities=[meta["modality"] for meta in metas],
        slices=[meta["slice"] for meta in metas],
    )


def flat(affine: list[list[float]] | None) -> list[float] | None:
    """An affine row by row, as the table holds it."""
    return None if affine is None else [*map(float, chain.from_iterable(affine))]
