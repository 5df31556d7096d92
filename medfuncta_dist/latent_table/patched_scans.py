"""The scans of a table of patches: each with its grid, its facts, and the latents of the patches that are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from medfuncta_dist.errors import IntegrityError, RunFileError
from medfuncta_dist.latent_table.catalogue.catalogue_format import CataloguedGrid
from medfuncta_dist.latent_table.catalogue.catalogue_reader import Entry
from medfuncta_dist.latent_table.part_reads import PartSource
from medfuncta_dist.latent_table.scan_list import ScanList
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.patch_format import patch_rows, scan_rows
from medfuncta_dist.latents.patch_format.row_groups import GroupedFile
from medfuncta_dist.latents.table_format import FIT_AGAIN
from medfuncta_dist.patches.patch_grid import PatchGrid

OPEN_PARTS = 16
"""Whose footers stay in memory: a region is read in several pieces, mostly of one scan."""


class PatchedScans:
    """Reads single scans; of their parts only the row groups that hold what is asked for."""

    def __init__(self, scans: ScanList, source: PartSource, grid: CataloguedGrid) -> None:
        self._scans, self._source, self._grid = scans, source, grid
        self._opened = lru_cache(OPEN_PARTS)(self._open)
        self._facts = lru_cache(OPEN_PARTS)(self._read_facts)

    def facts(self, key: str) -> pa.Table:
        """A scan's row in its part of scans: shape, window, spacing, affine ... RunFileError as from ``find``."""
        entry = self._scans.find(key)
        found = self._facts(entry.part).slice(entry.scan_row, 1)
        if found["key"].to_pylist() != [entry.key]:
            where = self._source.store.uri(self._source.folder)
            raise IntegrityError("a part of scans is not the one of the catalogue", where=where)
        return found

    def grid(self, key: str) -> PatchGrid:
        """Where a scan's patches lie. IntegrityError where its shape does not have as many as the catalogue says."""
        (shape,) = self.facts(key)["shape"].to_pylist()
        if len(shape) == len(self._grid.size) and all(points is not None and points > 0 for points in shape):
            grid = PatchGrid(tuple(shape), self._grid.size, self._grid.overlap)
            if math.prod(grid.counts) == self._scans.find(key).patches:
                return grid
        what = "the shape of a scan does not have the patches that the catalogue says"
        raise IntegrityError(what, where=self._source.store.uri(self._source.folder), do=FIT_AGAIN)

    def latents(self, key: str, numbers: Sequence[int] | None, width: int) -> Float[np.ndarray, "patch latent"]:
        """Of these patches of a scan, in the order given, float32; None for all. RunFileError for a patch that there is
        not."""
        entry = self._scans.find(key)
        asked = np.arange(entry.patches) if numbers is None else np.asarray(numbers, np.int64).reshape(-1)
        if len(asked) and (asked.min() < 0 or asked.max() >= entry.patches):
            what = f"the scan has {entry.patches} patches, from 0"
            raise RunFileError(what, where=f"patch {asked.max()}", do="choose among them")
        found = np.empty((len(asked), width), np.float32)
        parts, rows = self._places(entry, asked)
        for part in np.unique(parts).tolist():
            mine = parts == part
            file: GroupedFile = self._opened(part)
            columns = [name for name in ("latent", "scale") if name in file.schema.names]
            found[mine] = table_format.latents_of(file.take(rows[mine].tolist(), columns))
        return found

    def _places(self, entry: Entry, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts, rows = (np.full(len(numbers), of_first) for of_first in (entry.part, entry.row))
        return self._scans.patch_rows(parts, rows, numbers)

    def _open(self, part: int) -> GroupedFile:
        opened = GroupedFile(self._source.store, self._source.folder, self._source.parts[part].grouped)
        patch_rows.check_schema(opened.schema, opened.where)
        return opened

    def _read_facts(self, part: int) -> pa.Table:
        patches = self._source.parts[part].patches
        assert patches is not None
        return scan_rows.read_part(self._source.store, self._source.folder, patches.scans)
