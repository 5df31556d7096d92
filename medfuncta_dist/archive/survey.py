"""The survey: one pass over the archive's sources that writes the private inventory. It never reads pixels of large
files, and reads nothing of a source that has not changed since an earlier survey.

Rows are kept as they are made, in parts. A survey that was killed and runs again takes them over.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

from medfuncta_dist.archive.dicom_header import quiet, read_header
from medfuncta_dist.archive.inventory import (
    INVENTORY,
    SCHEMA,
    SURVEY,
    Listed,
    Row,
    join_parts,
    read_inventory,
    write_inventory,
    write_part,
)
from medfuncta_dist.archive.member_lists import member_rows
from medfuncta_dist.archive.source_bytes import (
    GONE,
    SMALL,
    UNREADABLE,
    Fetch,
    HeadFile,
    content_digest,
    fetch_from,
    probe_range,
)
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.storage.archive_files.member_bytes import member_fetch
from medfuncta_dist.storage.digest import sha256_bytes

PARTS = "survey-parts"
PART_ROWS = 2048
"""Sources between two parts: what a survey that is killed reads again."""
THREADS = 32
"""Sources that are read at once; on S3 most of the time is waiting."""

OnSurvey = Callable[[int, int], None]
"""(sources done, of how many)"""


def survey(sources: Sequence[Listed], folder: Path, keys: KeyMaker, on_progress: OnSurvey) -> Path:
    """Write ``survey.parquet`` of these sources, which are in any order, into the private folder; its path."""
    ordered = sorted(sources, key=lambda source: source.relative)
    return survey_ordered(ordered, len(ordered), ordered, folder, keys, on_progress)


def survey_ordered(
    sources: Iterable[Listed],
    number: int,
    inside: Iterable[Listed],
    folder: Path,
    keys: KeyMaker,
    on_progress: OnSurvey,
) -> Path:
    """The same of so many sources that are sorted by relative path, a few of which are in memory at once. ``inside``:
    again, at least those that are inside archive files.

    The same archive gives the same bytes, whether or not it was interrupted. StorageError where storage fails.
    """
    attempts = sorted((folder / PARTS).glob("[0-9]*"))
    salt = keys.fingerprint()
    earlier = [_parts(attempt, salt) for attempt in attempts]
    members = member_rows(inside, folder, salt)
    known = _Known([*earlier, members, *(read_inventory(folder / name, salt) for name in (SURVEY, INVENTORY))])
    attempt = folder / PARTS / f"{int(attempts[-1].name) + 1 if attempts else 0:06d}"
    done = 0
    with quiet(), ThreadPoolExecutor(THREADS, "survey") as pool:
        for place, rows in enumerate(_ahead(_begun(sources, known, keys, pool))):
            part = list(rows)
            write_part(attempt / f"{place:06d}.parquet", part, salt)
            done += len(part)
            on_progress(done, number)
    join_parts(folder / SURVEY, sorted(attempt.glob("*.parquet")), salt)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return folder / SURVEY


def _begun(
    ordered: Iterable[Listed], known: _Known, keys: KeyMaker, pool: ThreadPoolExecutor
) -> Iterator[Iterator[Row]]:
    """The rows of each part, whose sources are being read."""
    look = partial(_row, keys=keys)
    iterator = iter(ordered)
    while found := [(*known.row(source), source) for source in islice(iterator, PART_ROWS)]:
        read = pool.map(look, [source for _, row, source in found if row is None])
        yield _joined(found, read)


def _joined(found: Iterable[tuple[str, Row | None, Listed]], read: Iterator[Row]) -> Iterator[Row]:
    for identity, row, _ in found:
        yield (next(read) if row is None else row) | {"identity": identity}


def _ahead(parts: Iterator[Iterator[Row]]) -> Iterator[Iterator[Row]]:
    """The same, with one begun before the former is used: requests go on while a part is written."""
    former = next(parts, None)
    while former is not None:
        begun = next(parts, None)
        yield former
        former = begun


def digest_contents(sources: Sequence[Listed]) -> dict[str, str]:
    """SHA-256 (hex) of the whole content by relative path, of those that can be read."""
    with ThreadPoolExecutor(THREADS, "digest") as pool:
        found = pool.map(_content, sources)
        return {source.relative: content for source, content in zip(sources, found, strict=True) if content}


def stamp(path: Path) -> tuple[int, int]:
    """What distinguishes a survey's file from those that replace it; zeros where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns


def adopt(
    folder: Path, of: tuple[int, int], salt: str, identities: Mapping[str, str], contents: Mapping[str, str]
) -> None:
    """Make the survey with the stamp ``of`` the inventory of the last pack, with what was found after it, by relative
    path. Where a newer one has replaced it, the inventory stays: it is older than what is packed, and hides nothing."""
    if stamp(folder / SURVEY) != of:
        return
    rows = _completed(read_inventory(folder / SURVEY, salt), identities, contents)
    write_inventory(folder / INVENTORY, rows, salt)
    (folder / SURVEY).unlink()


def _completed(rows: Iterable[Row], identities: Mapping[str, str], contents: Mapping[str, str]) -> Iterator[Row]:
    for row in rows:
        relative = row["relative"]
        content = contents.get(relative, row["content"])
        yield row | {"identity": identities.get(relative, row["identity"]), "content": content}


def _parts(attempt: Path, salt: str) -> Iterator[Row]:
    for part in sorted(attempt.glob("*.parquet")):
        yield from read_inventory(part, salt)


class _Known:
    """Rows of earlier surveys. Each stream is sorted by relative path, and so must be the questions. The last one is
    the inventory of the last pack, which knows under which name a source was packed."""

    def __init__(self, streams: Sequence[Iterator[Row]]) -> None:
        self._streams = list(streams)
        self._heads = [next(stream, None) for stream in self._streams]

    def row(self, source: Listed) -> tuple[str, Row | None]:
        """The identity of the source, and its row if that was read from its present state."""
        for i, stream in enumerate(self._streams):
            head = self._heads[i]
            while head is not None and head["relative"] < source.relative:
                head = next(stream, None)
            self._heads[i] = head
            # Every stream is advanced before one answers: a stream that lags behind would only be read later.
        same = [h if h is not None and h["relative"] == source.relative else None for h in self._heads]
        row = next((h | {"uri": source.uri} for h in same if h is not None and source.describes(h)), None)
        return (same[-1]["identity"] if same[-1] is not None else source.relative), row


def _row(source: Listed, keys: KeyMaker) -> Row:
    empty: Row = dict.fromkeys(SCHEMA.names)
    listed = {"relative": source.relative, "identity": source.relative, "uri": source.uri, "size": source.size}
    try:
        read = {"problems": [source.refused]} if source.refused else _looked_at(source, _fetch(source), keys)
    except ScanError as error:
        # What could not be read at all has no version: it is tried again, and another one then is a change.
        read = {"problems": [error.what]} | ({"version": ""} if error.what in (GONE, UNREADABLE) else {})
    return empty | listed | {"version": source.version, "reader": source.reader, "problems": []} | read


def _fetch(source: Listed) -> Fetch:
    return fetch_from(source.uri) if source.place is None else member_fetch(source.place)


def _looked_at(source: Listed, fetch: Fetch, keys: KeyMaker) -> Row:
    is_dicom = source.reader == "dicom"
    in_store = source.uri.startswith("s3://") and (source.place is None or source.place.kind == "zip")
    if 0 < source.size < SMALL and (is_dicom or not in_store):
        whole = fetch(0, source.size)
        content = sha256_bytes(whole)
        return {"content": content, "probe": content} | (read_header(io.BytesIO(whole), keys) if is_dicom else {})
    # Equal ETags, or checksums of a zip: equal contents, but for a coincidence.
    probe = source.version if in_store else _probe(source, fetch)
    return {"probe": probe or None} | (
        read_header(cast(BinaryIO, HeadFile(fetch, source.size)), keys) if is_dicom else {}
    )


def _probe(source: Listed, fetch: Fetch) -> str:
    start, length = probe_range(source.size)
    return sha256_bytes(fetch(start, length)) if length else ""


def _content(source: Listed) -> str | None:
    if source.refused:
        return None
    try:
        return content_digest(_fetch(source), source.size)
    except ScanError:
        return None
