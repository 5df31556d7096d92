"""Lists of what the archive's zip and tar files hold: private Parquet files, one for each, in ``members/``.

An archive file is opened when it is new or its size or version (time of its last change, ETag) has changed, and not
again. A tar is read once for its list, from beginning to end, so its rows of the inventory are made in the same pass:
of all members where it is compressed, else of those that are fetched whole.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from medfuncta_dist.archive.dicom_header import is_whole, quiet, read_header
from medfuncta_dist.archive.inventory import NEW, SCHEMA, Listed, Row
from medfuncta_dist.archive.source_bytes import (
    GONE,
    LARGEST_HEADER,
    SMALL,
    UNREADABLE,
    HeadFile,
    fetch_from,
    probe_range,
)
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.reader_registry import find_reader
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.storage.archive_files.place import SEPARATOR, Entry, Place, kind_of, without_repeated
from medfuncta_dist.storage.archive_files.tar_members import Read, tar_entries
from medfuncta_dist.storage.archive_files.zip_members import zip_entries
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.local_objects import replacing
from medfuncta_dist.storage.sources import Source, in_globs

FOLDER = "members"
FORMAT_VERSION = b"2"
THREADS = 8
"""Archive files that are read at once: each takes some 30 MB of memory, and more for its list."""
PIECE = 2**20
EMPTY = "an archive file that holds no file"

OWN = pa.schema(
    [
        ("name", pa.binary()),
        ("refused", pa.string()),
        ("offset", pa.int64()),
        ("stored", pa.int64()),
        ("size", pa.int64()),
        ("check", pa.int64()),
        ("deflated", pa.bool_()),
        ("lead", pa.int64()),
        ("surveyed", pa.bool_()),
    ]
)
LISTING = ("relative", "identity", "uri", "size", "version")
"""Columns of the inventory that come from the listing of the archive."""
LIST_SCHEMA = pa.schema([*OWN, *(f for f in SCHEMA if f.name not in LISTING)])
EARLIER_SCHEMA = pa.schema([column for column in LIST_SCHEMA if column.name != NEW])
"""Of lists of version 1."""

ReaderOf = Callable[[str], str]
"""Name of the reader of a file; "" where none knows it."""


def reader_name(reader: str | None, uri: str) -> str:
    """Name of the reader for a member; "" where none knows its suffix."""
    found = find_reader(reader, uri)
    return found.name if found is not None else ""


def with_members(sources: Sequence[Source], reader_of: ReaderOf, folder: Path | None, keys: KeyMaker) -> list[Source]:
    """The sources, in place of each zip or tar its members; sorted by relative path. StorageError where storage fails.

    An archive file that is damaged stays as a source that is refused: of a part of one nobody knows what is missing.
    ``folder`` is the private one, where lists are kept.
    """
    found = [source for source in sources if not kind_of(source.uri)]
    for members in opened((source for source in sources if kind_of(source.uri)), reader_of, folder, keys):
        found.extend(members)
    return sorted(found, key=lambda source: (source.relative, source.uri))


def opened(
    archives: Iterable[Source], reader_of: ReaderOf, folder: Path | None, keys: KeyMaker
) -> Iterator[list[Source]]:
    """The members of each zip or tar, in the order given; of a few archive files, they are in memory at once."""

    def members(source: Source) -> list[Source]:
        return _members(source, _listed(source, reader_of, folder, keys))

    with quiet(), ThreadPoolExecutor(THREADS, "open") as pool:
        ahead: deque[Future[list[Source]]] = deque()
        for source in archives:
            ahead.append(pool.submit(members, source))
            if len(ahead) > THREADS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def member_rows(sources: Iterable[Listed], folder: Path, salt: str) -> Iterator[Row]:
    """Rows of the inventory that were made with the lists, in the order of the sources (sorted by relative path)."""
    in_tars = (source for source in sources if source.place is not None and source.place.kind != "zip")
    for archive, members in groupby(in_tars, key=lambda source: source.place.archive if source.place else ""):
        listed = list(members)
        state = f"{listed[0].place.archive_size} {listed[0].version}" if listed[0].place else ""
        rows = {row["name"]: row for row in _rows(_path(folder, archive), salt, state) or () if row["surveyed"]}
        for source in listed:
            row = rows.get(source.uri[len(archive) + len(SEPARATOR) :])
            if row is not None:
                relative = source.relative
                own = {"relative": relative, "identity": relative, "uri": source.uri, "size": source.size}
                yield {name: row.get(name) for name in SCHEMA.names} | own | {"version": source.version}


def forget_lists(folder: Path, archives: Iterable[str]) -> None:
    """Delete the lists of archive files other than these (URIs)."""
    kept = {_path(folder, archive) for archive in archives}
    for path in (folder / FOLDER).glob("*.parquet"):
        if path not in kept:
            path.unlink(missing_ok=True)


def _members(archive: Source, rows: Sequence[Row]) -> list[Source]:
    if len(rows) == 1 and not rows[0]["name"]:
        return [replace(archive, refused=rows[0]["refused"], globs=())]
    return [_member(archive, row) for row in rows if in_globs(row["name"], archive.globs)]


def _member(archive: Source, row: Row) -> Source:
    uri, relative = (f"{path}{SEPARATOR}{row['name']}" for path in (archive.uri, archive.relative))
    if row["refused"]:
        return Source(uri, relative, 0, f"{archive.version} {row['refused']}", refused=row["refused"])
    place = Place(
        archive.uri,
        str(kind_of(archive.uri)),
        archive.size,
        *(row[name] for name in ("offset", "stored", "size", "check", "deflated", "lead")),
    )
    # A zip has a checksum for each member; of a tar, only the whole file tells whether it has changed.
    version = f"crc32:{place.check:08x}" if place.kind == "zip" else archive.version
    return Source(uri, relative, place.size, version, place)


def _listed(archive: Source, reader_of: ReaderOf, folder: Path | None, keys: KeyMaker) -> list[Row]:
    """The rows of its list, sorted by name; one without a name for an archive file that is refused."""
    path = _path(folder, archive.uri) if folder else None
    state = f"{archive.size} {archive.version}" if archive.version else ""
    known = _rows(path, keys.fingerprint(), state) if path and state else None
    if known is not None and all(row["reader"] == reader_of(row["name"]) for row in known if row["surveyed"]):
        return known
    try:
        rows = _opened(archive, reader_of, keys) or [_row(Entry("", None, EMPTY))]
    except ScanError as error:
        rows = [_row(Entry("", None, error.what))]
        if error.what in (GONE, UNREADABLE):
            return rows
    rows.sort(key=lambda row: row["name"])
    if path:
        _write(path, rows, keys.fingerprint(), state)
    return rows


def _opened(archive: Source, reader_of: ReaderOf, keys: KeyMaker) -> list[Row]:
    fetch, kind = fetch_from(archive.uri), str(kind_of(archive.uri))
    if kind == "zip":
        return [_row(entry) for entry in zip_entries(fetch, archive.size, archive.uri)]
    entries, surveyed = [], {}
    for entry, read in tar_entries(fetch, archive.size, archive.uri, kind):
        entries.append(entry)
        if entry.place is not None and (entry.place.solid or entry.place.size < SMALL):
            reader = reader_of(entry.name)
            surveyed[entry.name] = {"reader": reader} | _surveyed(entry.place.size, read, reader, keys)
    return [_row(entry, surveyed.get(entry.name) if entry.place else None) for entry in without_repeated(entries)]


def _row(entry: Entry, surveyed: Row | None = None) -> Row:
    row: Row = dict.fromkeys(LIST_SCHEMA.names) | {"name": entry.name, "refused": entry.refused}
    if entry.place is not None:
        row |= {name: getattr(entry.place, name) for name in OWN.names if hasattr(entry.place, name)}
    return row | {"problems": []} | (surveyed or {}) | {"surveyed": surveyed is not None}


def _surveyed(size: int, read: Read, reader: str, keys: KeyMaker) -> Row:
    """What the survey says of a file, from reading it once. Of large ones, only the beginning is in memory."""
    start, length = probe_range(size)
    digest, head, probe, at = hashlib.sha256(), bytearray(), bytearray(), 0
    while at < size:
        piece = read(min(PIECE, size - at))
        digest.update(piece)
        if reader == "dicom" and at < LARGEST_HEADER:
            head += piece
        probe += piece[max(start - at, 0) : max(start + length - at, 0)]
        at += len(piece)
    content = digest.hexdigest()
    row = {"content": content, "probe": content if size < SMALL else sha256_bytes(bytes(probe))} if size else {}
    return row | (_header(bytes(head), size, keys) if reader == "dicom" and size else {})


def _header(head: bytes, size: int, keys: KeyMaker) -> Row:
    whole = len(head) == size
    file = io.BytesIO(head) if whole else HeadFile(lambda start, length: head[start : start + length], size)
    try:
        return read_header(cast(BinaryIO, file), keys)
    except ScanError as error:
        return {"problems": [error.what]}


def _path(folder: Path, archive: str) -> Path:
    return folder / FOLDER / f"{sha256_bytes(archive.encode('utf-8', 'surrogateescape'))[:32]}.parquet"


def _rows(path: Path, salt: str, state: str | None = None) -> list[Row] | None:
    """The rows of a list; None where there is none of this salt and state, or it cannot be read: it is a cache."""
    wanted = {b"salt": salt.encode()} | ({} if state is None else {b"state": state.encode()})
    try:
        table = pq.read_table(path, memory_map=False)
        found = table.schema.metadata or {}
        schema = {b"1": EARLIER_SCHEMA, FORMAT_VERSION: LIST_SCHEMA}.get(found.get(b"format_version", b""))
        if any(found.get(name) != value for name, value in wanted.items()) or table.schema != schema:
            return None
        read = ({NEW: None} | row for row in table.to_pylist())
        rows = [row | {"name": row["name"].decode("utf-8", "surrogateescape")} for row in read]
        return rows if all(map(is_whole, rows)) else None
    except (OSError, pa.ArrowException, UnicodeError, ValueError):
        return None


def _write(path: Path, rows: Sequence[Row], salt: str, state: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    encoded: list[dict[str, Any]] = [row | {"name": row["name"].encode("utf-8", "surrogateescape")} for row in rows]
    metadata = {b"format_version": FORMAT_VERSION, b"salt": salt.encode(), b"state": state.encode()}
    table = pa.Table.from_pylist(encoded, schema=LIST_SCHEMA.with_metadata(metadata))
    with replacing(path) as part:
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))
        pq.write_table(table, part, compression="zstd")
