"""Taking DICOM segmentations out of the files to pack (``data.masks: pair``), each for the images that it is of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from medfuncta_dist.archive.dicom_header import is_segmentation
from medfuncta_dist.archive.inventory import Row
from medfuncta_dist.archive.series_sums import in_series
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.config.sections.series_section import Series
from medfuncta_dist.packing.sources.pack_source import Mask, PackSource
from medfuncta_dist.packing.sources.segmentation_pairs import (
    BYTES,
    COLUMNS,
    NO_PAIRS,
    SegmentationPairs,
    pairs_of,
    stronger,
)
from medfuncta_dist.packing.sources.series_sources import COLUMNS as SERIES_COLUMNS
from medfuncta_dist.packing.sources.series_sources import packed_key
from medfuncta_dist.packing.sources.source_rows import SourceRows
from medfuncta_dist.scans.scan_key import KeyMaker

ROWS = sorted({*COLUMNS, *BYTES, *SERIES_COLUMNS, "identity"})
"""Columns of the inventory that ``read`` gives."""
Found = Iterator[tuple[PackSource, Row | None]]


@dataclass(frozen=True)
class DicomMasks:
    """pairs: for the images of series. keys: under which the segmentations were packed, if they were: earlier versions
    quarantined them. aside: how many there are, by what is said of them."""

    pairs: SegmentationPairs = NO_PAIRS
    keys: frozenset[str] = frozenset()
    aside: dict[str, int] = field(default_factory=dict)


def take_masks(files: SourceRows, read: Callable[[], Found], data: Data, keys: KeyMaker) -> DicomMasks:
    """Remove the segmentations from the files, and give them to images that are sources by themselves. ``read`` gives
    the files and their rows, each time anew. All segmentations are in memory, and no image."""
    if data.masks != "pair":
        return DicomMasks()
    found = [(source, row) for source, row in read() if row is not None and is_segmentation(row)]
    if not found:
        return DicomMasks()
    masks = [(Mask(s.uri, s.size, s.version, s.place), row) for s, row in found]
    packed = frozenset(packed_key(row, data, keys) for _, row in found)
    files.remove([source.relative for source, _ in found])
    pairs, verdicts = pairs_of(masks), dict[str, str]()

    def with_masks() -> Iterator[PackSource]:
        for source, row in read():
            if row is None:
                continue
            for uri, verdict in pairs.verdicts(row).items():
                verdicts[uri] = stronger(verdicts.get(uri, verdict), verdict)
            if (mask := pairs.of(row)) is not None and not (isinstance(data.series, Series) and in_series(row)):
                name = keys.property_key("instance", row["instance"]) if row["instance"] else ""
                yield replace(source, mask=replace(mask, image=name))

    files.replace(with_masks())
    return DicomMasks(pairs, packed, pairs.counts(verdicts))
