"""Zip and tar files for tests, of names and bytes."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from medfuncta_dist.archive.member_lists import reader_name, with_members
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.storage.archive_files.member_bytes import copy_member
from medfuncta_dist.storage.sources import Source

MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
SUFFIXES = (".zip", *MODES)


def zipped(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return out.getvalue()


def tarred(files: Mapping[str, bytes], mode: str = "w", format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=format) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def bundled(files: Mapping[str, bytes], suffix: str) -> bytes:
    """An archive file of the kind that ``suffix`` tells."""
    return zipped(files) if suffix == ".zip" else tarred(files, MODES[suffix])


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path and bytes of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read_through(path: Path) -> None:
    """List an archive file as packing does, and read all members that can be read alone; ScanError for the first one
    that is refused."""
    source = Source(str(path), path.name, path.stat().st_size, "1")
    for member in with_members([source], lambda name: reader_name(None, name), None, KeyMaker(bytes(32))):
        if member.refused:
            raise ScanError(member.refused)
        if member.place is not None and not member.place.solid:
            copy_member(member.place, path.with_name("member"))
