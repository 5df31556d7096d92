"""The scans of a table, chosen by a filter: where each is, and what the catalogue says of it.

Columns are read when they are first asked for; the keys, which are most of it, apart from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from medfuncta_dist.errors import IntegrityError, RunFileError
from medfuncta_dist.latent_table.catalogue.catalogue_format import KEY, NARROW, PATCHED, CataloguedGrid
from medfuncta_dist.latent_table.catalogue.catalogue_reader import OPEN_AGAIN, Catalogue, Entry
from medfuncta_dist.latent_table.scan_filter import ScanFilter

SHORTEST_KEY = 8  # hex digits: one in four billion, enough to name a scan in a report and to find it again
FEW = 64
"""Keys that are looked up one by one; for more of them, all keys are read once."""


class ListedScans:
    """All scans of a table."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    @cached_property
    def narrow(self) -> pa.Table:
        """Every column but the key."""
        more = () if self.catalogue.record.grid is None else PATCHED
        return self.catalogue.columns((*NARROW, *more))

    @cached_property
    def keys(self) -> pa.ChunkedArray:
        """Sorted."""
        return self.catalogue.columns([KEY])[KEY]


class LatentRows(NamedTuple):
    """Where the latents of scans are: of each, its part, its row there, and the place of its scan in the list. A scan
    has one, or one per patch."""

    parts: Int[np.ndarray, " row"]
    rows: Int[np.ndarray, " row"]
    scans: Int[np.ndarray, " row"]


class ScanList:
    """The chosen scans, sorted by key."""

    def __init__(self, listed: ListedScans, chosen: ScanFilter) -> None:
        self._listed, self.filter = listed, chosen

    @property
    def grid(self) -> CataloguedGrid | None:
        """Of scans that are grids of patches."""
        return self._listed.catalogue.record.grid

    def filtered(self, chosen: ScanFilter) -> ScanList:
        """Other scans of the same table."""
        return ScanList(self._listed, chosen)

    def __len__(self) -> int:
        return self._listed.catalogue.record.rows if not self.filter else len(self._places)

    @cached_property
    def narrow(self) -> pa.Table:
        """Split, labels, psnr, below_min, part and row of each scan."""
        whole = self._listed.narrow
        return whole.take(pa.array(self._places)) if self.filter else whole

    @cached_property
    def keys(self) -> pa.ChunkedArray:
        """Of each scan."""
        return self._listed.keys.take(pa.array(self._places)) if self.filter else self._listed.keys

    @property
    def parts(self) -> Int[np.ndarray, " scan"]:
        """The number of each scan's part."""
        return np.asarray(self.narrow["part"].to_numpy())

    @property
    def rows(self) -> Int[np.ndarray, " scan"]:
        """Each scan's row in its part."""
        return np.asarray(self.narrow["row"].to_numpy())

    @cached_property
    def latents(self) -> LatentRows:
        """Of all scans, in their order. IntegrityError for numbers of patches that the parts do not hold."""
        if self._listed.catalogue.record.grid is None:
            return LatentRows(self.parts, self.rows, np.arange(len(self)))
        counts = self.narrow["patches"].to_numpy().astype(np.int64)
        self._require_patches(counts)
        scans = np.repeat(np.arange(len(self)), counts)
        numbers = np.arange(len(scans)) - np.repeat(np.cumsum(counts) - counts, counts)
        return LatentRows(*self.patch_rows(self.parts[scans], self.rows[scans], numbers), scans)

    def patch_rows(
        self, parts: Int[np.ndarray, " row"], rows: Int[np.ndarray, " row"], numbers: Int[np.ndarray, " row"]
    ) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
        """Part and row of patches, from those of the first patch of their scans and from their numbers: a scan's
        patches go on in the parts that follow."""
        firsts = np.cumsum([0, *(part.rows for part in self._listed.catalogue.record.parts)])
        at = firsts[parts] + rows + numbers
        found = np.searchsorted(firsts, at, side="right") - 1
        return found, at - firsts[found]

    def find(self, key: str) -> Entry:
        """The scan of this key, or of a beginning of it that no other key has.

        RunFileError where no scan, or several, have it; where it is shorter than 8 digits. IntegrityError for a scan of
        more patches than the parts hold.
        """
        if len(key) < SHORTEST_KEY:
            raise RunFileError(f"a key needs at least {SHORTEST_KEY} digits", where="key", do="give more of the key")
        found = self._listed.catalogue.find(key)
        if len(found) != 1 or not self.filter.holds(found[0]):
            raise RunFileError(
                f"{'several' if len(found) > 1 else 'no'} fitted scans have this key",
                where="key",
                do="take a key from the latent table or the report, and check that the fit stage is done",
            )
        if self.grid is not None:
            self._require_patches(np.array([found[0].patches], np.int64))
        return found[0]

    def _require_patches(self, counts: Int[np.ndarray, " scan"]) -> None:
        held = sum(part.rows for part in self._listed.catalogue.record.parts)
        if len(counts) and (counts.min() < 1 or counts.sum() > held):
            what = f"the catalogue tells of patches that its parts, of {held} rows, do not hold"
            raise IntegrityError(what, where="the latent table's catalogue", do=OPEN_AGAIN)

    def places_of(self, keys: Sequence[str]) -> tuple[Int[np.ndarray, " key"], Int[np.ndarray, " key"]]:
        """Part and row of each key. RunFileError as ``find`` raises it."""
        if len(keys) <= FEW:
            found = [self.find(key) for key in keys]
            return np.array([e.part for e in found], np.int64), np.array([e.row for e in found], np.int64)
        places = pc.index_in(pa.array(keys, pa.string()), value_set=self.keys.combine_chunks())
        for missing in np.flatnonzero(places.is_null().to_numpy(zero_copy_only=False))[:1]:
            self.find(keys[missing])  # a beginning of a key, or an error
            raise RunFileError("of many keys, each must be whole", where="key", do="give all 64 digits")
        at = places.to_numpy()
        return self.parts[at], self.rows[at]

    @cached_property
    def _places(self) -> Int[np.ndarray, " scan"]:
        return np.flatnonzero(self.filter.mask(self._listed.narrow))
