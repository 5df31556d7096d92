"""Which sources a fingerprint reads: a sample of the files and DICOM series of an archive, zip and tar files included.

Only headers tell which files are a series, so they are read first: those of whole folders, of all files where there are
at most ``MOST_HEADERS``. Pixels are read of the sample only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medfuncta_dist.archive.inventory import Listed, Row
from medfuncta_dist.archive.series_sums import COLUMNS, by_series, grouped, images_of
from medfuncta_dist.archive.survey import OnSurvey, survey
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.config.sections.series_section import Series
from medfuncta_dist.fingerprint.smallest_ranks import Drawn, Sample, rank_of
from medfuncta_dist.packing.sources.pack_source import Member, PackSource
from medfuncta_dist.packing.sources.series_sources import series_identity
from medfuncta_dist.packing.sources.source_list import list_sources
from medfuncta_dist.scans.readers.dicom.series_reader import is_volume, kept
from medfuncta_dist.scans.readers.dicom.stacks import DERIVED, LOCALIZER, Image, assemble
from medfuncta_dist.scans.readers.reader_registry import find_reader
from medfuncta_dist.scans.scan_key import SALT_BYTES, KeyMaker

MOST_HEADERS = 2**16
"""DICOM files: a minute or two. Of the first folder that is drawn, all: a series is of use only if it is whole."""
MOST_SLICES = 32
"""Files of series that are read per source that is asked for: 16 384 for 512, some 8 GB of CT. One series is read
whatever its size."""
DICOM = "dicom"

Scans = Literal["of the file", "volumes of the series", "images of the series"]


@dataclass(frozen=True)
class DrawnSource:
    """A source to read, and what of it is a scan. localizers: images of a series that are left out."""

    source: PackSource = field(repr=False)
    scans: Scans = "of the file"
    localizers: int = 0


@dataclass(frozen=True)
class Archive:
    """How much there is. A series is one source; a DICOM file whose header was not read is none: nobody knows what it
    belongs to.

    files: those that a reader takes; ``dicom`` of them are to be told by their headers, of which ``headers`` were read.
    aside: files that are not read, by reason.
    """

    files: int
    dicom: int
    headers: int
    sources: int
    series: int
    aside: Mapping[str, int]


def draw_sources(data: Data, most: int, folder: Path, on_survey: OnSurvey) -> tuple[list[DrawnSource], Archive]:
    """At most ``most`` sources, by rank, and how much there is.

    ``folder`` gets what headers say, identifiers too: it is for the owner only. Raises RunFileError where nothing can
    be read; StorageError.
    """
    keys = KeyMaker(bytes(SALT_BYTES))  # no secret: nothing that is keyed by it outlives the command
    rule = Series() if data.series is None else data.series
    listed, aside = list_sources(data, keys, folder=folder)
    files = {source.relative: source for source in listed}
    dicom = [source for source in listed if isinstance(rule, Series) and _is_dicom(source, data)]
    known = whole_folders(dicom, MOST_HEADERS)
    for source in dicom:
        del files[source.relative]
    left, sample, series = {source.relative: source for source in known}, Sample[DrawnSource](most), 0
    if known and isinstance(rule, Series):
        inventory = survey([_listed(source) for source in known], folder, keys, on_survey)
        for rows in by_series(inventory, columns=["relative", *COLUMNS]):
            series += _offer_series(sample, rows, left, rule, keys)
    files |= left
    sample.add(Drawn(rank_of(relative), DrawnSource(source)) for relative, source in files.items())
    counts = Archive(len(listed), len(dicom), len(known), series + len(files), series, aside)
    return list(_affordable(sample, MOST_SLICES * most)), counts


def whole_folders(sources: Sequence[PackSource], most: int) -> list[PackSource]:
    """All sources, or those of as many folders as have at most ``most``, of one at least."""
    if len(sources) <= most:
        return list(sources)
    folders: dict[str, list[PackSource]] = defaultdict(list)
    for source in sources:
        folders[source.relative.rpartition("/")[0]].append(source)
    found: list[PackSource] = []
    for folder in sorted(folders, key=rank_of):
        if found and len(found) + len(folders[folder]) > most:
            break
        found += folders[folder]
    return found


def holds_volumes(images: Sequence[Image], rule: Series) -> bool:
    """Whether several images of a series are a stack, regular or not: then it is meant as a volume. A mosaic is one."""
    if any(is_volume(image.place["image_type"] or [], kept(rule)) for image in images):
        return True
    return any(len(stack.images) > 1 for stack in assemble(images, kept(rule) | {DERIVED}).stacks)


def _is_dicom(source: PackSource, data: Data) -> bool:
    reader = find_reader(data.reader, source.uri)
    return reader is not None and reader.name == DICOM


def _listed(source: PackSource) -> Listed:
    return Listed(
        source.relative, source.uri, source.size, source.version, DICOM, place=source.place, refused=source.refused
    )


def _offer_series(
    sample: Sample[DrawnSource], rows: Iterable[Row], left: dict[str, PackSource], rule: Series, keys: KeyMaker
) -> int:
    """Offer the series of some rows, and take their files from ``left``; how many series there are."""
    found = grouped(rows).values()
    for members in found:
        files = {row["relative"]: left.pop(row["relative"].decode("utf-8", "surrogateescape")) for row in members}
        rank = rank_of(series_identity(members[0]))
        if sample.wants(rank):
            sample.add([Drawn(rank, _series(members, files, rule, keys))])
    return len(found)


def _series(rows: Sequence[Row], files: Mapping[bytes, PackSource], rule: Series, keys: KeyMaker) -> DrawnSource:
    """As a source of several files, without copies."""
    images = sorted(images_of(rows), key=lambda image: (image.instance, image.place["relative"]))
    volumes = holds_volumes(images, rule)
    apart = not volumes and LOCALIZER not in kept(rule)
    wanted = [image for image in images if not (apart and image.localizer)]
    read = [(files[image.place["relative"]], keys.property_key("instance", image.instance)) for image in wanted]
    source = PackSource(
        "",
        files[images[0].place["relative"]].uri,
        series_identity(rows[0]),
        members=tuple(Member(file.uri, name, file.size, place=file.place) for file, name in read),
    )
    scans: Scans = "volumes of the series" if volumes else "images of the series"
    return DrawnSource(source, scans, len(images) - len(wanted))


def _affordable(sample: Iterable[Drawn[DrawnSource]], slices: int) -> Iterator[DrawnSource]:
    """The sample without the series that come after as many files of series as ``slices``."""
    total = 0
    for _, drawn in sample:
        count = len(drawn.source.members)
        total += count
        if not count or total <= max(slices, count):
            yield drawn
