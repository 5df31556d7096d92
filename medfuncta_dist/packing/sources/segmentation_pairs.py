"""DICOM segmentations and the images that they are of, by the series that their headers name: pure, from rows of the
inventory. Neither names nor folders matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from medfuncta_dist.archive.dicom_header import is_segmentation
from medfuncta_dist.archive.inventory import Row
from medfuncta_dist.packing.sources.pack_source import Mask

COLUMNS = ["relative", "reader", "patient", "series", "instance", "sop_class", "rows", "columns", "refers_to"]
"""Of the inventory, what pairs are told by; of segmentations also ``BYTES``."""
BYTES = ["size", "content", "probe"]

PAIRED = "a DICOM segmentation, kept beside its images"
SEVERAL = "one of several DICOM segmentations of one series: name only the one to pair in data.source"
FOREIGN = "a DICOM segmentation of a series that is another patient's here"
ABSENT = "a DICOM segmentation of a series that is not here"
UNNAMED = "a DICOM segmentation that does not say of which series it is"
COPY = "a copy of a DICOM segmentation"
STRENGTH = (ABSENT, FOREIGN, SEVERAL, PAIRED)
"""What counts of one that names several series: the last that holds for any."""


@dataclass(frozen=True)
class Segmentation:
    """What pairing needs of a file."""

    mask: Mask
    patient: str | None
    """A key."""


@dataclass(frozen=True)
class SegmentationPairs:
    """By SeriesInstanceUID, the segmentations that name the series. ``aside``: files that are nobody's, by reason."""

    of_series: Mapping[str, tuple[Segmentation, ...]] = field(default_factory=dict, repr=False)
    aside: Mapping[str, int] = field(default_factory=dict)

    def of(self, row: Row) -> Mask | None:
        """The segmentation of an image, by its row of the inventory; None where there is none, or more than one."""
        candidates = self._candidates(row)
        return candidates[0].mask if len(candidates) == 1 else None

    def verdicts(self, row: Row) -> dict[str, str]:
        """By the URI of each segmentation that names an image's series, what is to be said of it."""
        named = self.of_series.get(row["series"] or "", ()) if is_image(row) else ()
        candidates = self._candidates(row)
        fits = PAIRED if len(candidates) == 1 else SEVERAL
        return {one.mask.uri: fits if one in candidates else FOREIGN for one in named}

    def counts(self, verdicts: Mapping[str, str]) -> dict[str, int]:
        """Files by what is said of them; of which nothing is, the series is not here."""
        uris = {one.mask.uri for several in self.of_series.values() for one in several}
        return dict(Counter(verdicts.get(uri, ABSENT) for uri in uris) + Counter(self.aside))

    def _candidates(self, row: Row) -> list[Segmentation]:
        if not self.of_series or not is_image(row):
            return []
        named, patient = self.of_series.get(row["series"] or "", ()), row["patient"]
        return [one for one in named if None in (patient, one.patient) or patient == one.patient]


NO_PAIRS = SegmentationPairs()


def is_image(row: Row) -> bool:
    """Whether a row of the inventory is of a DICOM image."""
    return bool(row["reader"] == "dicom" and row["rows"] and row["columns"]) and not is_segmentation(row)


def stronger(one: str, other: str) -> str:
    """Of two verdicts on one segmentation, the one that counts."""
    return max(one, other, key=STRENGTH.index)


def pairs_of(found: Iterable[tuple[Mask, Row]]) -> SegmentationPairs:
    """From the segmentations and their rows. Of copies the first counts."""
    of_series: dict[str, list[Segmentation]] = {}
    aside: Counter[str] = Counter()
    seen = set()
    for mask, row in found:
        same = tuple(row[name] for name in ("instance", *BYTES))
        if row["instance"] and (row["content"] or row["probe"]) and same in seen:
            aside[COPY] += 1
        elif not row["refers_to"]:
            aside[UNNAMED] += 1
        else:
            for series in row["refers_to"]:
                of_series.setdefault(series, []).append(Segmentation(mask, row["patient"]))
        seen.add(same)
    return SegmentationPairs({series: tuple(several) for series, several in of_series.items()}, aside)
