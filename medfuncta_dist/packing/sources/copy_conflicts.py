"""Files with the same bytes of which different things are said: one scan cannot be in two splits, or two patients'."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.packing.sources.pack_source import PackSource
from medfuncta_dist.packing.sources.source_table import SourceTable
from medfuncta_dist.storage.local_objects import replacing

FILE = "copy-conflicts.csv"


@dataclass(frozen=True)
class CopyConflicts:
    """Copies that are not packed, and of which the run file, its table or the path says something else than of the file
    that is."""

    splits: int = 0
    patients: int = 0
    labels: int = 0

    def __bool__(self) -> bool:
        return bool(self.splits or self.patients or self.labels)


NO_CONFLICTS = CopyConflicts()


def copy_conflicts(
    copied: Mapping[str, str], sources: Mapping[str, PackSource], table: SourceTable | None, folder: Path
) -> CopyConflicts:
    """Count them (keys: copy → packed source), and list both paths of each in the private folder.

    RunFileError where ``data.table`` says so, and does not say which row counts.
    """
    pairs = [(sources[copy], sources[packed]) for copy, packed in copied.items()]
    found = CopyConflicts(*(sum(differ(*pair) for pair in pairs) for differ in (_splits, _patients, _labels)))
    wrong = [pair for pair in pairs if _splits(*pair) or _patients(*pair) or _labels(*pair)]
    if found:
        _write(folder / FILE, ((copy.relative, packed.relative) for copy, packed in wrong))
    else:
        (folder / FILE).unlink(missing_ok=True)
    if found and table is not None and table.where == "data.table" and table.rule.copies == "refuse":
        raise RunFileError(
            f"the table has different rows for {len(wrong)} files and others with the same bytes: {found.splits} would "
            f"be in another split, {found.patients} another patient's, {found.labels} have other labels",
            where=table.where,
            do=f"correct the rows ({FILE} in the private folder lists these files), or set data.table.copies to first",
        )
    return found


def _splits(copy: PackSource, packed: PackSource) -> bool:
    return None not in (copy.split, packed.split) and copy.split != packed.split


def _patients(copy: PackSource, packed: PackSource) -> bool:
    return copy.group is not None and packed.group is not None and copy.group.key != packed.group.key


def _labels(copy: PackSource, packed: PackSource) -> bool:
    return None not in (copy.labels, packed.labels) and copy.labels != packed.labels


def _write(path: Path, pairs: Iterable[Sequence[str]]) -> None:
    """Only the owner can read it: it holds paths."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replacing(path) as part:
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))
        with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            csv.writer(file).writerows([("format_version", "1"), ("copy", "packed"), *pairs])
