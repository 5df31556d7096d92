"""Removes forgotten scans from the owner's mapping, inventory, lists and comparisons: they are not needed any more."""

from __future__ import annotations

import shutil
from pathlib import Path

from medfuncta_dist.archive.dicom_header import is_segmentation
from medfuncta_dist.archive.inventory import INVENTORY, SURVEY, Row, locked, read_inventory, write_inventory
from medfuncta_dist.archive.survey import PARTS
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.packing.sources.copy_conflicts import FILE as COPY_CONFLICTS
from medfuncta_dist.packing.sources.series_sources import packed_key
from medfuncta_dist.scans.private.forgotten_list import Act
from medfuncta_dist.scans.private.private_mapping import open_mapping
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.split_look_alikes import FILE as LOOK_ALIKES

LISTS = (LOOK_ALIKES, COPY_CONFLICTS)
"""What the last pack has listed for its owner: the next one lists it again, of what is there then."""

COMPARISONS = "comparisons"
"""Where the command ``compare`` writes them, unless it is told otherwise."""


def remove_private(folder: Path, act: Act, data: Data, salted: KeyMaker) -> None:
    """Remove the rows of an act. Doing it twice changes nothing; a survey that was not adopted is removed whole."""
    with open_mapping(folder) as mapping:
        mapping.remove((*act.scans, *act.sources))
    for name in LISTS:
        (folder / name).unlink(missing_ok=True)
    _remove_comparisons(folder, act)
    with locked(folder):
        shutil.rmtree(folder / PARTS, ignore_errors=True)
        (folder / SURVEY).unlink(missing_ok=True)
        if act.sources and (folder / INVENTORY).exists():
            _remove_rows(folder / INVENTORY, act, data, salted)


def _remove_comparisons(folder: Path, act: Act) -> None:
    """The comparisons of runs in this folder that list one of the scans: their pages show pictures of those."""
    for content in (folder / COMPARISONS).glob("*/comparison.json"):
        data = content.read_bytes()
        if any(key.encode() in data for key in act.keys):
            content.with_suffix(".html").unlink(missing_ok=True)
            content.unlink()


def _remove_rows(inventory: Path, act: Act, data: Data, salted: KeyMaker) -> None:
    """The rows of an act's sources, and those of DICOM segmentations of them, which may be no sources."""
    sources, salt = set(act.sources), salted.fingerprint()

    def is_gone(row: Row) -> bool:
        return packed_key(row, data, salted) in sources

    series = {row["series"] for row in read_inventory(inventory, salt) if row["series"] and is_gone(row)}

    def is_of_gone(row: Row) -> bool:
        of = set(row["refers_to"] or ())
        return is_segmentation(row) and (row["patient"] in act.groups or (bool(of) and of <= series))

    rows = (row for row in read_inventory(inventory, salt) if not (is_gone(row) or is_of_gone(row)))
    write_inventory(inventory, rows, salt)
