"""Which patient a scan belongs to, and so which scans must be in one split.

``group_in_path`` reads what the layout of the archive says. Of all that is known, ``group_of`` takes what
counts, as ``data.group`` says.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.scan_key import KeyMaker

SUBJECT = re.compile(r"(?:^|/)sub-([0-9A-Za-z+]+)(?=[/_.]|$)")
"""BIDS: https://bids-specification.readthedocs.io/en/stable/common-principles.html#entities"""
CASE = re.compile(r"(?:^|/)images(?:Tr|Ts|Val)/(?:.*/)?([^/]+)_\d{4}\.[^/]+$")
"""nnU-Net: imagesTr/<case>_<channel>.<suffix>"""

NAMED = re.compile(r"(?:^|/)((?:patient|pat|subject|subj|case|lidc-idri)[-_ ]?\d+)(?=[-_/.]|$)", re.IGNORECASE)
"""A folder or file called after a patient: patient001/study1/view.jpg, case_00012/imaging.nii.gz."""
BRATS = re.compile(r"(?:^|/)(brats\d*(?:[-_](?!\d)[a-z0-9]+)*[-_]\d+)[-_][^/]*$", re.IGNORECASE)
"""BraTS, of any year: the file's name, without time point and sequence (BraTS-GLI-00000-001-t1n.nii.gz,
BraTS2021_00000_t1.nii.gz, BraTS20_Training_001_t1.nii). Folders do not count: they may be called after a year."""


class Group(NamedTuple):
    """The scans that stay together. ``key``: an HMAC, "" for a scan by itself. ``by``: how it was found, one of
    ``WAYS``."""

    key: str
    by: str


WAYS = ("patient", "bids", "nnunet", "named", "path", "table", "study", "scan", "file")
"""What a group was made from: the file's own patient, the layout of the archive (BIDS, nnU-Net, or folders and files
called after patients), ``data.group.path`` or ``table``, the examination; ``scan``: nothing is known; ``file``: its own
splits count."""
IN_FILE = ("patient", "file")
"""Of ``WAYS``: the file itself tells."""
NOT_TOLD = ("study", "scan")
"""Of ``WAYS``: neither the file nor the layout, the rule or the table tells a patient."""
ALONE, AS_IN_FILE = Group("", "scan"), Group("", "file")


def bids_subject(relative: str) -> str | None:
    """The label of ``sub-<label>`` in a path. Of several data sets, equal labels are one group, to be safe."""
    found = SUBJECT.search(relative)
    return found.group(1) if found else None


def nnunet_case(uri: str) -> str | None:
    """The case whose channel a file in nnU-Net's folders is."""
    found = CASE.search(uri)
    return found.group(1) if found else None


def named_patient(relative: str) -> str | None:
    """The patient after whom a folder, or the file, is called by one of the usual words and a number."""
    found = BRATS.search(relative) or NAMED.search(relative)
    return found.group(1).casefold() if found else None


def group_in_path(relative: str, uri: str, keys: KeyMaker) -> Group | None:
    """The group that the layout of the archive tells, if any."""
    named = {"bids": bids_subject(relative), "nnunet": nnunet_case(uri), "named": named_patient(relative)}
    return next((Group(keys.group_key(by, text), by) for by, text in named.items() if text), None)


def group_of(found: Found, by_source: Group | None, data: Data, keys: KeyMaker) -> Group | None:
    """The group of a scan, from what the file says of it and what is known of its source; None by ``source``.

    A rule or table of the run file goes before all that the file says; the patient before the layout of the archive,
    and that before the examination.
    """
    if data.grouping == "source":
        return None
    if found.split is not None and found.group is None:
        return AS_IN_FILE  # its scans are many patients', and the path cannot tell whose each one is
    if data.grouping not in (None, "patient"):
        return by_source or ALONE
    if found.group is not None:
        return Group(keys.group_key("patient", found.group), "patient")
    if by_source is not None:
        return by_source
    return ALONE if found.study is None else Group(keys.group_key("study", found.study), "study")
