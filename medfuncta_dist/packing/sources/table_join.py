"""Which row of the owner's table each source has.

UIDs and Patient IDs are compared with those of the private inventory, where they stay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medfuncta_dist.archive.inventory import read_inventory
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.packing.sources.pack_source import PackSource, Told
from medfuncta_dist.packing.sources.source_table import SourceTable, TableRow
from medfuncta_dist.scans.patient_group import Group
from medfuncta_dist.scans.private.private_mapping import MappingRow, PrivateMapping, open_mapping
from medfuncta_dist.scans.scan_key import KeyMaker, volume_item


@dataclass(frozen=True)
class Joined:
    """``sources`` with what the table says of them, in the order given."""

    sources: list[PackSource] = field(repr=False)
    without_row: int = 0
    """Sources that the table does not name."""
    unused: int = 0
    """Rows that name no source."""


@dataclass(frozen=True)
class _Match:
    """The row of a source: of all its scans, or by scan."""

    used: Collection[str] = ()
    row: TableRow | None = None
    scans: Mapping[str, TableRow] = field(default_factory=dict)
    known: bool = True
    """Whether it is known what the source would be called in the table."""


class TableJoin:
    """Joins sources with the rows of the table, one after another."""

    def __init__(self, table: SourceTable, keys: KeyMaker) -> None:
        self._table, self._keys = table, keys
        self._names = _patients(table.rows, keys) if table.by == "patient" else {}
        self._used: set[str] = set()
        self._sources = self._lacking = 0

    def of_file(self, source: PackSource, held: str | None) -> PackSource:
        """A file by its path, or by what the survey has read in it (``held``)."""
        if self._table.by == "path":
            return self._told(source, _one(source.path, self._table))
        by_patient = self._table.by == "patient"
        return self._told(
            source, _by_patient(source, held, self._names, self._table) if by_patient else _one(held, self._table)
        )

    def of_scans(self, source: PackSource, identity: str, mapping: PrivateMapping, copied: bool = False) -> PackSource:
        """A source by the keys of its scans. identity: what it is packed as; copied: it is not packed, because another
        has the same bytes: it has no key, and needs no row."""
        match = _by_key(source, self._table, mapping, self._keys, identity)
        return self._told(source, _Match(known=False) if copied and not match.used else match)

    def joined(self, sources: Sequence[PackSource] = ()) -> Joined:
        """All sources are there: ``sources`` with the counts. RunFileError where some have no row and the run file
        demands one."""
        unused = len(self._table.rows.keys() - self._used)
        if self._table.rule.without_row == "refuse":
            self._table.require_all(self._lacking, self._sources, unused)
        return Joined(list(sources), self._lacking, unused)

    def _told(self, source: PackSource, match: _Match) -> PackSource:
        self._used.update(match.used)
        self._sources += 1
        # A file without UIDs is quarantined by itself: it is not missing in the table.
        self._lacking += not match.used and match.known
        return _told(source, match, self._table, self._keys)


def join_table(sources: Sequence[PackSource], table: SourceTable | None, inventory: Path, keys: KeyMaker) -> Joined:
    """Join files by their paths, or by what the survey has read in them; ``join_keys`` does so by the keys of scans.

    RunFileError where a source has no row and the run file demands one.
    """
    if table is None or table.by == "key":
        return Joined(list(sources))
    held = {}
    if table.by != "path":
        rows = read_inventory(inventory, keys.fingerprint(), ["relative", table.by])
        held = {row["relative"]: row[table.by] for row in rows}
    join = TableJoin(table, keys)
    return join.joined([join.of_file(source, held.get(source.relative)) for source in sources])


def join_keys(
    joined: Joined, table: SourceTable | None, folder: Path, keys: KeyMaker, identities: Mapping[str, str]
) -> Joined:
    """Join by the keys of scans, where that is what the table's rows are about; else ``joined`` as it is.

    identities: by relative path, the name under which a source is packed.
    """
    if table is None or table.by != "key":
        return joined
    join = TableJoin(table, keys)
    with open_mapping(folder) as mapping:
        return join.joined([join.of_scans(s, identities.get(s.relative, s.relative), mapping) for s in joined.sources])


def _one(name: str | None, table: SourceTable) -> _Match:
    row = table.rows.get(name) if name is not None else None
    return _Match() if row is None and name is not None else _Match((name,) if name else (), row, known=bool(name))


def _patients(names: Iterable[str], keys: KeyMaker) -> dict[str, str]:
    """Key of a patient, by any of the ways that need no run file, → the name in the table."""
    found: dict[str, str] = {}
    for name in names:
        patient, _, issuer = name.partition("\\")
        plain = patient.strip(" \0")
        ways = {
            "patient": f"{plain.casefold()}\\{issuer.strip().casefold()}",
            "bids": plain.removeprefix("sub-"),
            "nnunet": plain,
            "named": plain.casefold(),
        }
        found |= {keys.group_key(by, text): name for by, text in ways.items()}
    return found


def _by_patient(source: PackSource, held: str | None, names: Mapping[str, str], table: SourceTable) -> _Match:
    """The file's own patient goes before that of its path."""
    known = [key for key in (held, source.group.key if source.group else None) if key]
    name = next((names[key] for key in known if key in names), None)
    return _Match((name,) if name else (), table.rows[name] if name else None, known=bool(known))


def _by_key(source: PackSource, table: SourceTable, mapping: PrivateMapping, keys: KeyMaker, identity: str) -> _Match:
    """A source of one scan has that scan's key; those of others are in the owner's mapping, once they are packed."""

    def listed(*uris: str) -> list[MappingRow]:
        return [row for uri in uris for row in mapping.of_uri(uri) if row.key in table.rows]

    key = keys.scan_key(identity, "")
    if key in table.rows:
        return _Match((key,), table.rows[key])
    former = source.uri.removesuffix(source.path) + identity  # where a renamed file was when it was packed
    uris = [member.uri for member in source.members] or [source.uri]
    return _scans(listed(*uris) or listed(former), table, keys, identity)


def _scans(rows: Sequence[MappingRow], table: SourceTable, keys: KeyMaker, identity: str) -> _Match:
    """The rows of the scans of one source. What they say of a slice's split and patient is its volume's."""
    scans = {row.key: table.rows[row.key] for row in rows if keys.scan_key(identity, row.item) == row.key}
    for row in rows:
        if (whole_item := volume_item(row.item)) != row.item and row.key in scans:
            volume = keys.scan_key(identity, whole_item)
            whole = replace(scans[row.key], labels=None)
            if scans.setdefault(volume, whole) != whole:
                raise RunFileError(
                    "the table puts slices of one volume into different splits, or says that they are of different "
                    "patients",
                    where=table.where,
                    do="correct the rows of its slices",
                )
    return _Match([row.key for row in rows if row.key in scans], None, scans)


def _told(source: PackSource, match: _Match, table: SourceTable, keys: KeyMaker) -> PackSource:
    if match.scans:
        return replace(source, told={key: _of_row(row, source, keys) for key, row in match.scans.items()})
    if match.row is None:
        return replace(source, unlisted=not match.known and table.rule.without_row == "refuse")
    told = _of_row(match.row, source, keys)
    return replace(source, split=told.split, group=told.group, labels=told.labels)


def _of_row(row: TableRow, source: PackSource, keys: KeyMaker) -> Told:
    group = source.group if row.group is None else Group(keys.group_key("table", row.group), "table")
    return Told(row.split or source.split, group, row.labels)
