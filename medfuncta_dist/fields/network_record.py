"""Where a trained network's files are, according to the commit record of its run. Pure.

``runs/<name>/network/commit.json`` names each file by its path below the storage root. Today that is
``runs/<name>/network/<network digest>/<file>``; earlier versions wrote ``runs/<name>/network/<file>``. Readers
follow the record, and only into the run's network folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medfuncta_dist.errors import IntegrityError

RECORD_FILE = "commit.json"
_RESTORE = "restore the run's network folder from a backup, or run train again under another name"


def network_folder(run: str) -> str:
    """Folder of a run's network, relative to the storage root."""
    return f"runs/{run}/network"


def files_below(body: Mapping[str, Any], names: Sequence[str], where: str) -> list[str]:
    """The paths of a network's files, relative to the run's network folder, in the order of ``names``.

    Args:
        body: the body of the commit record.
        where: the record's URI, for errors.

    Raises:
        IntegrityError: a file is missing in it, or has a path out of the run's network folder.
    """
    files = body.get("files")
    return [_below(files.get(name) if isinstance(files, Mapping) else None, name, where) for name in names]


def _below(file: Any, name: str, where: str) -> str:
    path = file.get("path") if isinstance(file, Mapping) else None
    if not isinstance(path, str):
        raise IntegrityError(f"the network's commit record does not say where {name} is", where=where, do=_RESTORE)
    parts = path.split("/")
    # Whatever the run is called: its folder may have been copied or renamed, and the digest proves the content.
    stays = len(parts) > 3 and parts[0] == "runs" and parts[2] == "network"
    if not stays or {"", ".", ".."} & set(parts) or "\\" in path or "\0" in path:
        what = f"the network's commit record names {name} outside of the run's network folder: {path!r}"
        raise IntegrityError(what, where=where, do=_RESTORE)
    return "/".join(parts[3:])
