"""All rows of an owner's private mapping, as the product's questions give them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medfuncta_dist.scans.private.private_mapping import MappingRow, open_mapping


def read_mapping(folder: Path) -> list[MappingRow]:
    """The rows, sorted by key: every key begins with no digits."""
    with open_mapping(folder) as mapping:
        return list(mapping.of_beginning(""))


def write_mapping(folder: Path, rows: Iterable[MappingRow | tuple[str, str, str]]) -> None:
    """Add rows, in one change."""
    with open_mapping(folder) as mapping:
        mapping.add(rows)
