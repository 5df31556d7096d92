"""Files with pictures of scans, on the owner's machine: outside any storage, and for the owner's eyes."""

from __future__ import annotations

import os
from pathlib import Path

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.storage.local_objects import replacing


def local_folder(folder: str, *storages: str) -> Path:
    """The folder that ``--out`` names; RunFileError for a URI, or inside one of the storages."""
    path = Path(folder).expanduser().resolve()
    roots = [storage.removeprefix("file://") for storage in storages]
    inside = any(path.is_relative_to(Path(root).expanduser().resolve()) for root in roots if "://" not in root)
    if "://" in folder or inside:
        raise RunFileError(
            "the report shows scans, and is not written into the storage or to an object store",
            where="--out",
            do="name a local folder outside the storage",
        )
    return path


def write_owner_file(path: Path, content: bytes) -> None:
    """Only the owner can read it; whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replacing(path) as part:
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))
        part.write_bytes(content)
