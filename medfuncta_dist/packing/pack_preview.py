"""What the pack stage would do, without doing it: the survey, the comparison and sums over the private inventory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from medfuncta_dist.archive.inventory import locked, read_inventory
from medfuncta_dist.archive.series_sums import SeriesSums, series_sums
from medfuncta_dist.archive.survey import OnSurvey
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.series_section import Series
from medfuncta_dist.packing.archive_listing import list_archive
from medfuncta_dist.packing.archive_state import examine
from medfuncta_dist.packing.sources.copy_conflicts import CopyConflicts
from medfuncta_dist.packing.sources.source_table import load_table
from medfuncta_dist.packing.work_tables import work_tables
from medfuncta_dist.scans.private.private_folder import load_or_create_salt, private_folder
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.data_contract import check_dataset, with_series
from medfuncta_dist.shards.forgotten_record import require_list
from medfuncta_dist.shards.snapshot import newest_snapshot
from medfuncta_dist.storage.object_store import ObjectStore

COLUMNS = ["size", "reader", "patient", "study", "series", "problems"]


@dataclass(frozen=True)
class PackPreview:
    """``changes`` counts sources. ``packed`` counts the scans of the data set as it is."""

    changes: dict[str, int]
    uncompared: int
    """Of the same sources: those of which only the name is known, because an earlier version has packed them."""
    to_read: int
    """Sources, of which a DICOM series is one."""
    bytes_to_read: int
    packed: int
    inventory: ArchiveSums
    dicom: SeriesSums | None
    """What the DICOM series would give; None where each file is packed by itself."""
    unused_rows: int
    without_row: int
    """As in ``PackSummary``."""
    copy_conflicts: CopyConflicts
    folder: Path = field(repr=False)
    aside: dict[str, int] = field(default_factory=dict)
    """As in ``PackSummary``."""


@dataclass(frozen=True)
class ArchiveSums:
    """Sums over the inventory. Patients, studies and series are those of DICOM headers."""

    sources: int
    bytes: int
    formats: dict[str, int]
    patients: int
    studies: int
    series: int
    problems: dict[str, int]
    """Sources per problem that their header shows."""


def preview_pack(run: RunFile, on_survey: OnSurvey) -> PackPreview:
    """Survey the archive and say what ``pack`` would do. Nothing is written to storage; the survey stays in the
    private folder, and ``pack`` goes on with it.

    Raises what ``pack`` raises before it reads a scan.
    """
    store = ObjectStore(run.storage)
    folder = private_folder(run.data.private, run.dataset, run.storage)
    keys = KeyMaker(load_or_create_salt(folder))
    forgotten = require_list(store, run.dataset, folder)
    parent = newest_snapshot(store, run.dataset)
    with work_tables(folder) as tables:
        listed = list_archive(tables, store, run, folder, keys, parent, forgotten)
        contract = None if listed.empty else check_dataset(store, run.dataset, run.data, keys.fingerprint())
        data = with_series(run.data, contract)
        with locked(folder):
            archive = examine(replace(listed, data=data), store, on_survey, load_table(run.data), forgotten)
            found = sums(archive.inventory, archive.salt)
            rule = data.series if isinstance(data.series, Series) else None
            dicom = None if rule is None else series_sums(archive.inventory, rule, data.takes_volumes)
        archive.sources.leave_out(forgotten)
        to_read, bytes_to_read = archive.sources.to_read()
    return PackPreview(
        archive.changes.counts,
        archive.changes.uncompared,
        to_read,
        bytes_to_read,
        parent.samples if parent else 0,
        found,
        dicom,
        archive.joined.unused,
        archive.joined.without_row,
        archive.conflicts,
        folder,
        archive.aside,
    )


def sums(inventory: Path, salt: str) -> ArchiveSums:
    """Sums over an inventory; of its rows, only distinct identifiers are kept in memory."""
    formats, problems, total = Counter[str](), Counter[str](), 0
    patients, studies, series = set[str](), set[str](), set[str]()
    for row in read_inventory(inventory, salt, COLUMNS):
        formats[row["reader"]] += 1
        total += row["size"]
        problems.update(row["problems"] or ())
        patients.update(filter(None, (row["patient"],)))
        studies.update(filter(None, (row["study"],)))
        series.update(filter(None, (row["series"],)))
    counts = len(patients), len(studies), len(series)
    return ArchiveSums(formats.total(), total, _by_name(formats), *counts, _by_name(problems))


def _by_name(counter: Counter[str]) -> dict[str, int]:
    return {name: counter[name] for name in sorted(counter)}
