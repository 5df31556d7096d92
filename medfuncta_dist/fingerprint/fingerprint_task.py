"""Reading some sources for a fingerprint: one scan in memory at a time; what is wrong with others becomes a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from medfuncta_dist.errors import MedfunctaError, RunFileError, ScanError
from medfuncta_dist.fingerprint.drawn_scans import Drawn, ScanSample, rank_of
from medfuncta_dist.fingerprint.scan_facts import facts_of
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.readers.reader_registry import reader_for
from medfuncta_dist.storage.request_failures import explain, is_machine_failure
from medfuncta_dist.storage.sources import ANONYMOUS_SOURCE, Source, local_copy

NO_READER = "no reader knows its suffix"
NOT_FINITE = "no value is finite"


@dataclass(frozen=True)
class FingerprintTask:
    """Sources to read. ``scans``: largest number to return."""

    sources: tuple[Source, ...] = field(repr=False)
    reader: str | None
    scans: int


@dataclass(frozen=True)
class SourcesRead:
    """``scans`` counts those that were found, drawn or not; ``reasons`` what was not usable, in fixed words."""

    drawn: list[Drawn] = field(repr=False)
    sources: int
    scans: int
    reasons: Counter[str]


def fingerprint_task(task: FingerprintTask) -> SourcesRead:
    """The facts of the scans of these sources with the smallest ranks. StorageError, or an error of this machine."""
    sample, reasons, scans = ScanSample(task.scans), Counter[str](), 0
    for source in task.sources:
        for found in _found(source, task.reader, reasons):
            scans += 1
            _add(sample, found, rank_of(source.relative, found.item), reasons)
    return SourcesRead(list(sample), len(task.sources), scans, reasons)


def _add(sample: ScanSample, found: Found, rank: str, reasons: Counter[str]) -> None:
    if isinstance(found.scan, ScanError):
        reasons[found.scan.what] += 1
    elif sample.wants(rank):
        facts = facts_of(found.scan, int(rank[:16], 16))
        if facts is None:
            reasons[NOT_FINITE] += 1
        else:
            sample.add([Drawn(rank, facts)])


def _found(source: Source, reader: str | None, reasons: Counter[str]) -> Iterator[Found]:
    """The scans of a source; it ends at the first error, as in packing."""
    try:
        chosen = reader_for(reader, source.uri)
    except RunFileError:
        reasons[NO_READER] += 1
        return
    with local_copy(source.uri) as path:
        try:
            yield from chosen.scans(path)
        except ScanError as error:
            reasons[error.what] += 1
        except (MedfunctaError, MemoryError):
            raise
        except Exception as error:  # a library's: its message may quote the file
            if isinstance(error, OSError) and is_machine_failure(error):
                raise explain(error, ANONYMOUS_SOURCE) from None
            reasons[f"the reader failed: {type(error).__name__}"] += 1
