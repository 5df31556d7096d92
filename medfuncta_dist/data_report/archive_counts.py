"""What the private inventory says about the archive: counts, read in a stream. It is where the owner packs, only."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from medfuncta_dist.archive.inventory import INVENTORY, read_inventory
from medfuncta_dist.data_report.tally import add_to
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.scans.private.private_folder import load_salt
from medfuncta_dist.scans.scan_key import KeyMaker

COLUMNS = ["size", "reader", "modality", "rows", "columns", "frames", "pixel_spacing", "problems"]
_CODES = """
    AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS
    KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG
    RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA
    XA XAPROTOCOL XC
"""
MODALITIES = frozenset(_CODES.split())
"""DICOM's modalities (PS3.3 C.7.3.1.1.1). Another text in the element is free text, which can name a patient."""


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
    modality = row["modality"]
    add_to(counters["modalities"], modality if modality in MODALITIES else "unknown")
    if row["rows"] and row["columns"]:
        frames = f" × {row['frames']} frames" if (row["frames"] or 1) > 1 else ""
        add_to(counters["sizes"], f"{row['rows']} × {row['columns']}{frames}")
    if row["pixel_spacing"]:
        add_to(counters["pixel_spacings"], " × ".join(f"{s:.3g}" for s in row["pixel_spacing"]))
