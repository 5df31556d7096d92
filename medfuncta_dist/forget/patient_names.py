"""From what a source says of a patient to keys: the groups that a patient's ID can stand for, and the patient's files
that the private inventory knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medfuncta_dist.archive.inventory import INVENTORY, read_inventory
from medfuncta_dist.config.sections.data_section import Data, Grouping
from medfuncta_dist.scans.patient_group import group_in_path
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.source_table import SourceTable, load_table

KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Wanted:
    """What is to be forgotten, as keys. ``beginnings``: of keys of scans, or of files that were quarantined."""

    beginnings: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()
    """Any that a given patient could have."""
    sources: frozenset[str] = frozenset()
    """Files that are the patient's as the inventory knows."""
    named: frozenset[str] = frozenset()
    """Of the groups, those of these files."""


@dataclass(frozen=True)
class PatientName:
    """A patient as the archive names them, or their key."""

    text: str = field(repr=False)
    issuer: str = field(default="", repr=False)

    def groups(self, keys: KeyMaker) -> frozenset[str]:
        """Every key that this name gives, by each way in which patients are named."""
        text, issuer = (name.strip(" \0") for name in (self.text, self.issuer))
        folded = text.casefold()
        named = {
            "patient": f"{folded}\\{issuer.casefold()}",
            "bids": text.removeprefix("sub-"),
            "nnunet": text,
            "named": folded,
            "path": text,
            "table": text,
        }
        made = {keys.group_key(kind, name) for kind, name in named.items()}
        return frozenset(made | ({folded} if KEY.fullmatch(folded) else set()))


def wanted(
    beginnings: Sequence[str], patients: Sequence[PatientName], data: Data, folder: Path, keys: KeyMaker
) -> Wanted:
    """What the user names, as keys. RunFileError where the run file's table of patients cannot be read."""
    groups = frozenset(key for patient in patients for key in patient.groups(keys))
    files = list(_files(groups, data, folder, keys)) if groups else []
    sources, named = (frozenset(found) for found in zip(*files, strict=True)) if files else (frozenset(), frozenset())
    return Wanted(tuple(dict.fromkeys(beginnings)), groups, sources, named)


def _files(groups: frozenset[str], data: Data, folder: Path, keys: KeyMaker) -> Iterator[tuple[str, str]]:
    """(source, group) of files that belong to one of the groups, as far as the inventory of the last pack tells: also
    of those of which nothing could be packed."""
    table, rule = load_table(data), data.group
    columns = ["relative", "identity", "uri", "patient"]
    for row in read_inventory(folder / INVENTORY, keys.fingerprint(), columns):
        found = {row["patient"]}
        if isinstance(rule, Grouping):
            found = {_by_rule(row["relative"], rule, table, keys)}
        elif (by_path := group_in_path(row["relative"], row["uri"], keys)) is not None and row["patient"] is None:
            found.add(by_path.key)
        for group in groups & found:
            yield keys.source_key(row["identity"]), group


def _by_rule(relative: str, rule: Grouping, table: SourceTable | None, keys: KeyMaker) -> str | None:
    """``data.splits`` puts the split before the path that rule and table know."""
    for path in (relative, relative.partition("/")[2]):
        if table is not None and path in table.rows:
            return keys.group_key("table", table.rows[path].group)
        if rule.path is not None and (match := re.search(rule.path, path)):
            return keys.group_key("path", str(match.group(1)))
    return None
