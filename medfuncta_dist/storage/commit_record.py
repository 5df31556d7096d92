"""Commit records: small JSON objects, written last, by ``publish.py``. Data without a commit record does not count.

    {"format_version": 1, "kind": "...", "generation": 0, "body": {...}, "digest": "<SHA-256 of the rest>"}

A record holds its own digest, which proves it whole, and its writer's generation: readers take the highest one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ObjectMissingError
from medfuncta_dist.storage.digest import canonical_json, digest_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import strict_json
from medfuncta_dist.storage.parsing.typed_record import typed

T = TypeVar("T")

FORMAT_VERSION = 1
PATCHES_VERSION = 2
"""Of records whose body tells of patches: earlier versions, which would take them for something else, refuse it."""
OF_PATCHES = ("latents", "catalogue")
"""Kinds of records that may have it."""
LARGEST_RECORD = 64 * 2**20
"""Bytes. Records name files and hold no data: a larger one was not written by medfuncta-dist."""
PARALLEL_READS = 16
ANY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.json")
"""Names of records, where no format says more. Systems add others: ``._x.json`` of macOS, ``x (1).json``."""


@dataclass(frozen=True)
class Record:
    """A verified commit record."""

    kind: str
    generation: int
    body: dict[str, Any]
    digest: str
    where: str = ""
    """Its URI."""


def make_record(kind: str, body: dict[str, Any], generation: int, version: int = FORMAT_VERSION) -> dict[str, Any]:
    """A commit record with its digest."""
    record = {"format_version": version, "kind": kind, "generation": generation, "body": body}
    return record | {"digest": digest_json(record)}


def read_record(store: ObjectStore, path: str, kind: str) -> dict[str, Any]:
    """The verified body of one record (ObjectMissingError, IntegrityError, FormatVersionError)."""
    return _read(store, path, kind).body


def read_as(as_type: type[T], store: ObjectStore, path: str, kind: str) -> T:
    """The same, with its body as a dataclass: IntegrityError also if its fields are not the dataclass's."""
    return typed(as_type, read_record(store, path, kind), f"a {kind} record", store.uri(path), _RESTORE)


def record_paths(store: ObjectStore, prefix: str, names: re.Pattern[str] = ANY_NAME) -> list[str]:
    """Paths of what lies in a folder, not deeper, under a name that a record can have, sorted: all else is foreign."""
    folder = prefix.strip("/")
    return [o.path for o in store.list(folder) if names.fullmatch(o.path.removeprefix(f"{folder}/"))]


def read_records(
    store: ObjectStore, prefix: str, kind: str, names: re.Pattern[str] = ANY_NAME
) -> list[tuple[str, Record]]:
    """All records in a folder as (path, record), sorted by path; files with other ``names`` are ignored."""
    return list(each_record(store, prefix, kind, names))


def each_record(
    store: ObjectStore, prefix: str, kind: str, names: re.Pattern[str] = ANY_NAME
) -> Iterator[tuple[str, Record]]:
    """The same, a few of them in memory at once."""
    paths = record_paths(store, prefix, names)
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        for start in range(0, len(paths), 2 * PARALLEL_READS):
            some = paths[start : start + 2 * PARALLEL_READS]
            found = list(pool.map(lambda path: _read_if_present(store, path, kind), some))
            yield from ((path, record) for path, record in zip(some, found, strict=True) if record is not None)


def latest_record(
    store: ObjectStore, prefix: str, kind: str, names: re.Pattern[str] = ANY_NAME
) -> tuple[str, Record] | None:
    """The record of the highest generation (then the last path). IntegrityError if any of them is damaged."""
    records = read_records(store, prefix, kind, names)
    return max(records, key=lambda r: (r[1].generation, r[0]), default=None)


def parse_record(data: bytes, kind: str, where: str) -> Record:
    """Parse and verify a record's bytes; errors name ``where``."""
    record = strict_json.parse_object(data, "a record", where, _RESTORE)
    known = (FORMAT_VERSION, PATCHES_VERSION) if kind in OF_PATCHES else (FORMAT_VERSION,)
    if _is_of_another_version(record, known):
        version = record.get("format_version")
        what = f"format_version {version!r} of a {kind} record is not one that this version reads {known}"
        raise FormatVersionError(
            what, where=where, do="use the version of medfuncta-dist that wrote it, or a newer one"
        )
    digest = record.pop("digest", None)
    # The bytes must match, too: 1e-05 and 1E-05, or two long decimals, can differ by one bit and be the same number.
    if digest != digest_json(record) or canonical_json(record | {"digest": digest}) != data:
        raise IntegrityError(f"a {kind} record does not match its own digest", where=where, do=_RESTORE)
    fields = (record.get("kind"), record.get("generation"), record.get("body"))
    match fields:
        case (str(found), int(generation), dict(body)) if found == kind:
            return Record(kind, generation, body, digest, where)
    raise IntegrityError(f"expected a {kind} record, found kind {fields[0]!r}", where=where, do=_RESTORE)


def _is_of_another_version(record: dict[str, Any], known: tuple[int, ...]) -> bool:
    """Whether another version wrote it. False if the version field itself is damaged: the digest matches with ours."""
    version, digest = record.get("format_version"), record.get("digest")
    if version in known:
        return False
    rest = {name: value for name, value in record.items() if name != "digest"}
    if digest == digest_json(rest):
        return True
    return isinstance(version, int) and all(digest != digest_json(rest | {"format_version": ours}) for ours in known)


_RESTORE = "restore the object from a backup, or delete it and run the stage again"


def _read(store: ObjectStore, path: str, kind: str) -> Record:
    return parse_record(store.read(path, limit=LARGEST_RECORD), kind, store.uri(path))


def _read_if_present(store: ObjectStore, path: str, kind: str) -> Record | None:
    """None for a record that was deleted after it was listed: old ones are removed while others read."""
    try:
        return _read(store, path, kind)
    except ObjectMissingError:
        return None
