"""Makes a table's catalogue, in memory of one size however many scans there are, and writes it at the end of the fit.

Rows come from the parts' narrow columns; those of parts that an earlier catalogue lists come from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from medfuncta_dist.errors import IntegrityError, StageOrderError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.latent_ledger import Commit
from medfuncta_dist.latent_table.catalogue import catalogue_format as catalogue
from medfuncta_dist.latent_table.catalogue.catalogue_files import write_files
from medfuncta_dist.latent_table.catalogue.catalogue_format import CataloguedPart, CatalogueRecord
from medfuncta_dist.latent_table.catalogue.catalogue_reader import Catalogue
from medfuncta_dist.latent_table.catalogue.part_rows import numbered, read_part_rows, require_alike
from medfuncta_dist.latent_table.catalogue.sorted_runs import SortedRuns
from medfuncta_dist.latents.table_format import Storage
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.scratch import scratch_folder

READERS = 16
"""Parts read at a time: two or three small requests each, so storage latency bounds it."""

OnRows = Callable[[int, int], None]
"""Told how many of how many scans are read."""


class Table(NamedTuple):
    """The parts of a latent table that are to be in its catalogue."""

    folder: str
    commits: str
    """SHA-256 over the names of the ledger's records."""
    parts: Sequence[Commit]
    """In the order of their ranges' names; each has a part."""
    lost: Sequence[Commit] = ()
    """Those without a part."""

    @property
    def patched(self) -> bool:
        """Whether its scans are grids of patches."""
        return self.parts[0].patches is not None


def read_table(store: ObjectStore, folder: str, names: Sequence[str], shards: Iterable[str] | None) -> Table:
    """The table of the ledger's records with these names. StageOrderError where nothing is fitted."""
    known = None if shards is None else set(shards)
    commits = [c for _, c in sorted(latent_ledger.read_commits(store, folder).items())]
    mine = [c for c in commits if known is None or c.shard in known]
    parts = [c for c in mine if c.part is not None]
    if not parts:
        raise StageOrderError("there are no latents yet", where=store.uri(folder), do="run the fit stage first")
    return Table(folder, catalogue.names_digest(names), parts, [c for c in mine if c.part is None])


def build_catalogue(
    store: ObjectStore,
    table: Table,
    into: Path,
    earlier: Catalogue | None = None,
    on_rows: OnRows = lambda done, total: None,
) -> CatalogueRecord:
    """Write a catalogue's files below a folder of this machine; returns the record that makes them one."""
    parts = [CataloguedPart(c.part.path, c.part.sha256, c.part.size, c.rows) for c in table.parts if c.part is not None]
    total, done = sum(part.rows for part in parts), 0
    numbers = {part.path: number for number, part in enumerate(parts)}
    storage: Storage | None = None
    with scratch_folder("catalogue") as folder:
        runs = SortedRuns(folder)
        known = _same_parts(earlier, numbers)
        for rows in _known_rows(earlier, known):
            runs.add(rows)
            on_rows(done := done + rows.num_rows, total)
        there = set(known.values())
        new = [commit for number, commit in enumerate(table.parts) if number not in there]
        for commit, (rows, found) in _read(store, table.folder, new):
            storage = require_alike(storage, found)
            assert commit.part is not None
            runs.add(numbered(rows, numbers[commit.part.path]))
            on_rows(done := done + rows.num_rows, total)
        files = write_files(runs.merged(), into)
    if done != total:
        raise IntegrityError(f"{done} rows were found of {total} scans in the catalogue", where=store.uri(table.folder))
    if earlier is not None and known:
        storage = require_alike(storage, earlier.record.storage)
    assert storage is not None
    return CatalogueRecord(table.commits, total, storage.storage_type, storage.numbers, tuple(parts), tuple(files))


def _read(
    store: ObjectStore, folder: str, commits: Sequence[Commit]
) -> Iterator[tuple[Commit, tuple[pa.Table, Storage]]]:
    """Each part's rows, a few parts in memory at once."""
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(commits), 4 * READERS):
            some = commits[start : start + 4 * READERS]
            yield from zip(some, pool.map(lambda commit: read_part_rows(store, folder, commit), some), strict=True)


def _same_parts(earlier: Catalogue | None, numbers: Mapping[str, int]) -> dict[int, int]:
    """The parts that an earlier catalogue lists, too: its number of each, and the present one."""
    if earlier is None:
        return {}
    listed = enumerate(earlier.record.parts)
    return {before: numbers[part.path] for before, part in listed if part.path in numbers}


def _known_rows(earlier: Catalogue | None, known: Mapping[int, int]) -> Iterator[pa.Table]:
    """The rows of these parts, with their present numbers."""
    if earlier is None or not known:
        return
    present = np.full(len(earlier.record.parts), -1, np.int32)
    present[list(known)] = list(known.values())
    place = catalogue.SCHEMA.get_field_index("part")
    for rows in earlier.tables():
        numbers = present[rows["part"].to_numpy()]
        changed = rows.set_column(place, catalogue.SCHEMA.field("part"), pa.array(numbers))
        yield changed.filter(pa.array(numbers >= 0))
