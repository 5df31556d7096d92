"""Makes the catalogue of a table of patches: a row per scan, from the parts of scans alone, in memory of one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.fitting.latent_ledger import Commit
from medfuncta_dist.fitting.patched.patch_ledger import FittedScan, fitted_scans
from medfuncta_dist.latent_table.catalogue.catalogue_build import OnRows, Table
from medfuncta_dist.latent_table.catalogue.catalogue_files import write_files
from medfuncta_dist.latent_table.catalogue.catalogue_format import (
    PATCHED_SCHEMA,
    CataloguedGrid,
    CataloguedPart,
    CatalogueRecord,
    PatchedPart,
)
from medfuncta_dist.latent_table.catalogue.sorted_runs import SortedRuns
from medfuncta_dist.latents.patch_format import scan_rows
from medfuncta_dist.latents.patch_format.scan_rows import TableFacts
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.scratch import scratch_folder

ROWS = 2**14
"""Made into a table at a time."""


def build_patched_catalogue(store: ObjectStore, table: Table, into: Path, on_rows: OnRows) -> CatalogueRecord:
    """Write a catalogue's files below a folder of this machine; returns the record that makes them one. It lists the
    scans all of whose patches are fitted."""
    commits = sorted((*table.parts, *table.lost), key=lambda commit: commit.name)
    places = {commit.name: number for number, commit in enumerate(table.parts)}
    numbers = [places.get(commit.name, -1) for commit in commits]
    facts, total = _facts(store, table), sum(commit.patches.scan_rows for commit in table.parts if commit.patches)
    done = 0
    with scratch_folder("catalogue") as folder:
        runs = SortedRuns(folder)
        scans = fitted_scans(store, table.folder, commits)
        while some := list(islice(scans, ROWS)):
            _require_alike(some, facts)
            runs.add(_rows(some, numbers))
            on_rows(done := done + len(some), total)
        files = write_files(runs.merged(), into, PATCHED_SCHEMA)
    return CatalogueRecord(
        commits=table.commits,
        rows=done,
        storage_type=facts.storage.storage_type,
        numbers=facts.storage.numbers,
        parts=tuple(_parts(table.parts)),
        files=tuple(files),
        grid=CataloguedGrid(facts.size, facts.overlap),
    )


def _facts(store: ObjectStore, table: Table) -> TableFacts:
    """As the first part of scans says."""
    (patches,) = (table.parts[0].patches,)
    assert patches is not None
    assert patches.scans is not None
    found = scan_rows.read_part(store, table.folder, patches.scans, ["key"])
    return scan_rows.facts_of(found.schema, store.uri(f"{table.folder}/{patches.scans.path}"))


def _require_alike(scans: Sequence[FittedScan], facts: TableFacts) -> None:
    if any(scan.facts != facts for scan in scans):
        raise IntegrityError(
            "the parts of the latent table store latents in different ways",
            do="delete this latent table's folder and run fit again",
        )


def _rows(scans: Sequence[FittedScan], numbers: Sequence[int]) -> pa.Table:
    columns = [
        [scan.key for scan in scans],
        [scan.split for scan in scans],
        [scan.labels for scan in scans],
        [scan.psnr for scan in scans],
        [scan.below_min for scan in scans],
        [numbers[scan.commit] for scan in scans],
        [scan.first_row for scan in scans],
        [scan.patches for scan in scans],
        [scan.worst_psnr for scan in scans],
        [scan.worst_patch for scan in scans],
        [scan.scan_row for scan in scans],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, PATCHED_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=PATCHED_SCHEMA)


def _parts(commits: Sequence[Commit]) -> Iterator[CataloguedPart]:
    for commit in commits:
        part, patches = commit.part, commit.patches
        assert part is not None
        assert patches is not None
        assert patches.scans is not None
        besides = PatchedPart(patches.footer, patches.footer_sha256, patches.scans)
        yield CataloguedPart(part.path, part.sha256, part.size, commit.rows, besides)
