"""The user's archive, read-only: patterns in, source files out.

A source is identified by its ``relative`` path: keys are HMACs of it, so the archive may move. The path can name a
patient, and is never logged, stored or put into an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from fsspec.utils import glob_translate

from medfuncta_dist.errors import ObjectMissingError, RunFileError, StorageError
from medfuncta_dist.storage.archive_files.place import SEPARATOR, Place, kind_of
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.scratch import scratch_folder

MAGIC = re.compile(r"[*?\[]")
COMPRESSED = {".gz", ".bz2", ".xz", ".zst"}
FETCHES = 16
"""Objects of one series that are fetched at once: most of the time is waiting."""
SMALL = 2**20
"""Bytes: smaller objects are read without asking for their size first."""
ANONYMOUS_SOURCE = "a source of this run (the owner's private mapping tells which)"
"""``where`` of an error about a source, whose own name may contain a patient's."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file or object of the archive: its URI, its path below the pattern's fixed part, its size in bytes."""

    uri: str
    relative: str
    size: int
    version: str = field(default="", compare=False)
    """As in ``ObjectInfo``."""
    place: Place | None = field(default=None, compare=False, repr=False)
    """Where it lies, if it is a member of an archive file."""
    refused: str = field(default="", compare=False)
    """Why it is not read, in fixed words."""
    globs: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """Of an archive file: the members that are meant, one of these; all where there is none."""


Parts = Callable[[Path], Iterable[str]]
"""From a local file to the files that belong to it: their names in its folder, or a suffix alone (``.img``) for a file
that has the name of the source but for its suffix."""


def no_parts(path: Path) -> Iterable[str]:
    """Of a source that is one file."""
    return ()


def expand(patterns: str | list[str]) -> list[Source]:
    """The sources that match files, folders and globs (``**`` included; local or s3://), sorted by ``relative``.

    ``studies/*.zip!/**/*.dcm`` names members of archive files, which are sources with ``globs`` here; without it, all
    members are meant. A folder means all files below it; hidden files (a name in the path starts with a dot) are left
    out unless the pattern itself names them. A file that two patterns match counts once. RunFileError when a pattern
    matches nothing, is neither a local path nor an s3:// URI, or when two files would have the same relative path.
    """
    found: dict[str, Source] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for source in matching(pattern):
            found[source.uri] = once(found.get(source.uri, source), source)
    require_distinct(len(found) - len({source.relative for source in found.values()}))
    return sorted(found.values(), key=lambda s: (s.relative, s.uri))


def matching(pattern: str) -> Iterator[Source]:
    """The sources of one pattern, in no particular order, a few of them in memory at once. As ``expand``."""
    source = None
    for source in _expand_one(pattern):
        yield source
    if source is None:
        do = "check the path, the glob and, for s3://, AWS_ENDPOINT_URL and the credentials"
        raise RunFileError("no file matches a source pattern", where=f"data.source: {pattern}", do=do)


def once(earlier: Source, again: Source) -> Source:
    """A file that two patterns match, as one source."""
    both = earlier.globs and again.globs
    return replace(earlier, globs=tuple(sorted({*earlier.globs, *again.globs})) if both else ())


def require_distinct(same: int) -> None:
    """RunFileError where so many files have the relative path of another."""
    if same:
        what = f"{same} source files have the same path below their patterns as another one, and would get the same key"
        raise RunFileError(what, where="data.source", do="write one pattern that begins at their common parent folder")


@contextmanager
def local_copy(source_uri: str, parts: Parts = no_parts) -> Iterator[Path]:
    """A source as a local file: itself, or a temporary download that keeps only the suffix (``.nii.gz``).

    ``parts`` are the files that belong to it. Those that exist are fetched into the same folder, until there are no new
    ones: what was fetched may tell of more.
    """
    if not source_uri.startswith("s3://"):
        yield Path(source_uri)
        return
    parent, _, name = source_uri.rpartition("/")
    with scratch_folder("source") as folder:
        local = Path(folder, f"source{suffix(name)}")
        _download(parent, name, local)
        _fetch_parts(source_uri, local, parts)
        yield local


@contextmanager
def local_copies(sources: Sequence[tuple[str, int]]) -> Iterator[list[Path]]:
    """Several sources (URI, bytes) as local files, in this order. Objects are fetched into one temporary folder,
    several at once; a small one takes one request."""
    if not any(uri.startswith("s3://") for uri, _ in sources):
        yield [Path(uri) for uri, _ in sources]
        return
    with scratch_folder("source") as folder:
        stores = {parent: ObjectStore(parent) for parent in {uri.rpartition("/")[0] for uri, _ in sources}}
        places = [Path(folder, f"{number:06d}") for number in range(len(sources))]

        def fetch(place: Path, source: tuple[str, int]) -> Path:
            parent, _, name = source[0].rpartition("/")
            try:
                if source[1] < SMALL:
                    place.write_bytes(stores[parent].read(name))
                else:
                    stores[parent].download(name, place)
            except StorageError as error:
                raise type(error)(error.what, where=ANONYMOUS_SOURCE, do=error.do) from None
            return place

        yield list(fetch_threads(os.getpid()).map(fetch, places, sources))


@lru_cache(1)
def fetch_threads(process: int) -> ThreadPoolExecutor:
    """One pool for each process: starting threads for every series takes as long as fetching it."""
    return ThreadPoolExecutor(FETCHES, "fetch")


def _fetch_parts(source_uri: str, local: Path, parts: Parts) -> None:
    parent, _, name = source_uri.rpartition("/")
    own = suffix(name)
    tried = {own, local.name}
    while new := [part for part in parts(local) if part not in tried]:
        tried.update(new)
        for part in new:
            there, here = (n.removesuffix(own) + part if part.startswith(".") else part for n in (name, local.name))
            with suppress(ObjectMissingError):  # the reader misses it
                _download(parent, there, local.parent / here)


def _download(parent: str, name: str, local: Path) -> None:
    try:
        ObjectStore(parent).download(name, local)
    except StorageError as error:
        raise type(error)(error.what, where=ANONYMOUS_SOURCE, do=error.do) from None


def suffix(name: str) -> str:
    """``.nii.gz`` of ``a.b.nii.gz``: the last suffix, two where the last is a compression; nothing else of the name."""
    suffixes = PurePosixPath(name).suffixes[-2:]
    return "".join(suffixes if suffixes and suffixes[-1].lower() in COMPRESSED else suffixes[-1:])


def _expand_one(pattern: str) -> Iterable[Source]:
    """A pattern's sources: the file of exactly that name if there is one, else the files in the glob or folder."""
    if (file := _as_file(pattern)) is not None:
        return [file]
    archives, separator, glob = pattern.partition(SEPARATOR)
    if separator and kind_of(archives):
        _compiled(glob or "**", pattern)
        return (replace(source, globs=(glob or "**",)) for source in _expand_one(archives))
    fixed, rest = _split(pattern)
    store = ObjectStore(fixed)
    matches = _compiled(rest or "**", pattern)
    hidden_too = any(part.startswith(".") for part in rest.split("/"))
    return (
        Source(f"{store.root.rstrip('/')}/{o.path}", o.path, o.size, o.version)
        for o in store.walk()
        if matches.match(o.path) and (hidden_too or not _hidden(o.path))
    )


def in_globs(path: str, globs: Sequence[str]) -> bool:
    """Whether a path is meant by one of the globs, or there is none."""
    return not globs or any(_glob(glob).match(path) for glob in globs)


@lru_cache
def _glob(glob: str) -> re.Pattern[str]:
    return re.compile(glob_translate(glob))


def _compiled(glob: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(glob_translate(glob))
    except (ValueError, re.error) as error:
        do = "write ** only as a whole part of the path, as in folder/**/*.dcm"
        raise RunFileError("a source pattern is not a valid glob", where=f"data.source: {pattern}", do=do) from error


def _as_file(pattern: str) -> Source | None:
    fixed, name = _parent(pattern)
    if name in {"", ".", ".."} or fixed == "s3:/":
        return None
    store = ObjectStore(fixed)
    try:
        found = store.info(name)
        return Source(store.uri(name), name, found.size, found.version)
    except ObjectMissingError:
        return None


def _split(pattern: str) -> tuple[str, str]:
    """The folder before the first component with a wildcard, and the rest ("" when there is none)."""
    parts = pattern.split("/")
    magic = next((i for i, part in enumerate(parts) if MAGIC.search(part)), len(parts))
    return _folder("/".join(parts[:magic]), pattern), "/".join(parts[magic:])


def _parent(pattern: str) -> tuple[str, str]:
    fixed, _, name = pattern.rpartition("/")
    return _folder(fixed, pattern), name


def _folder(fixed: str, pattern: str) -> str:
    return fixed or ("/" if pattern.startswith("/") else ".")


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
