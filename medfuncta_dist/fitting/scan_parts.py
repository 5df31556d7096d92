"""What the batches of a range come to where a scan is one unit: a part with a row per scan, and a commit record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.fitting.fit_rows import Columns, Described, Place, rows_of
from medfuncta_dist.fitting.latent_ledger import Commit, Quarantined
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.curved import stream_column
from medfuncta_dist.latents.curved.stored_tables import OpenTables
from medfuncta_dist.latents.latent_types import StorageType
from medfuncta_dist.latents.table_units import Units
from medfuncta_dist.storage.object_store import ObjectStore


@dataclass(frozen=True)
class TableKind:
    """What all parts of a table have in common: the numbers of a latent, their type and units, the limit below which a
    row is flagged, and whose latents they are."""

    latent: int
    storage_type: StorageType
    units: Units | None
    min_psnr: float
    identity: dict[str, str]
    tables: OpenTables | None = None
    """What curved latents are coded with; None for other types."""


@dataclass
class ScanParts:
    """Takes a range's fitted batches, in order."""

    work: FitWork
    kind: TableKind
    tables: list[pa.Table] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    unsolved: list[int] = field(default_factory=list)
    """Of each scan that has any."""

    def add(self, places: Sequence[Place], columns: Columns) -> None:
        """Each of a batch's scans is a row, or is quarantined."""
        reasons = columns.reasons
        kept: dict[int, Described] = {}
        for i, place in enumerate(places):
            if isinstance(place, Quarantined):
                self.quarantined.append(place)
            elif place is not None and i in reasons:
                self.quarantined.append(Quarantined(place.key, reasons[i]))
            elif place is not None:
                kept[i] = place
        unsolved = columns.unsolved.tolist()
        self.unsolved += [unsolved[i] for i in kept if unsolved[i]]
        rows = rows_of(self.work.split, columns, kept, self.kind.min_psnr)
        kind = self.kind
        table = table_format.part_table(rows, kind.latent, kind.storage_type, kind.identity, kind.units, kind.tables)
        self.tables.append(table)

    def commit(self, store: ObjectStore, folder: str) -> Commit:
        """Write the part; the record that makes it count."""
        rows = sum(table.num_rows for table in self.tables)
        if self.kind.tables is not None:
            stream_column.require_size(rows, self.kind.latent)
        # One chunk: the pages of a Parquet file, and with them its bytes, follow the chunks.
        table = pa.concat_tables(self.tables).combine_chunks()
        part = table_format.write_part(store, folder, table) if rows else None
        quality = table["psnr"].to_numpy().astype(np.float64)
        return Commit(
            split=self.work.split,
            shard=self.work.shard.sha256,
            start=self.work.start,
            stop=self.work.stop,
            rows=rows,
            part=part,
            quarantined=tuple(self.quarantined),
            below_min=int(table["below_min"].to_numpy().sum()),
            psnr_sum=float(quality.sum()),
            psnr_squares=float(np.square(quality).sum()),
            unsolved_steps=sum(self.unsolved),
            unsolved_scans=len(self.unsolved),
        )
