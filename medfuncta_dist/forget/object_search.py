"""Looks for forgotten scans in the bytes of stored objects: by key, by the digest of values, by that of latents.

Parquet, tar and npy are read as what they are; all other objects as bytes, in which a key is a run of hex digits, cut
to 12 or more of them (reports show the first 12).
"""

from __future__ import annotations

import mmap
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medfuncta_dist.errors import ObjectMissingError
from medfuncta_dist.forget.carried_latents import latent_rows
from medfuncta_dist.latents.patch_format import patch_rows
from medfuncta_dist.scans.private.forgotten_list import Act, latent_key, pixels_key
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.storage.object_store import ObjectInfo, ObjectStore
from medfuncta_dist.storage.scratch import scratch_folder

SHORTEST = 12
"""Digits of a key that are looked for."""
HEX = re.compile(rb"[0-9a-f]{%d,}" % SHORTEST)
LONGEST = 64
BATCH_BYTES, BATCH_OBJECTS = 2**28, 256


@dataclass(frozen=True)
class Traces:
    """What is looked for."""

    keys: frozenset[str] = field(repr=False)
    pixels: frozenset[str] = field(repr=False)
    latents: frozenset[str] = field(repr=False)
    salted: KeyMaker = field(repr=False)

    @classmethod
    def of(cls, act: Act, salted: KeyMaker) -> Traces:
        """Those of an act."""
        return cls(act.keys, frozenset(act.pixels), frozenset(act.latents), salted)


class Trace(NamedTuple):
    """Something that was found in an object: by ``key``, or values or a latent under ``key``, another scan's."""

    path: str
    key: str
    equal: str = ""
    """The pixels or latent key that another scan has, too."""
    patched: bool = False
    """Whether that is the latent of a patch, of a scan all of whose patches in the object have such latents."""


Hit = tuple[str, str] | tuple[str, str, bool]
"""A trace without its path."""


@dataclass(frozen=True)
class SearchTask:
    """Objects to look through; travels to a worker."""

    root: str
    paths: tuple[str, ...]
    traces: Traces

    @property
    def name(self) -> str:
        """For progress and errors."""
        return self.paths[0]


class Searched(NamedTuple):
    """What a task has read, and found."""

    objects: int
    bytes: int
    found: tuple[Trace, ...]


def batches(root: str, objects: Sequence[ObjectInfo], traces: Traces) -> list[SearchTask]:
    """All objects, a worker's share at a time."""
    tasks: list[SearchTask] = []
    paths: list[str] = []
    size = 0
    for info in objects:
        if paths and (size + info.size > BATCH_BYTES or len(paths) == BATCH_OBJECTS):
            tasks.append(SearchTask(root, tuple(paths), traces))
            paths, size = [], 0
        paths.append(info.path)
        size += info.size
    return [*tasks, SearchTask(root, tuple(paths), traces)] if paths else tasks


def search_objects(task: SearchTask) -> Searched:
    """Read the objects whole. One that is gone by now holds nothing."""
    store, found, count, size = ObjectStore(task.root), list[Trace](), 0, 0
    with scratch_folder("forget") as folder:
        local = folder / "object"
        for path in task.paths:
            try:
                store.download(path, local)
            except ObjectMissingError:
                continue
            count, size = count + 1, size + local.stat().st_size
            found += (Trace(path, key) for key in _keys(path.encode(), task.traces))
            found += (Trace(path, *what) for what in _in_file(path, local, task.traces))
    return Searched(count, size, tuple(dict.fromkeys(found)))


def _in_file(path: str, local: Path, traces: Traces) -> Iterator[Hit]:
    kind = {".parquet": _in_parquet, ".tar": _in_tar}.get(Path(path).suffix, _in_bytes)
    try:
        yield from kind(local, traces)
    except (pa.ArrowException, tarfile.TarError, OSError, ValueError):
        if kind is _in_bytes:
            raise
        yield from _in_bytes(local, traces)  # damaged: as much as its bytes tell


def _in_bytes(local: Path, traces: Traces) -> Iterator[Hit]:
    if not local.stat().st_size:
        return
    with local.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield from ((key, "") for key in _keys(data, traces))


def _keys(data: bytes | mmap.mmap, traces: Traces) -> Iterator[str]:
    short = {key[:SHORTEST] for key in traces.keys}
    for match in HEX.finditer(data):
        run = match.group().decode()
        for start in range(len(run) - SHORTEST + 1):  # other digits may stand directly before it
            text = run[start : start + LONGEST]
            if text[:SHORTEST] in short and any(key.startswith(text) for key in traces.keys):
                yield text


def _in_tar(local: Path, traces: Traces) -> Iterator[Hit]:
    with tarfile.open(local) as tar:
        for member in tar:
            key, _, kind = member.name.partition(".")
            yield from ((found, "") for found in _keys(member.name.encode(), traces))
            file = tar.extractfile(member)
            data = file.read() if file is not None else b""
            if kind != "npy":
                yield from ((found, "") for found in _keys(data, traces))
            elif traces.pixels and (pixels := pixels_key(traces.salted, data)) in traces.pixels:
                yield key, "" if key in traces.keys else pixels


def _in_parquet(local: Path, traces: Traces) -> Iterator[Hit]:
    wanted = pa.array(sorted(traces.keys), pa.string())
    with pq.ParquetFile(local) as file:
        patched = (file.schema_arrow.metadata or {}).get(b"kind") == patch_rows.KIND.encode()
        patched = patched and {"key", "latent"} <= {*file.schema_arrow.names}
        for key, value in (file.schema_arrow.metadata or {}).items():
            yield from ((found, "") for found in _keys(key + b" " + value, traces))
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, use_threads=False)
            for name in table.column_names:
                if pa.types.is_string(table[name].type):
                    column = table[name]
                    yield from ((key, "") for key in column.filter(pc.is_in(column, wanted)).to_pylist())
            if not patched:
                yield from _in_latents(table, traces)
        if patched and traces.latents:
            yield from _in_patches(file.read(["key", "latent"], use_threads=False), traces)


def _in_latents(table: pa.Table, traces: Traces) -> Iterator[tuple[str, str]]:
    if not traces.latents or "latent" not in table.column_names:
        return
    keys: Iterable[str] = table["key"].to_pylist() if "key" in table.column_names else [""] * table.num_rows
    for key, row in zip(keys, latent_rows(table["latent"]), strict=True):
        if (latent := latent_key(traces.salted, row)) in traces.latents:
            yield key, "" if key in traces.keys else latent


def _in_patches(table: pa.Table, traces: Traces) -> Iterator[tuple[str, str, bool]]:
    """A scan of which some patches alone have latents of a forgotten one has nothing of it: all air is alike."""
    found: dict[str, list[str]] = defaultdict(list)
    for key, row in zip(table["key"].to_pylist(), latent_rows(table["latent"]), strict=True):
        if any(row):
            found[key].append(latent_key(traces.salted, row))
    for key, latents in found.items():
        if traces.latents.issuperset(latents) and key not in traces.keys:
            yield key, latents[0], True
