"""What the driver of the pack stage needs for each source of an archive, up to its tasks: memory, and time.

The archive is simulated where it is listed and surveyed: files of one scan each, or DICOM files of which a series has
100, spread over all of it. Everything else is as ``pack`` does it. Each step is a process of its own, so that the peak
of its memory is its own. ``--huge`` adds ten million files; what is measured is kept in ``pack_memory.jsonl`` of the
folder ``--keep FOLDER``, from where a run that was interrupted goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.archive_survey import memory_mb, peak_gb, salt, simulated
from benchmarks.common import ROOT, Claim, Kept, arguments, report

if TYPE_CHECKING:
    import pyarrow as pa

    from medfuncta_dist.config.sections.data_section import Data
    from medfuncta_dist.packing.archive_state import ArchiveState
    from medfuncta_dist.packing.pack_plan import PackPlan
    from medfuncta_dist.packing.recorded_sources import RecordedSources
    from medfuncta_dist.packing.work_tables import Tables
    from medfuncta_dist.storage.object_store import ObjectInfo

SIZES = {"files": (100_000, 1_000_000), "series": (100_000, 300_000)}
SHORT = {"files": (1_000, 4_000), "series": (1_000, 4_000)}
HUGE = 10_000_000
KINDS = ("first", "same")
MOST_MOVED = 100_000
"""Of more, changes are not measured: they are Python objects, as many as there are."""
PART = 65_536
DATASET = "bench"


def main() -> None:
    huge, folder = _own_arguments()
    short, began = arguments(__doc__).short, time.perf_counter()
    sizes, kept = SHORT if short else SIZES, Kept(folder / "pack_memory.jsonl" if folder else None)
    todo = [(layout, n) for layout, of_layout in sizes.items() for n in of_layout] + [("files", HUGE)] * huge
    for layout, n in todo:
        kept.once(f"{layout}, {n}", lambda layout=layout, n=n: measure(layout, n))  # type: ignore[misc]
    found = kept.results
    slopes = {
        f"{layout}, {kind}": _slope(*(found[f"{layout}, {n}"][kind] for n in of_layout), of_layout[1] - of_layout[0])
        for layout, of_layout in sizes.items()
        for kind in KINDS
    }
    claims = [
        Claim(f"{name}: bytes of the driver's peak memory for each further source", slope, 100, at_least=False)
        for name, slope in slopes.items()
    ]
    table = [
        {
            "archive": name,
            "pack": kind,
            "seconds": one["seconds"],
            "CPU s": one["cpu_s"],
            "peak, GB": one["peak_gb"],
            "tasks": one["tasks"],
        }
        for name, kinds in found.items()
        for kind, one in kinds.items()
    ]
    report("pack_memory", short, began, {"slopes": slopes, **found}, claims, table, NOTES + [KEPT] * bool(folder))


KEPT = "what was kept of earlier runs was not measured again: the seconds of the whole are those of the last run"
NOTES = [
    "first: nothing is packed yet; same: everything is, and nothing has changed; moved: of 100 files, one has other "
    "bytes, one another name, and one is gone: what is changed, renamed or removed are Python objects",
    "seconds: records, listing, survey (of headers that are known), comparison, plan, and the sources of all tasks; "
    "on a machine that other processes use, only the CPU's seconds tell something",
]


def _own_arguments() -> tuple[bool, Path | None]:
    """Whether ``--huge`` was given, and the folder of ``--keep``."""
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--huge", action="store_true")
    parser.add_argument("--keep", type=Path)
    own, sys.argv[1:] = parser.parse_known_args()
    return own.huge, own.keep


def _slope(small: dict[str, Any], large: dict[str, Any], sources: int) -> float:
    return float((large["peak_gb"] - small["peak_gb"]) * 1e9 / sources)


def measure(layout: str, rows: int) -> dict[str, Any]:
    """By kind of pack: what its process says."""
    with tempfile.TemporaryDirectory() as folder:
        _in_process("survey", folder, layout, rows, "first")
        first = _in_process("pack", folder, layout, rows, "first")
        _in_process("record", folder, layout, rows, "first")
        _in_process("survey", folder, layout, rows, "same")
        found = {"first": first, "same": _in_process("pack", folder, layout, rows, "same")}
        if rows <= MOST_MOVED:
            _in_process("survey", folder, layout, rows, "moved")
            found["moved"] = _in_process("pack", folder, layout, rows, "moved")
        return found


def _in_process(*arguments: str | int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.pack_memory", "step", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return dict(json.loads(done.stdout))


def do_step(step: str, folder: Path, layout: str, rows: int, kind: str) -> dict[str, Any]:
    """Seconds, peak memory, and what the step itself says."""
    steps = {"survey": write_survey, "pack": pack, "record": record}
    return steps[step](folder, layout, rows, kind) | {"peak_gb": peak_gb()}


def write_survey(folder: Path, layout: str, rows: int, kind: str) -> dict[str, Any]:
    """The survey of the archive, by which the next one need not read it."""
    import pyarrow.parquet as pq

    from medfuncta_dist.archive.inventory import SCHEMA, SURVEY

    (folder / "private").mkdir(exist_ok=True)
    schema = SCHEMA.with_metadata({**SCHEMA.metadata, b"salt": salt().fingerprint().encode()})
    with pq.ParquetWriter(folder / "private" / SURVEY, schema, compression="zstd") as writer:
        for start in range(0, rows, PART):
            writer.write_table(surveyed(range(start, min(start + PART, rows)), layout, rows, kind).cast(schema))
    return {}


def names(places: range, layout: str, kind: str) -> list[tuple[int, str, bool]]:
    """Number, path and whether the bytes are others, of the files that are there; sorted."""
    suffix = ".npz" if layout == "files" else ""
    found = []
    for n in places:
        if kind == "moved" and n % 100 == 0:
            continue
        mark = "-renamed" if kind == "moved" and n % 100 == 2 else ""
        found.append((n, f"{n // 1000:06d}/{n:09d}{mark}{suffix}", kind == "moved" and n % 100 == 1))
    return found


def surveyed(places: range, layout: str, rows: int, kind: str) -> pa.Table:
    """Rows of these files."""
    import pyarrow as pa

    from medfuncta_dist.archive.inventory import SCHEMA

    there = names(places, layout, kind)
    whole = simulated(places, rows).take([n - places.start for n, _, _ in there])
    paths = [path.encode() for _, path, _ in there]
    digests = [content(n, other) for n, _, other in there]
    columns = {"relative": paths, "identity": paths, "uri": [b"s3://archive/" + path for path in paths]}
    columns |= {"version": digests, "probe": digests, "content": digests}
    if layout == "files":
        dicom = set(whole.column_names) - {*columns, "size", "reader", "problems"}
        columns |= {"reader": ["medmnist"] * len(paths)} | {name: [None] * len(paths) for name in dicom}
    return pa.Table.from_arrays(
        [pa.array(columns[f.name], f.type) if f.name in columns else whole[f.name] for f in SCHEMA], schema=SCHEMA
    )


def content(n: int, other: bool) -> str:
    """A digest of 64 digits."""
    return f"{(n + (2**40 if other else 0)) * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4


def pack(folder: Path, layout: str, rows: int, kind: str) -> dict[str, Any]:
    """The pack stage up to its tasks, of which each is made once. ``base_mb``: what the libraries take."""
    from medfuncta_dist.packing.work_tables import work_tables

    base = memory_mb()
    began, used = time.perf_counter(), time.process_time()
    with work_tables(folder / "private") as tables:
        _, archive, todo = _planned(tables, folder, layout, rows, kind)
        sources = sum(len(group) for group in todo.groups) + sum(len(group.sources) for group in todo.revised)
        assert sources == todo.left
        pages, size = (tables.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return {
            "seconds": time.perf_counter() - began,
            "cpu_s": time.process_time() - used,
            "base_mb": base,
            "changes": archive.changes.counts,
            "tasks": len(todo.groups) + len(todo.revised),
            "disk_mb": pages * size / 1e6,
        }


def record(folder: Path, layout: str, rows: int, kind: str) -> dict[str, Any]:
    """Pack records of all tasks, without any scan, and the inventory of a pack stage that has ended."""
    from medfuncta_dist.packing.pack_ledger import total
    from medfuncta_dist.packing.pack_record import PackRecord, group_name, write_pack
    from medfuncta_dist.packing.work_tables import work_tables
    from medfuncta_dist.storage.object_store import ObjectStore
    from medfuncta_dist.storage.publish import ALONE

    with work_tables(folder / "private") as tables:
        _, archive, todo = _planned(tables, folder, layout, rows, kind)
        for group in todo.groups:
            keys = sorted(source.key for source in group)
            states = {source.key: source.state for source in group if source.state is not None}
            counts = total([]) | {"sources": len(keys), "sources_packed": len(keys)}
            made = PackRecord(group_name(keys), keys, {}, (), counts, states)
            write_pack(ObjectStore(str(folder / "store")), DATASET, made, ALONE)
        archive.adopt()
    return {}


def _planned(
    tables: Tables, folder: Path, layout: str, rows: int, kind: str
) -> tuple[RecordedSources, ArchiveState, PackPlan]:
    from medfuncta_dist.packing.archive_listing import Archive
    from medfuncta_dist.packing.archive_state import examine
    from medfuncta_dist.packing.pack_plan import plan
    from medfuncta_dist.packing.recorded_sources import RecordedSources
    from medfuncta_dist.packing.sources.file_list import FileList
    from medfuncta_dist.packing.sources.source_list import fill_rows
    from medfuncta_dist.packing.sources.source_rows import SourceRows
    from medfuncta_dist.storage.object_store import ObjectStore

    store, keys, data = ObjectStore(str(folder / "store")), salt(), _data(layout)
    ObjectStore.walk = lambda store: _listed(layout, rows, kind)  # type: ignore[method-assign]
    packed, files = RecordedSources(tables, store), SourceRows(tables)
    packed.read(DATASET)
    fill_rows(files, FileList(tables), data, keys, packed.holds, folder=folder / "private", store=store)
    snapshot = [one.name for one in packed.records]
    packed.settle(snapshot)
    archive = examine(Archive(tables, files, packed, data, folder / "private", keys), store, lambda done, total: None)
    todo = plan(archive.sources, packed, snapshot, data.sources_per_task, archive.superseded("drop", "0"))
    return packed, archive, todo


def _data(layout: str) -> Data:
    from medfuncta_dist.config.sections.data_section import Data

    return Data.model_validate(
        {"source": "s3://archive/", "shape": [64, 64], "series": "file" if layout == "files" else {}}
    )


def _listed(layout: str, rows: int, kind: str) -> Iterator[ObjectInfo]:
    """As an S3 server lists the archive."""
    from medfuncta_dist.storage.object_store import ObjectInfo

    for start in range(0, rows, PART):
        for n, path, other in names(range(start, min(start + PART, rows)), layout, kind):
            yield ObjectInfo(path, 40_000, content(n, other))


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        step, folder, layout, rows, kind = sys.argv[2:]
        print(json.dumps(do_step(step, Path(folder), layout, int(rows), kind)))
    else:
        main()
