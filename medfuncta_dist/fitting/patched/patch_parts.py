"""What the batches of a range of patches come to: a part of patches, a part of scans, and a commit record.

A scan is quarantined if any of its patches is: a range names each scan of which it lost patches, once, with the reason
of the first of them. Rows of the scan's other patches stay, here and in other ranges, and count for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.fitting.fit_rows import Columns, Described, LostPatch, PatchPlace, Place, flat
from medfuncta_dist.fitting.latent_ledger import Commit, LostPatches, Patches, Quarantined
from medfuncta_dist.fitting.patched.shard_units import GridSettings, ShardUnits
from medfuncta_dist.fitting.scan_parts import TableKind
from medfuncta_dist.latents.patch_format import patch_rows, scan_rows
from medfuncta_dist.latents.patch_format.patch_rows import PatchRows, grid_metadata
from medfuncta_dist.latents.patch_format.scan_rows import ScanRow, TableFacts
from medfuncta_dist.latents.table_format import PartRef, Storage
from medfuncta_dist.storage.object_store import ObjectStore

FACTS = ("labels", "window", "spacing", "affine", "modality", "slice")
"""What a part of scans tells of a scan's metadata. The rest, as a segmentation, may be large."""


@dataclass
class _Scan:
    """A scan of the range so far."""

    key: str
    meta: dict[str, Any]
    place: PatchPlace
    """Of its first patch that has a row."""
    first_row: int
    rows: int = 0
    squared_error: float = 0.0
    points: int = 0
    worst_psnr: float = np.inf
    worst_patch: int = -1

    def add(self, place: PatchPlace, psnr: float, squared_error: float) -> None:
        self.rows += 1
        self.squared_error += squared_error
        self.points += place.points
        if psnr < self.worst_psnr:
            self.worst_psnr, self.worst_patch = psnr, place.number

    def row(self, split: str) -> ScanRow:
        meta = self.meta
        return ScanRow(
            key=self.key,
            split=split,
            labels=meta["labels"],
            shape=self.place.shape,
            window_low=meta["window"][0],
            window_high=meta["window"][1],
            spacing=meta["spacing"],
            affine=flat(meta["affine"]),
            modality=meta["modality"],
            slice=meta["slice"],
            patches=self.place.of,
            rows=self.rows,
            first_patch=self.place.number,
            first_row=self.first_row,
            squared_error=self.squared_error,
            points=self.points,
            worst_psnr=self.worst_psnr,
            worst_patch=self.worst_patch,
        )


@dataclass
class PatchParts:
    """Takes a range's fitted batches, in order."""

    work: FitWork
    kind: TableKind
    grids: GridSettings
    tables: list[pa.Table] = field(default_factory=list)
    scans: dict[int, _Scan] = field(default_factory=dict)
    lost: dict[int, list[Quarantined]] = field(default_factory=dict)
    """By the scan's row in the shard, an entry per patch without a row."""
    unsolved: dict[int, int] = field(default_factory=dict)
    """Steps, by the scan's row."""

    def add(self, places: Sequence[Place], columns: Columns) -> None:
        """Each of a batch's patches is a row, or its scan is quarantined."""
        reasons = columns.reasons
        kept: dict[int, tuple[Described, PatchPlace]] = {}
        for i, place in enumerate(places):
            if isinstance(place, LostPatch):
                self._lose(place.scan, place.key, place.reason)
            elif isinstance(place, Described) and place.patch is not None:
                if i in reasons:
                    self._lose(place.patch.scan, place.key, reasons[i])
                else:
                    kept[i] = place, place.patch
        self.tables.append(self._table(kept, columns))

    def commit(self, store: ObjectStore, folder: str) -> Commit:
        """Write the parts; the record that makes them count."""
        table = pa.concat_tables(self.tables).combine_chunks()
        quality = table["psnr"].to_numpy().astype(np.float64)
        grouped = patch_rows.write_part(store, folder, table) if table.num_rows else None
        return Commit(
            split=self.work.split,
            shard=self.work.shard.sha256,
            start=self.work.start,
            stop=self.work.stop,
            rows=table.num_rows,
            part=grouped and PartRef(grouped.path, grouped.sha256, grouped.size),
            quarantined=tuple(lost[0] for lost in self.lost.values()),
            below_min=int(table["below_min"].to_numpy(zero_copy_only=False).sum()),
            psnr_sum=float(quality.sum()),
            psnr_squares=float(np.square(quality).sum()),
            unsolved_steps=sum(self.unsolved.values()),
            unsolved_scans=len(self.unsolved),
            patches=Patches(
                footer=grouped.footer if grouped else 0,
                footer_sha256=grouped.footer_sha256 if grouped else "",
                scans=self._write_scans(store, folder) if grouped else None,
                scan_rows=len(self.scans),
                lost=tuple(LostPatches(scan, len(lost)) for scan, lost in self.lost.items()),
            ),
        )

    def _lose(self, scan: int, key: str, reason: str) -> None:
        self.lost.setdefault(scan, []).append(Quarantined(key, reason))

    def _table(self, kept: Mapping[int, tuple[Described, PatchPlace]], columns: Columns) -> pa.Table:
        at, kind = list(kept), self.kind
        psnr = columns.psnr[at]
        points = np.array([place.points for _, place in kept.values()], np.int64)
        squared = points * 10.0 ** (-psnr.astype(np.float64) / 10)
        unsolved = columns.unsolved.tolist()
        done = sum(table.num_rows for table in self.tables)
        for nth, (i, (described, place)) in enumerate(kept.items()):
            if place.scan not in self.scans:
                facts = {name: described.meta[name] for name in FACTS}
                self.scans[place.scan] = _Scan(described.key, facts, place, done + nth)
            scan = self.scans[place.scan]
            scan.add(place, float(psnr[nth]), float(squared[nth]))
            if unsolved[i]:
                self.unsolved[place.scan] = self.unsolved.get(place.scan, 0) + unsolved[i]
        rows = PatchRows(
            keys=[described.key for described, _ in kept.values()],
            patches=np.array([place.number for _, place in kept.values()], np.int32),
            latents=columns.numbers[at],
            scales=None if columns.scales is None else columns.scales[at],
            psnr=psnr,
            below_min=psnr.astype(np.float64) < kind.min_psnr,
            steps=columns.steps[at],
            squared_errors=squared,
            points=points,
        )
        return patch_rows.part_table(rows, kind.latent, kind.storage_type, self._identity, kind.units)

    def _write_scans(self, store: ObjectStore, folder: str) -> PartRef:
        kind, rows = self.kind, [scan.row(self.work.split) for scan in self.scans.values()]
        storage = Storage(kind.storage_type, kind.latent)
        facts = TableFacts(self.grids.size, self.grids.overlap, storage, kind.min_psnr)
        return scan_rows.write_part(store, folder, scan_rows.part_table(rows, kind.identity | facts.metadata()))

    @property
    def _identity(self) -> dict[str, str]:
        return self.kind.identity | grid_metadata(self.grids.size, self.grids.overlap)


def lost_range(work: FitWork, keys: Sequence[str], units: ShardUnits, reason: str, *, failed: bool) -> Commit:
    """The record of a range of which no patch has a latent. ``keys``: of all scans of the shard."""
    there = [(scan, stop - start) for scan, start, stop in units.scans_in(work.start, work.stop)]
    lost = tuple(LostPatches(scan, patches) for scan, patches in there)
    quarantined = tuple(Quarantined(keys[scan], reason) for scan, _ in there)
    nothing = Patches(0, "", None, 0, lost)
    shard = work.shard.sha256
    return Commit(work.split, shard, work.start, work.stop, 0, None, quarantined, failed=failed, patches=nothing)
