"""From one source to encoded samples: read, window, slice, resample, encode; one scan in memory at a time.

An unusable scan or source is an event like any other: the run goes on. Errors with other causes (storage, the run
file, memory) are raised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from medfuncta_dist.archive.changes import SourceState
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.config.sections.series_section import Series
from medfuncta_dist.errors import IntegrityError, MedfunctaError, ScanError
from medfuncta_dist.packing.mask_beside import MaskBeside, mask_beside
from medfuncta_dist.packing.sources.pack_source import PackSource, Told
from medfuncta_dist.packing.sources.record_parts import record_content
from medfuncta_dist.packing.sources.series_sources import joint_content
from medfuncta_dist.packing.sources.source_files import Windows, local_files
from medfuncta_dist.scans.canonical import canonical, pieces, split_of, windowed
from medfuncta_dist.scans.label_check import NOT_FINITE, risk_of_values
from medfuncta_dist.scans.patient_group import Group, group_of
from medfuncta_dist.scans.private.forgotten_list import NOTHING_FORGOTTEN, Forgotten
from medfuncta_dist.scans.private.forgotten_volumes import ForgottenVolumes, Piece, forgotten_volumes
from medfuncta_dist.scans.readers.dicom.dicom_reader import NO_SCAN, WITHOUT_IMAGE
from medfuncta_dist.scans.readers.dicom.series_reader import InstanceFile, Part, series_images, series_volumes
from medfuncta_dist.scans.readers.reader import Found, reason_against
from medfuncta_dist.scans.readers.reader_registry import configured_reader, parts_of
from medfuncta_dist.scans.scan import Scan
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.scans.shared_window import with_shared_window
from medfuncta_dist.shards.sample import encode
from medfuncta_dist.storage.digest import sha256_file
from medfuncta_dist.storage.sources import Parts, no_parts


@dataclass(frozen=True)
class EncodedScan:
    """A scan ready for its shard."""

    key: str
    item: str
    split: str
    npy: bytes
    json: bytes
    group: Group | None = None
    """Its patient; None in a data set that is split by source."""
    released: bool = False
    """Its file may name or show the patient, and ``data.burned_in: keep`` packs it."""


@dataclass(frozen=True)
class UnusableScan:
    """A scan to quarantine. ``reason``: fixed words and numbers."""

    key: str
    item: str
    reason: str


@dataclass(frozen=True)
class UnusableSource:
    """A source that could not be read, or failed after its earlier scans."""

    reason: str


@dataclass(frozen=True)
class BlankSlices:
    """Slices that are left out by the run file's rule."""

    slices: int


@dataclass(frozen=True)
class WholeContent:
    """What the source's bytes were, once they were read."""

    state: SourceState


SEGMENTATION = "a segmentation, as the file says (data.masks: keep packs it)"


@dataclass(frozen=True)
class SeriesFiles:
    """How many files of a DICOM series became part of a scan, of a quarantined one, or were left out by policy. Of a
    file by itself, only that it was left out. Those of which all scans are forgotten are not counted."""

    packed: int
    quarantined: int
    left_out: int
    volumes: Mapping[str, int] = field(default_factory=dict)
    """Of the first two: the files of each volume, by item, where there are several."""


SCATTERED = (
    "the files of a DICOM series that names no patient lie in folders of several: move them into one, or name their "
    "patient in data.table"
)
Event = EncodedScan | UnusableScan | UnusableSource | BlankSlices | SeriesFiles | WholeContent


class _Place(NamedTuple):
    """What decides the split of a scan: one that is given, or else the key of what stays together. That of slices is
    their patient's, or their volume's: neighbouring slices look alike, so all must be in the same split."""

    split: str | None
    group: Group | None
    key: str


@dataclass(frozen=True)
class SourceReader:
    """Reads sources by one data set's contract and salt."""

    data: Data
    keys: KeyMaker
    windows: Windows | None = field(default=None, repr=False)
    """What is on the local disk of compressed tars."""
    forgotten: Forgotten = field(default=NOTHING_FORGOTTEN, repr=False)
    """What is left out: there is no event of it."""
    beside: MaskBeside | None = field(default=None, repr=False)
    """The segmentation of the source that is being read."""

    def events(self, source: PackSource) -> Iterator[Event]:
        """The scans of one source. ``IntegrityError`` when two of its scans have one key."""
        known_keys: set[str] = set()
        parts: Parts = no_parts
        if not (source.members or source.refused):
            parts = parts_of(configured_reader(self.data, source.uri))
        with (
            local_files(source, self.windows, parts) as (paths, refused),
            mask_beside(source, self.data, self.keys, self.windows) as beside,
        ):
            for event in replace(self, beside=beside)._events(source, paths, refused):
                if isinstance(event, EncodedScan | UnusableScan):
                    if event.key in known_keys:
                        raise IntegrityError("two scans of one source have the same key", where=f"source {source.key}")
                    known_keys.add(event.key)
                yield event
            if source.state is not None:
                yield WholeContent(source.state if refused else self._with_content(source, source.state, paths))

    def _events(self, source: PackSource, paths: Sequence[Path], refused: str) -> Iterator[Event]:
        if source.scattered:
            yield UnusableSource(SCATTERED)
            yield SeriesFiles(0, source.files, 0, {})
        elif source.members:
            yield from self._series(source, paths)
        elif refused:
            yield UnusableSource(refused)
        else:
            yield from self._file(source, paths[0])

    def _with_content(self, source: PackSource, state: SourceState, paths: Sequence[Path]) -> SourceState:
        """Digested here where the survey has not done it: the file has just been read, and is in the page cache."""
        if state.content:
            return state
        if source.beside != ():
            files = [(source.uri, source.size), *((file.uri, file.size) for file in source.beside or ())]
            return replace(state, content=record_content(files, self.keys) if source.beside else "")
        return replace(state, content=self._joint_content(source, paths))

    def _joint_content(self, source: PackSource, paths: Sequence[Path]) -> str:
        known = [member.content for member in source.members] or [""]
        found = [content or self._content(path) for content, path in zip(known, paths, strict=True)]
        return joint_content(found, self.keys) if source.members else found[0]

    def _content(self, path: Path) -> str:
        with suppress(FileNotFoundError, PermissionError):
            if path.stat().st_size:
                return self.keys.property_key("content", sha256_file(path))
        return ""

    def _file(self, source: PackSource, path: Path) -> Iterator[Event]:
        found = configured_reader(self.data, source.uri).scans(path)
        shared = isinstance(self.data.series, Series) and not self.data.takes_volumes
        for event in _guarded(self._each(source, with_shared_window(found, self.data) if shared else found)):
            yield SeriesFiles(0, 0, 1) if self._leaves_out(event) else event

    def _leaves_out(self, event: Event) -> bool:
        """Reports, segmentations and the like beside series make no volume: ``data.series.other`` counts for them."""
        rule = self.data.series
        by_rule = self.data.takes_volumes and isinstance(rule, Series) and rule.other == "leave_out"
        return by_rule and isinstance(event, UnusableSource) and event.reason in (WITHOUT_IMAGE, NO_SCAN)

    def _each(self, source: PackSource, scans: Iterable[Found]) -> Iterator[Event]:
        for found in scans:
            yield from (event for event in self._found(source, found) if not self._is_forgotten(event))

    def _is_forgotten(self, event: Event) -> bool:
        match event:
            case EncodedScan():
                return self.forgotten.holds_scan(event.key, event.group, event.npy, self.keys)
            case UnusableScan():
                return self.forgotten.holds_scan(event.key, None, b"", self.keys)
        return False

    def _series(self, source: PackSource, paths: Sequence[Path]) -> Iterator[Event]:
        """The scans of a DICOM series, and what became of its files: each is counted once."""
        files = [InstanceFile(path, member.name) for path, member in zip(paths, source.members, strict=True)]
        tally, volumes = Counter({"left out": source.copies}), dict[str, int]()
        parts = self._volumes(source, files) if self.data.takes_volumes else self._images(files)
        yield from _guarded(self._parts(source, parts, tally, volumes))
        volumes = volumes if len(volumes) > 1 else {}
        yield SeriesFiles(tally["packed"], source.files - tally.total(), tally["left out"], volumes)

    def _volumes(self, source: PackSource, files: Sequence[InstanceFile]) -> Iterator[Part]:
        assert isinstance(self.data.series, Series)
        named, suv = self.data.volume_names == "instance", self.data.pet == "suv"
        gone = self._gone(source, [file.path for file in files])
        yield from series_volumes(files, self.data.series, named=named, gone=gone, suv=suv)

    def _gone(self, source: PackSource, paths: Sequence[Path]) -> ForgottenVolumes:
        """The forgotten volumes of a series. Their contents are only asked for where there are any."""
        pieces = self.forgotten.pieces_of(source.key)
        content = self._joint_content(source, paths) if pieces else ""
        if self.forgotten.scans and not (pieces or self.forgotten.trusted):
            # Earlier versions kept the key of the volume, and no piece.
            items = (f"volume/{number}" for number in range(len(source.members)))
            keys = ((item, self.keys.scan_key(source.relative, item)) for item in items)
            pieces = [Piece(source.key, item) for item, key in keys if key in self.forgotten.scans]
        return forgotten_volumes(pieces, {member.name for member in source.members}, content)

    def _images(self, files: Sequence[InstanceFile]) -> Iterator[Part]:
        for found in with_shared_window(series_images(files, self.data.pet == "suv"), self.data):
            yield Part(found, 1, names=(found.item.removeprefix("image/"),))

    def _parts(
        self, source: PackSource, parts: Iterable[Part], tally: Counter[str], volumes: dict[str, int]
    ) -> Iterator[Event]:
        labels = {f"image/{member.name}": member.labels for member in source.members}
        for part in parts:
            if part.found is None:
                tally["forgotten" if part.forgotten else "left out"] += part.files
                continue
            lost, forgotten, stays = False, False, False
            labelled = replace(source, labels=labels.get(part.found.item, source.labels))
            for event in self._found(labelled, part.found, part.names):
                if self._is_forgotten(event):
                    forgotten = True
                    continue
                stays |= isinstance(event, EncodedScan | UnusableScan)
                lost |= isinstance(event, UnusableScan) and event.item == part.found.item
                yield event
            if forgotten and not stays:
                tally["forgotten"] += part.files
                continue
            tally["packed"] += 0 if lost else part.files
            if part.found.item.startswith("volume/"):
                volumes[part.found.item] = part.files

    def _found(self, source: PackSource, found: Found, names: Sequence[str] = ()) -> Iterator[Event]:
        """``names`` as in ``Part``."""
        for event in self._scans(source, found, names):
            if isinstance(event, EncodedScan) and found.burn_in is not None:
                event = replace(event, released=True)
            yield event

    def _scans(self, source: PackSource, found: Found, names: Sequence[str]) -> Iterator[Event]:
        key = self.keys.scan_key(source.relative, found.item)
        told = source.told.get(key) or Told(source.split, source.group, source.labels)
        group = group_of(found, told.group, self.data, self.keys)
        whole = "" if found.alike else found.part_of
        alone = key if whole is None else self.keys.scan_key(source.relative, whole)
        place = _Place(told.split or found.split, group, group.key if group and group.key else alone)
        try:
            if isinstance(found.scan, ScanError):
                raise found.scan
            if source.unlisted or (source.told and key not in source.told and self._needs_row):
                raise ScanError("data.table has no row for it")
            if found.burn_in is not None and self.data.burned_in == "refuse":
                raise ScanError(found.burn_in)
            if found.mask and self.data.masks != "keep":
                raise ScanError(SEGMENTATION)
            scan = self._with_mask(self._labelled(found.scan, told, found.label_risk), names)
            if self.data.slices is None and self.data.slabs is None:
                yield self._encoded(key, found.item, place, None, scan)
            else:
                yield from self._pieces(source, found.item, place, windowed(scan, self.data))
        except ScanError as error:
            yield UnusableScan(key, found.item, error.what)

    @property
    def _needs_row(self) -> bool:
        return self.data.table is not None and self.data.table.without_row == "refuse"

    def _labelled(self, scan: Scan, told: Told, risk: str | None) -> Scan:
        """The scan with the table's labels, or its own, where they do not look like identifiers."""
        if told.labels is not None:
            return replace(scan, labels=told.labels, targets=())
        wanted = self.data.identifying_labels
        risk = risk or risk_of_values(scan.labels)
        if wanted == "drop" and (risk or scan.targets):  # of targets all, as earlier versions did
            return replace(scan, labels=(), targets=())
        if not risk or (wanted == "keep" and risk != NOT_FINITE):
            return scan
        raise ScanError(risk)

    def _with_mask(self, scan: Scan, names: Sequence[str]) -> Scan:
        return scan if self.beside is None else replace(scan, mask=self.beside.of(scan, names))

    def _pieces(self, source: PackSource, of_volume: str, place: _Place, volume: Scan) -> Iterator[Event]:
        """The slices or slabs of a volume; a slab's split is that of its slices, which have the same one."""
        taken = 0
        for piece in pieces(volume, self.data):
            taken += piece.slices
            item = "/".join(filter(None, (of_volume, piece.item)))
            key = self.keys.scan_key(source.relative, item)
            scan = piece.scan
            if key in source.told and (labels := source.told[key].labels) is not None:
                scan = replace(scan, labels=labels, targets=())
            yield self._encoded(key, item, place, piece.first, scan)
        axis = 2 if self.data.slices is None else self.data.slices.axis
        yield BlankSlices(volume.shape[axis] - taken)

    def _encoded(self, key: str, item: str, place: _Place, index: int | None, scan: Scan) -> Event:
        split = split_of(place.key, index, place.split, self.data)
        try:
            return EncodedScan(key, item, split, *encode(key, canonical(scan, self.data)), place.group)
        except ScanError as error:
            return UnusableScan(key, item, error.what)
        except (MedfunctaError, MemoryError):
            raise
        except Exception as error:
            return UnusableScan(key, item, f"the canonical transform failed: {type(error).__name__}")


def _guarded(events: Iterator[Event]) -> Iterator[Event]:
    """The events, and as one of them what is wrong with the source."""
    try:
        yield from events
    except Exception as error:
        yield UnusableSource(reason_against(error))
