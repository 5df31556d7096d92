"""The survey: one pass over the archive's sources that writes the private inventory. It never reads pixels of large
files, and reads nothing of a source that has not changed since an earlier survey.

Rows are kept as they are made, in parts. A survey that was killed and runs again takes them over.
"""

from __future__ import annotations

import io
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import BinaryIO, cast

from medfuncta_dist.archive.dicom_header import is_whole, quiet, read_header
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
from medfuncta_dist.storage.ordered_reads import read_in_order
from medfuncta_dist.task_map import Failed, FanOut

PARTS = "survey-parts"
PART_ROWS = 2048
"""Sources between two parts: what a survey that is killed reads again."""
THREADS = 32
"""Sources that a process reads at once; on S3 most of the time is waiting."""
PARTS_HERE = 2
"""Parts that the driver reads by itself before it asks for tasks: a small archive needs no cluster."""

OnSurvey = Callable[[int, int], None]
"""(sources done, of how many)"""


@dataclass(frozen=True)
class SurveyTask:
    """The sources of a part that have to be read. ``number`` is the part's."""

    number: int
    sources: tuple[Listed, ...] = field(repr=False)
    keys: KeyMaker = field(repr=False)

    @property
    def name(self) -> str:
        """What a log may call it."""
        return f"part {self.number}"


def survey_task(task: SurveyTask) -> list[Row]:
    """The rows of the task's sources, in their order. StorageError where storage fails."""
    with quiet():
        return list(_rows(task.sources, task.keys))


def survey(
    sources: Sequence[Listed], folder: Path, keys: KeyMaker, on_progress: OnSurvey, fan_out: FanOut | None = None
) -> Path:
    """Write ``survey.parquet`` of these sources, which are in any order, into the private folder; its path."""
    ordered = sorted(sources, key=lambda source: source.relative)
    return survey_ordered(ordered, len(ordered), ordered, folder, keys, on_progress, fan_out)


def survey_ordered(
    sources: Iterable[Listed],
    total: int,
    inside: Iterable[Listed],
    folder: Path,
    keys: KeyMaker,
    on_progress: OnSurvey,
    fan_out: FanOut | None = None,
) -> Path:
    """The same of so many sources that are sorted by relative path, a few of which are in memory at once. ``inside``:
    again, at least those that are inside archive files. Tasks of ``fan_out`` read all but the first parts; without one,
    this process reads everything.

    The same archive gives the same bytes, whoever reads it, and whether or not it was interrupted. StorageError where
    storage fails, WorkerDiedError.
    """
    attempts = sorted((folder / PARTS).glob("[0-9]*"))
    salt = keys.fingerprint()
    earlier = [_parts(attempt, salt) for attempt in attempts]
    members = member_rows(inside, folder, salt)
    known = _Known([*earlier, members, *(read_inventory(folder / name, salt) for name in (SURVEY, INVENTORY))])
    attempt = folder / PARTS / f"{int(attempts[-1].name) + 1 if attempts else 0:06d}"
    parts = _Parts(sources, total, known, attempt, salt, on_progress)
    with quiet():
        parts.read(partial(_here, keys=keys), PARTS_HERE if fan_out is not None else None)
    if fan_out is not None:
        parts.read(partial(_by_tasks, keys=keys, fan_out=fan_out))
    join_parts(folder / SURVEY, sorted(attempt.glob("*.parquet")), salt)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return folder / SURVEY


Unread = tuple[int, tuple[Listed, ...]]
"""A part's number, and the sources in it that have to be read."""


class _Parts:
    """The parts of a survey, which are written as their rows are there: from earlier surveys, or read."""

    def __init__(
        self,
        ordered: Iterable[Listed],
        total: int,
        known: _Known,
        attempt: Path,
        salt: str,
        on_progress: OnSurvey,
    ) -> None:
        self._ordered, self._total, self._known = iter(ordered), total, known
        self._attempt, self._salt = attempt, salt
        self._on_progress, self._done = on_progress, 0
        self._begun: dict[int, list[tuple[str, Row | None]]] = {}
        """Identities and known rows of the parts that are being read."""
        self._left = self._unread()

    def read(
        self, how: Callable[[Iterator[Unread]], Iterator[tuple[int, Iterable[Row]]]], most: int | None = None
    ) -> None:
        """Write the parts of which nothing has to be read, and those that ``how`` reads: as many as ``most``."""
        for number, rows in how(islice(self._left, most)):
            self._write(number, self._begun.pop(number), iter(rows))

    def _unread(self) -> Iterator[Unread]:
        for number in count():
            if not (part := list(islice(self._ordered, PART_ROWS))):
                return
            found = [self._known.row(source) for source in part]
            unread = tuple(source for source, (_, row) in zip(part, found, strict=True) if row is None)
            if unread:
                self._begun[number] = found
                yield number, unread
            else:
                self._write(number, found, iter(()))

    def _write(self, number: int, found: Sequence[tuple[str, Row | None]], read: Iterator[Row]) -> None:
        rows = [(next(read) if row is None else row) | {"identity": identity} for identity, row in found]
        write_part(self._attempt / f"{number:06d}.parquet", rows, self._salt)
        self._done += len(rows)
        self._on_progress(self._done, self._total)


def _here(parts: Iterator[Unread], keys: KeyMaker) -> Iterator[tuple[int, Iterable[Row]]]:
    """Requests for the next part are sent while one is written."""
    begun = deque[tuple[int, int]]()

    def sources() -> Iterator[Listed]:
        for number, unread in parts:
            begun.append((number, len(unread)))
            yield from unread

    rows = _rows(sources(), keys)
    for first in rows:
        number, size = begun.popleft()
        yield number, chain([first], islice(rows, size - 1))


def _by_tasks(parts: Iterator[Unread], keys: KeyMaker, fan_out: FanOut) -> Iterator[tuple[int, Iterable[Row]]]:
    first = next(parts, None)
    if first is None:
        return
    tasks = (SurveyTask(number, unread, keys) for number, unread in chain([first], parts))
    for outcome in fan_out(survey_task, tasks):
        if isinstance(outcome, Failed):
            raise outcome.error
        yield outcome.item.number, outcome.result


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
        fit = (h for h in same if h is not None and source.describes(h) and is_whole(h))
        row = next((h | {"uri": source.uri} for h in fit), None)
        return (same[-1]["identity"] if same[-1] is not None else source.relative), row


def _rows(sources: Iterable[Listed], keys: KeyMaker) -> Iterator[Row]:
    """The rows of these sources, in their order; a few are read ahead.

    Threads wait for storage, and this one computes: if all of them computed, they would take the interpreter from each
    other, and requests would wait for it.
    """
    for source, found in read_in_order(partial(_asked, keys=keys), sources, THREADS):
        yield _row(source, _from_whole(source, found, keys) if isinstance(found, bytes) else found)


def _row(source: Listed, read: Row) -> Row:
    empty: Row = dict.fromkeys(SCHEMA.names)
    listed = {"relative": source.relative, "identity": source.relative, "uri": source.uri, "size": source.size}
    return empty | listed | {"version": source.version, "reader": source.reader, "problems": []} | read


def _asked(source: Listed, keys: KeyMaker) -> tuple[Listed, bytes | Row]:
    """What storage has to be asked for: the bytes of a small file; of others, all that fills their columns."""
    if source.refused:
        return source, {"problems": [source.refused]}
    try:
        fetch = _fetch(source)
        return source, fetch(0, source.size) if _is_read_whole(source) else _looked_at(source, fetch, keys)
    except ScanError as error:
        # What could not be read at all has no version: it is tried again, and another one then is a change.
        return source, {"problems": [error.what]} | ({"version": ""} if error.what in (GONE, UNREADABLE) else {})


def _fetch(source: Listed) -> Fetch:
    return fetch_from(source.uri) if source.place is None else member_fetch(source.place)


def _in_store(source: Listed) -> bool:
    return source.uri.startswith("s3://") and (source.place is None or source.place.kind == "zip")


def _is_read_whole(source: Listed) -> bool:
    return 0 < source.size < SMALL and (source.reader == "dicom" or not _in_store(source))


def _from_whole(source: Listed, whole: bytes, keys: KeyMaker) -> Row:
    content = sha256_bytes(whole)
    header = read_header(io.BytesIO(whole), keys) if source.reader == "dicom" else {}
    return {"content": content, "probe": content} | header


def _looked_at(source: Listed, fetch: Fetch, keys: KeyMaker) -> Row:
    # Equal ETags, or checksums of a zip: equal contents, but for a coincidence.
    probe = source.version if _in_store(source) else _probe(source, fetch)
    header = read_header(cast(BinaryIO, HeadFile(fetch, source.size)), keys) if source.reader == "dicom" else {}
    return {"probe": probe or None} | header


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
