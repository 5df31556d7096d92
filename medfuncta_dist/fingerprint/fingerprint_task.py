"""Reading some sources for a fingerprint: one scan in memory at a time; what is wrong with others becomes a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medfuncta_dist.config.sections.series_section import Series
from medfuncta_dist.errors import ScanError
from medfuncta_dist.fingerprint.drawn_sources import DrawnSource
from medfuncta_dist.fingerprint.scan_facts import ScanFacts, facts_of
from medfuncta_dist.fingerprint.smallest_ranks import Drawn, Sample, rank_of
from medfuncta_dist.packing.sources.source_files import Windows, local_files, windows_on
from medfuncta_dist.scans.readers.dicom.series_reader import InstanceFile, series_images, series_volumes
from medfuncta_dist.scans.readers.dicom.stacks import LOCALIZER
from medfuncta_dist.scans.readers.reader import Found, reason_against
from medfuncta_dist.scans.readers.reader_registry import parts_of, reader_for
from medfuncta_dist.storage.sources import no_parts

NOT_FINITE = "no value is finite"
LEFT_OUT = "left out, as data.series says"


@dataclass(frozen=True)
class FingerprintTask:
    """Sources to read. ``scans``: largest number to return. ``reader`` and ``series``: as in the run file."""

    sources: tuple[DrawnSource, ...]
    reader: str | None
    scans: int
    series: Series = field(default_factory=Series)


@dataclass(frozen=True)
class SourcesRead:
    """``scans`` counts those that were found, drawn or not; ``series`` the sources that are one; ``reasons`` the scans,
    or files of series, that were not usable, in fixed words."""

    drawn: list[Drawn[ScanFacts]] = field(repr=False)
    sources: int
    series: int
    scans: int
    reasons: Counter[str]


def fingerprint_task(task: FingerprintTask) -> SourcesRead:
    """The facts of the scans of these sources with the smallest ranks. StorageError, or an error of this machine."""
    sample, reasons, scans, series = Sample[ScanFacts](task.scans), Counter[str](), 0, 0
    with windows_on([drawn.source for drawn in task.sources]) as windows:
        for drawn in task.sources:
            series += drawn.scans != "of the file"
            for found, files in _found(drawn, task, windows, reasons):
                scans += not found.item.startswith("left/")
                _add(sample, drawn, found, files, reasons)
    return SourcesRead(list(sample), len(task.sources), series, scans, reasons)


def _add(sample: Sample[ScanFacts], drawn: DrawnSource, found: Found, files: int, reasons: Counter[str]) -> None:
    rank = rank_of(drawn.source.relative, found.item)
    if isinstance(found.scan, ScanError):
        reasons[found.scan.what] += files
    elif sample.wants(rank):
        series = "" if drawn.scans == "of the file" else rank_of(drawn.source.relative)
        facts = facts_of(found.scan, int(rank[:16], 16), series)
        if facts is None:
            reasons[NOT_FINITE] += files
        else:
            sample.add([Drawn(rank, facts)])


def _found(
    drawn: DrawnSource, task: FingerprintTask, windows: Windows, reasons: Counter[str]
) -> Iterator[tuple[Found, int]]:
    """The scans of a source, and how many files each is; it ends at the first error, as in packing."""
    if drawn.localizers:
        reasons[LOCALIZER] += drawn.localizers
    if drawn.scans != "of the file" and not drawn.source.members:
        return
    parts = parts_of(reader_for(task.reader, drawn.source.uri)) if drawn.scans == "of the file" else no_parts
    with local_files(drawn.source, windows, parts) as (paths, refused):
        if refused:
            reasons[refused] += 1
            return
        try:
            yield from _scans(drawn, paths, task, reasons)
        except Exception as error:
            reasons[reason_against(error)] += 1


def _scans(
    drawn: DrawnSource, paths: Sequence[Path], task: FingerprintTask, reasons: Counter[str]
) -> Iterator[tuple[Found, int]]:
    if drawn.scans == "of the file":
        return _one_each(reader_for(task.reader, drawn.source.uri).scans(paths[0]))
    files = [InstanceFile(path, member.name) for path, member in zip(paths, drawn.source.members, strict=True)]
    return (
        _volumes(files, task.series, reasons)
        if drawn.scans == "volumes of the series"
        else _one_each(series_images(files))
    )


def _one_each(scans: Iterable[Found]) -> Iterator[tuple[Found, int]]:
    return ((found, 1) for found in scans)


def _volumes(files: Sequence[InstanceFile], rule: Series, reasons: Counter[str]) -> Iterator[tuple[Found, int]]:
    for part in series_volumes(files, rule):
        if part.found is None:
            reasons[LEFT_OUT] += part.files
        else:
            yield part.found, part.files
