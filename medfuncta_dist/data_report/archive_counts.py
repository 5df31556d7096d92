"""What the private inventory says about the archive: counts, read in a stream. It is where the owner packs, only."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from medfuncta_dist.archive.inventory import INVENTORY, read_inventory
from medfuncta_dist.data_report.tally import add_to
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.scans.private_folder import load_salt
from medfuncta_dist.scans.scan_key import KeyMaker

COLUMNS = ["size", "reader", "modality", "rows", "columns", "frames", "pixel_spacing", "problems"]
MODALITY = 16
"""Characters of a DICOM modality (PS3.5, code string); a longer text is not one, and could say anything."""


def archive_counts(folder: Path) -> dict[str, Any] | None:
    """Files by format and problem, and of DICOM files modality, size and pixel spacing as they are in the archive.

    None where this machine has no inventory of the data set, or not its salt.
    """
    try:
        salt = KeyMaker(load_salt(folder)).fingerprint()
    except MedfunctaError:
        return None
    counters: dict[str, Counter[str]] = {
        name: Counter() for name in ("formats", "problems", "modalities", "sizes", "pixel_spacings")
    }
    files = total = 0
    for row in read_inventory(folder / INVENTORY, salt, COLUMNS):
        files, total = files + 1, total + row["size"]
        counters["formats"][row["reader"] or "unknown"] += 1
        counters["problems"].update(row["problems"] or ())
        if row["reader"] == "dicom":
            _count_dicom(row, counters)
    if not files:
        return None
    found = {name: dict(sorted(counts.items(), key=lambda c: (-c[1], c[0]))) for name, counts in counters.items()}
    return {"files": files, "bytes": total, **found}


def _count_dicom(row: dict[str, Any], counters: dict[str, Counter[str]]) -> None:
    modality = row["modality"] or ""
    known = modality.isascii() and modality.isalnum() and len(modality) <= MODALITY and modality.isupper()
    add_to(counters["modalities"], modality if known else "unknown")
    if row["rows"] and row["columns"]:
        frames = f" × {row['frames']} frames" if (row["frames"] or 1) > 1 else ""
        add_to(counters["sizes"], f"{row['rows']} × {row['columns']}{frames}")
    if row["pixel_spacing"]:
        add_to(counters["pixel_spacings"], " × ".join(f"{s:.3g}" for s in row["pixel_spacing"]))
