"""What the series of an inventory would give, by their headers alone: volumes, images, and files that give none.

Rows come in any order. An inventory too large for the memory is first cut into parts, by series.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medfuncta_dist.archive.inventory import BATCH, Row
from medfuncta_dist.config.sections.series_section import Series
from medfuncta_dist.scans.readers.dicom.series_reader import is_derived, is_localizer, is_volume, kept, policy
from medfuncta_dist.scans.readers.dicom.stacks import DUPLICATE, Image, assemble

COLUMNS = [
    *("reader", "content", "patient", "study", "series", "instance", "image_type", "rows", "columns", "frames"),
    *("orientation", "position", "pixel_spacing", "instance_number", "acquisition", "echo", "temporal", "phase"),
]
PART_ROWS = 50_000
"""Rows that are Python objects at once."""
MOST_PARTS = 256
"""Files that are open at once."""


@dataclass(frozen=True)
class SeriesSums:
    """``volumes``: those that would be packed; None where series are packed as images. ``files``: of one image, in a
    series; those that would be part of a scan are ``usable``. ``reasons``: of all others."""

    files: int = 0
    usable: int = 0
    volumes: int | None = None
    reasons: dict[str, int] = field(default_factory=dict)


def in_series(row: Row) -> bool:
    """Whether a row of the inventory is a file of one image in a series."""
    one_image = row["rows"] and row["columns"] and (row["frames"] or 1) == 1
    return bool(row["reader"] == "dicom" and one_image and row["series"] and row["instance"])


def series_sums(inventory: Path, rule: Series, as_volumes: bool) -> SeriesSums:
    """Sums over all series. Copies of a file in its series count as left out."""
    files = usable = volumes = 0
    reasons: Counter[str] = Counter()
    for rows in by_series(inventory):
        for members in grouped(rows).values():
            good, stacks, bad = _of_series(members, rule, as_volumes)
            files, usable, volumes = files + len(members), usable + good, volumes + stacks
            reasons.update(bad)
    return SeriesSums(files, usable, volumes if as_volumes else None, dict(sorted(reasons.items())))


def grouped(rows: Iterable[Row]) -> dict[tuple[str | None, ...], list[Row]]:
    """The files in series, by patient (key), study and series."""
    series: dict[tuple[str | None, ...], list[Row]] = defaultdict(list)
    for row in filter(in_series, rows):
        series[row["patient"], row["study"], row["series"]].append(row)
    return series


def by_series(
    inventory: Path, part_rows: int = PART_ROWS, columns: Sequence[str] = tuple(COLUMNS)
) -> Iterator[list[Row]]:
    """The rows in parts of about ``part_rows``: all of a series are in the same one. Paths are bytes."""
    with pq.ParquetFile(inventory) as file, tempfile.TemporaryDirectory(dir=inventory.parent) as folder:
        parts = min(-(-file.metadata.num_rows // part_rows), MOST_PARTS)
        if parts <= 1:
            yield file.read(list(columns), use_threads=False).to_pylist()
            return
        places = [Path(folder, f"{number}.parquet") for number in range(parts)]
        _cut(file, places, columns)
        for place in places:
            yield pq.read_table(place).to_pylist()


def _cut(file: pq.ParquetFile, places: Sequence[Path], columns: Sequence[str]) -> None:
    schema = pa.schema([file.schema_arrow.field(name) for name in columns])
    with ExitStack() as writers:
        outs = [writers.enter_context(pq.ParquetWriter(place, schema)) for place in places]
        for batch in file.iter_batches(BATCH * 16, columns=list(columns), use_threads=False):
            part = _parts(batch["series"], len(places))
            for number in np.unique(part):
                outs[number].write_batch(batch.filter(pa.array(part == number)))


def _parts(series: pa.Array, parts: int) -> np.ndarray:
    """(row,) of whole numbers: the part of each row."""
    found = series.dictionary_encode()
    number = np.array([crc32(text.encode()) % parts for text in found.dictionary.to_pylist()] + [0])
    return np.asarray(number[found.indices.fill_null(len(number) - 1).to_numpy(zero_copy_only=False)])


def _of_series(rows: Sequence[Row], rule: Series, as_volumes: bool) -> tuple[int, int, Counter[str]]:
    """Usable files, volumes, and the reasons against the other files."""
    if as_volumes:
        tiled = [row for row in rows if is_volume(row["image_type"] or [], kept(rule))]
        rows = [row for row in rows if not is_volume(row["image_type"] or [], kept(rule))]
    images = list(images_of(rows))
    reasons: Counter[str] = Counter()
    if not as_volumes:
        apart = len({image.instance for image in images})
        if again := len(images) - apart:
            reasons[DUPLICATE] = again
        return apart, 0, reasons
    found = assemble(images, kept(rule))
    good = [s for s in found.stacks if s.problem is None or policy(rule, s.problem) == "resample"]
    for stack in found.stacks:
        if stack.problem is not None and policy(rule, stack.problem) != "resample":
            reasons[stack.problem] += len(stack.images)
    reasons.update(reason for _, reason in found.left)
    mosaics = list(images_of(tiled))
    apart = len({image.instance for image in mosaics})
    if again := len(mosaics) - apart:
        reasons[DUPLICATE] += again
    return sum(len(stack.images) for stack in good) + apart, len(good) + apart, reasons


def images_of(rows: Iterable[Row]) -> Iterator[Image]:
    """What series are assembled by, without copies; each ``place`` is its row. The inventory does not hold all marks
    that the files have."""
    seen = set()
    for row in rows:
        if row["content"] is not None and (row["instance"], row["content"]) in seen:
            continue
        seen.add((row["instance"], row["content"]))
        kind = row["image_type"] or []
        yield Image(
            row,
            row["instance"],
            (row["rows"], row["columns"]),
            _numbers(row["pixel_spacing"]),  # type: ignore[arg-type]
            _numbers(row["orientation"]),
            _numbers(row["position"]),
            row["instance_number"],
            (
                row["acquisition"] or "",
                row["echo"] or "",
                row["phase"] or "",
                row["temporal"] or "",
                "",
                "\\".join(kind),
            ),
            is_localizer(kind),
            is_derived(kind),
        )


def _numbers(values: list[float] | None) -> tuple[float, ...] | None:
    return tuple(values) if values else None
