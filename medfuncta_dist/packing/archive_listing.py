"""What the pack stage begins with, on disk: the files that the run file names, and what is packed of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.packing.failed_packs import is_empty
from medfuncta_dist.packing.recorded_sources import RecordedSources
from medfuncta_dist.packing.sources.file_list import FileList
from medfuncta_dist.packing.sources.source_list import fill_rows
from medfuncta_dist.packing.sources.source_rows import SourceRows
from medfuncta_dist.packing.work_tables import Tables
from medfuncta_dist.scans.private.forgotten_list import Forgotten
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.snapshot import Snapshot
from medfuncta_dist.storage.object_store import ObjectStore


@dataclass(frozen=True)
class Archive:
    """``files`` that the run file names, and what the records say of ``packed`` sources; with the folder and the keys
    of their owner."""

    tables: Tables = field(repr=False)
    files: SourceRows
    packed: RecordedSources
    data: Data
    folder: Path
    keys: KeyMaker = field(repr=False)
    aside: dict[str, int] = field(default_factory=dict)
    """How many files are not read, by reason."""
    empty: bool = False
    """Nothing was ever packed: what is recorded does not count."""


def list_archive(
    tables: Tables,
    store: ObjectStore,
    run: RunFile,
    folder: Path,
    keys: KeyMaker,
    parent: Snapshot | None,
    forgotten: Forgotten,
) -> Archive:
    """List the archive without forgotten files. parent: the newest snapshot. Raises as ``fill_rows``."""
    packed, files = RecordedSources(tables, store), SourceRows(tables)
    packed.read(run.dataset)
    if empty := is_empty(parent, packed.records):
        packed.clear()
    aside = fill_rows(files, FileList(tables), run.data, keys, packed.holds, folder=folder, store=store)
    files.without(forgotten.sources)
    packed.settle(parent.packs if parent else ())
    return Archive(tables, files, packed, run.data, folder, keys, aside, empty)
