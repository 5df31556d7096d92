"""From one source to encoded samples: read, window, slice, resample, encode; one scan in memory at a time.

A bad scan, or a bad source, is an event like any other: the run goes on. What is not the scan's fault (storage, the
run file, memory) is raised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medfuncta_dist.config.sections.data_section import Data, Slices
from medfuncta_dist.errors import IntegrityError, MedfunctaError, ScanError
from medfuncta_dist.scans.canonical import canonical, slices, split_of, windowed
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.readers.reader_registry import reader_for
from medfuncta_dist.scans.scan import Scan
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.pack_plan import PackSource
from medfuncta_dist.shards.sample import encode
from medfuncta_dist.storage.request_failures import explain, is_machine_failure
from medfuncta_dist.storage.sources import ANONYMOUS_SOURCE, local_copy


@dataclass(frozen=True)
class Encoded:
    """A scan ready for its shard."""

    key: str
    item: str
    split: str
    npy: bytes
    json: bytes


@dataclass(frozen=True)
class BadScan:
    """A scan to quarantine. ``reason``: fixed words and numbers."""

    key: str
    item: str
    reason: str


@dataclass(frozen=True)
class BadSource:
    """A source that could not be read, or broke off after the scans before."""

    reason: str


@dataclass(frozen=True)
class Blank:
    """Slices that the run file's rule leaves out."""

    slices: int


Event = Encoded | BadScan | BadSource | Blank


@dataclass(frozen=True)
class SourceReader:
    """Reads sources as one data set's contract and salt say."""

    data: Data
    keys: KeyMaker

    def events(self, source: PackSource) -> Iterator[Event]:
        """What is in one source. ``IntegrityError`` when two of its scans have one key."""
        seen: set[str] = set()
        with local_copy(source.uri) as path:
            for event in self._guarded(source, path):
                if isinstance(event, Encoded | BadScan):
                    if event.key in seen:
                        raise IntegrityError("two scans of one source have the same key", where=f"source {source.key}")
                    seen.add(event.key)
                yield event

    def _guarded(self, source: PackSource, path: Path) -> Iterator[Event]:
        reader = reader_for(self.data.reader, source.uri)
        try:
            for found in reader.scans(path):
                yield from self._found(source, found)
        except ScanError as error:
            yield BadSource(error.what)
        except (MedfunctaError, MemoryError):
            raise
        except Exception as error:  # a library's: its message may quote the file
            if isinstance(error, OSError) and is_machine_failure(error):
                raise explain(error, ANONYMOUS_SOURCE) from None
            yield BadSource(f"the reader failed: {type(error).__name__}")

    def _found(self, source: PackSource, found: Found) -> Iterator[Event]:
        key = self.keys.scan_key(source.relative, found.item)
        given = source.split or found.split
        try:
            if isinstance(found.scan, ScanError):
                raise found.scan
            if self.data.slices is None:
                yield self._encoded(key, found.item, split_of(key, None, given, self.data), found.scan)
            else:
                yield from self._slices(source, found, windowed(found.scan, self.data), self.data.slices)
        except ScanError as error:
            yield BadScan(key, found.item, error.what)

    def _slices(self, source: PackSource, found: Found, volume: Scan, rule: Slices) -> Iterator[Event]:
        taken = 0
        # The whole volume's key decides the split: neighbouring slices look alike, and must not be parted by chance.
        volume_key, given = self.keys.scan_key(source.relative, found.item), source.split or found.split
        for index, scan in slices(volume, rule):
            taken += 1
            item = "/".join(filter(None, (found.item, f"slice/{index}")))
            split = split_of(volume_key, index, given, self.data)
            yield self._encoded(self.keys.scan_key(source.relative, item), item, split, scan)
        yield Blank(volume.shape[rule.axis] - taken)

    def _encoded(self, key: str, item: str, split: str, scan: Scan) -> Event:
        try:
            return Encoded(key, item, split, *encode(key, canonical(scan, self.data)))
        except ScanError as error:
            return BadScan(key, item, error.what)
        except (MedfunctaError, MemoryError):
            raise
        except Exception as error:
            return BadScan(key, item, f"the canonical transform failed: {type(error).__name__}")
