"""From what a source says of a patient to keys: the groups that a patient's ID can stand for, and the patient's files
that the private inventory knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medfuncta_dist.archive.inventory import INVENTORY, read_inventory
from medfuncta_dist.config.sections.data_section import Data, Grouping
from medfuncta_dist.config.sections.table_section import Table
from medfuncta_dist.packing.sources.pack_source import PackSource
from medfuncta_dist.packing.sources.series_sources import COLUMNS, packed_key
from medfuncta_dist.packing.sources.source_table import SourceTable, load_table
from medfuncta_dist.packing.sources.table_join import join_keys, join_table
from medfuncta_dist.scans.patient_group import group_in_path
from medfuncta_dist.scans.scan_key import KeyMaker

INVENTORY_COLUMNS = sorted({*COLUMNS, "identity", "uri"})
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
    rule = data.grouping
    if isinstance(rule, Table) or (isinstance(rule, Grouping) and rule.table is not None):
        yield from _by_table(groups, data, folder, keys)
        return
    for row in read_inventory(folder / INVENTORY, keys.fingerprint(), INVENTORY_COLUMNS):
        found = {row["patient"]}
        if isinstance(rule, Grouping):
            found = {_by_path(row["relative"], str(rule.path), keys)}
        elif (by_path := group_in_path(row["relative"], row["uri"], keys)) is not None and row["patient"] is None:
            found.add(by_path.key)
        for group in groups & found:
            yield packed_key(row, data, keys), group


def _by_path(relative: str, rule: str, keys: KeyMaker) -> str | None:
    """``data.splits`` puts the split before the path that the rule knows."""
    for path in (relative, relative.partition("/")[2]):
        if match := re.search(rule, path):
            return keys.group_key("path", str(match.group(1)))
    return None


def _by_table(groups: frozenset[str], data: Data, folder: Path, keys: KeyMaker) -> Iterator[tuple[str, str]]:
    """The owner's table is joined as packing does it, but to what the inventory lists, whatever has no row by now."""
    table, sources, identities = load_table(data), list[PackSource](), dict[str, str]()
    for row in read_inventory(folder / INVENTORY, keys.fingerprint(), INVENTORY_COLUMNS):
        relative, uri = row["relative"], row["uri"]
        path = relative.partition("/")[2] if data.splits is not None else relative
        group = group_in_path(path, uri, keys)
        sources.append(PackSource(packed_key(row, data, keys), uri, relative, path=path, group=group))
        identities[relative] = row["identity"]
    if table is not None:
        table = _of_some(table)
        joined = join_keys(join_table(sources, table, folder / INVENTORY, keys), table, folder, keys, identities)
        yield from ((s.key, s.group.key) for s in joined.sources if s.group is not None and s.group.key in groups)


def _of_some(table: SourceTable) -> SourceTable:
    """The table as one that need not name all sources."""
    return replace(table, rule=table.rule.model_copy(update={"without_row": "keep"}))
