"""The segmentation beside a source: fetched and opened once, for each of its scans."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.packing.sources.pack_source import Mask, PackSource
from medfuncta_dist.packing.sources.source_files import Windows, local_files
from medfuncta_dist.scans.paired_mask import mask_of
from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
from medfuncta_dist.scans.readers.dicom.segmentation_frames import References, Segmentation
from medfuncta_dist.scans.readers.reader_registry import configured_reader, parts_of
from medfuncta_dist.scans.scan import Scan
from medfuncta_dist.scans.scan_key import KeyMaker


@contextmanager
def mask_beside(
    source: PackSource, data: Data, keys: KeyMaker, windows: Windows | None = None
) -> Iterator[MaskBeside | None]:
    """That of a source; None where it has none. Nothing is fetched before it is needed."""
    with ExitStack() as stack:
        names = frozenset(member.name for member in source.members)
        yield MaskBeside(source.mask, names, data, keys, windows, stack) if source.mask else None


@dataclass
class MaskBeside:
    """``names``: of all files of a series, as in ``Member``."""

    _mask: Mask
    _names: Collection[str]
    _data: Data
    _keys: KeyMaker = field(repr=False)
    _windows: Windows | None
    _files: ExitStack
    _path: Path | None = None
    _segmentation: Segmentation | None = None

    def of(self, scan: Scan, names: Collection[str]) -> np.ndarray | None:
        """uint8 (*spatial) of a scan as read; None where the segmentation is of others. ``names``: of the files that
        the scan was made of, where the source is a series. ScanError where it cannot be used."""
        reader = configured_reader(self._data, self._mask.uri)
        if not isinstance(reader, DicomReader):
            return mask_of(reader.scans(self._local()), scan)
        if self._segmentation is None:
            self._segmentation = Segmentation.read(self._local())
        own = set(names) if self._names else {self._mask.image} - {""}
        said = self._says(self._segmentation.references, own)
        return None if said is False else self._segmentation.on(scan, named=said is True)

    def _says(self, references: References, own: Collection[str]) -> bool | None:
        """Whether it names one of these images; None where it names none of the source, and only its place tells."""
        volume = len(own) > 1 and bool(references.derived)
        named = self._keyed(references.derived if volume else references.instances)
        if not own or not named or (self._names and named.isdisjoint(self._names)):
            return None
        return not named.isdisjoint(own)

    def _keyed(self, instances: Collection[str]) -> frozenset[str]:
        return frozenset(self._keys.property_key("instance", instance) for instance in instances)

    def _local(self) -> Path:
        if self._path is None:
            mask = self._mask
            parts = parts_of(configured_reader(self._data, mask.uri))
            file = PackSource("", mask.uri, "", size=mask.size, place=mask.place)
            [path], refused = self._files.enter_context(local_files(file, self._windows, parts))
            if refused:
                raise ScanError(f"its segmentation cannot be read: {refused}")
            self._path = path
        return self._path
