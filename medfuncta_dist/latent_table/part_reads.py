"""Reads the chosen rows of a table's parts: each part once, verified whole, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from medfuncta_dist.latent_table.catalogue.catalogue_format import CataloguedPart
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.patch_format import patch_rows
from medfuncta_dist.storage.object_store import ObjectStore

READERS = 8


class PartRead(NamedTuple):
    """Rows of one part, and what they are in the list that was asked for. Travels to workers."""

    part: CataloguedPart
    rows: Int[np.ndarray, " row"]
    places: Int[np.ndarray, " row"]


@dataclass(frozen=True)
class PartSource:
    """Where a table's parts are. Travels to workers: a part is read with what is in it."""

    store: ObjectStore
    folder: str
    parts: Sequence[CataloguedPart] = field(repr=False)

    @property
    def patched(self) -> bool:
        """Whether the rows are patches of scans."""
        return any(part.patches is not None for part in self.parts)

    def reads(self, parts: Int[np.ndarray, " scan"], rows: Int[np.ndarray, " scan"]) -> list[PartRead]:
        """One read for each part that has any of the rows, in the parts' order; its rows rise."""
        order = np.lexsort((rows, parts))
        cuts = np.flatnonzero(np.diff(parts[order])) + 1
        some = [places for places in np.split(order, cuts) if len(places)]
        return [PartRead(self.parts[parts[places[0]]], rows[places], places) for places in some]

    def table(self, read: PartRead, columns: Sequence[str] | None = None) -> pa.Table:
        """These rows as they are stored; ``columns`` None: all. IntegrityError for a part that was not committed."""
        whole = self.whole(read.part, columns)
        return whole if len(read.rows) == whole.num_rows else whole.take(pa.array(read.rows))

    def latents(self, reads: Sequence[PartRead], scans: int, numbers: int) -> Float[np.ndarray, "scan latent"]:
        """The latents of these rows, float32, each in its place."""
        found = np.empty((scans, numbers), np.float32)

        def put(read: PartRead) -> None:
            found[read.places] = table_format.latents_of(self.table(read, ["latent"]))

        with ThreadPoolExecutor(READERS) as pool:
            for _ in pool.map(put, reads):
                pass
        return found

    def tables(self, reads: Sequence[PartRead], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of each read, in order; some are read ahead."""
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(reads), READERS):
                yield from pool.map(lambda read: self.table(read, columns), reads[start : start + READERS])

    def whole(self, part: CataloguedPart, columns: Sequence[str] | None = None) -> pa.Table:
        """A part as it is stored."""
        if part.patches is not None:
            return patch_rows.read_part(self.store, self.folder, part.ref, columns)
        return table_format.read_part(self.store, self.folder, part.ref, columns)


def with_float_latents(table: pa.Table) -> pa.Table:
    """The table with ``latent`` as float32 numbers, times scale and units where there are any."""
    place = table.schema.get_field_index("latent")
    if place < 0 or table.schema.field(place).type.value_type == pa.float32():
        return table
    values = table_format.latents_of(table)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    floats = table.set_column(place, pa.field("latent", column.type, nullable=False), column)
    return floats.drop_columns(["scale"]) if "scale" in floats.column_names else floats
