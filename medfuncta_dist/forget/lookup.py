"""From a key to its file and back, by the owner's mapping."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.scans.private.private_folder import private_folder
from medfuncta_dist.scans.private.private_mapping import MappingRow, open_mapping

MOST = 1000
"""Rows that are shown."""
BEGINNING = re.compile(r"[0-9a-f]{8,64}")


def look_up(run: RunFile, text: str) -> dict[str, Any]:
    """The scans whose key begins with ``text``, or whose file's path holds it. RunFileError where there is none."""
    folder = private_folder(run.data.private, run.dataset, run.storage)
    with open_mapping(folder) as mapping:
        found = list(islice(mapping.of_beginning(text), MOST + 1)) if BEGINNING.fullmatch(text) else []
        found = found or list(islice(mapping.of_part(text), MOST + 1))
    if not found:
        raise RunFileError(
            "no scan has this key, and no file's path holds this text", where=str(folder), do="check it, or pack first"
        )
    more = [f"and more: only the first {MOST} are shown"] if len(found) > MOST else []
    rows = [row._asdict() for row in found[:MOST]]
    return {"scans": rows, "more": bool(more), "said": [*map(_line, found[:MOST]), *more]}


def _line(row: MappingRow) -> str:
    """A file name need not be valid UTF-8; a terminal needs it."""
    return "\t".join(row).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
