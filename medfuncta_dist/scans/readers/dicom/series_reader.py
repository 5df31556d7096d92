"""A DICOM series of single-image files: its volumes, or its images. Every file is in exactly one part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from pydicom.multival import MultiValue

from medfuncta_dist.config.sections.series_section import Series
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.private.forgotten_volumes import NONE_FORGOTTEN, ForgottenVolumes
from medfuncta_dist.scans.readers.dicom.burn_in import burn_in_risk
from medfuncta_dist.scans.readers.dicom.decoder import PIXELS
from medfuncta_dist.scans.readers.dicom.dicom_reader import (
    GEOMETRY,
    SEVERAL,
    DicomReader,
    kind_of,
    read_header,
    read_values,
    volume_of,
)
from medfuncta_dist.scans.readers.dicom.even_slices import even_slices
from medfuncta_dist.scans.readers.dicom.geometry import image_of
from medfuncta_dist.scans.readers.dicom.mosaic import is_mosaic
from medfuncta_dist.scans.readers.dicom.patient import patient_of, study_of
from medfuncta_dist.scans.readers.dicom.stacks import (
    DERIVED,
    DUPLICATE,
    GAP,
    LOCALIZER,
    MIXED,
    TILTED,
    Image,
    Stack,
    assemble,
)
from medfuncta_dist.scans.readers.reader import Found, check_size, refusing
from medfuncta_dist.scans.scan import Scan

KEYS: Final = {MIXED: "mixed", GAP: "gap", TILTED: "tilted", DERIVED: "derived", LOCALIZER: "localizer"}
"""Which key of ``data.series`` says what becomes of images with a reason; all others are under ``other``."""
KEPT = (DERIVED, LOCALIZER)


@dataclass(frozen=True)
class InstanceFile:
    """One file of a series. ``name``: a key that stands for its SOPInstanceUID, for items."""

    path: Path = field(repr=False)
    name: str


@dataclass(frozen=True)
class Part:
    """Something of a series, and how many of its files that is. found: None where the run file leaves it out, or where
    it was forgotten."""

    found: Found | None
    files: int
    forgotten: bool = False
    names: tuple[str, ...] = ()
    """Those of its files, where it is of them alone."""


@dataclass(frozen=True)
class _Instance:
    """What is kept of a header."""

    file: InstanceFile
    risk: str | None
    kind: Mapping[str, Any]
    """``kind_of`` it."""
    patient: str | None = field(repr=False)
    study: str | None = field(repr=False)


def policy(rule: Series, reason: str) -> str:
    """What becomes of images or stacks with this reason: ``quarantine``, ``leave_out``, ``resample`` or ``keep``."""
    return str(getattr(rule, KEYS.get(reason, "other")))


def kept(rule: Series) -> frozenset[str]:
    """The reasons that count for nothing."""
    return frozenset(reason for reason in KEPT if policy(rule, reason) == "keep")


def series_volumes(
    files: Sequence[InstanceFile],
    rule: Series,
    *,
    named: bool = False,
    gone: ForgottenVolumes = NONE_FORGOTTEN,
    suv: bool = False,
) -> Iterator[Part]:
    """The volumes of a series, in RAS+ order ("volume/…"; of a mosaic "mosaic/…"), then what makes none, a part per
    reason ("left/0").

    named: a volume is called by the smallest name of its files, else by its place among the volumes, from 0. ``gone``
    are not read; ``suv`` as in ``DicomReader``. A volume's pixels are in memory at once. Neither the order of the files
    nor their paths matter.
    """
    images, mosaics, refused = _headers(files, kept(rule))
    found = assemble(images, kept(rule))
    for number, stack in enumerate(found.stacks):
        names = [image.place.file.name for image in stack.images]
        item = f"volume/{min(names) if named else number}"
        if gone.holds(number, names):
            yield Part(None, len(names), forgotten=True)
        elif doubt := gone.doubt(names):
            yield Part(Found(item, None, ScanError(doubt)), len(names))
        else:
            yield replace(_of_stack(item, stack, rule, suv), names=tuple(names))
    for file in mosaics:
        yield Part(_alone(file, f"mosaic/{file.name}", suv), 1, names=(file.name,))
    left = refused + Counter(reason for _, reason in found.left)
    for number, reason in enumerate(sorted(left)):
        out = reason not in refused and policy(rule, reason) == "leave_out"
        yield Part(None if out else Found(f"left/{number}", None, ScanError(reason)), left[reason])


def series_images(files: Sequence[InstanceFile], suv: bool = False) -> Iterator[Found]:
    """The images of a series, one per file, in the order of ``files``; each is called after its identifier ("image/…").
    A second one of the same identifier is not usable ("again/…")."""
    seen: set[str] = set()
    for number, file in enumerate(files):
        if file.name in seen:
            yield Found(f"again/{number}", None, ScanError(DUPLICATE))
            continue
        seen.add(file.name)
        yield _alone(file, f"image/{file.name}", suv)


def _alone(file: InstanceFile, item: str, suv: bool) -> Found:
    """What a file of a series is by itself."""
    try:
        found = next(DicomReader(suv).scans(file.path))
    except ScanError as error:
        return Found(item, None, error)
    return replace(found, item=item, alike=True, scan=ScanError(SEVERAL) if found.item else found.scan)


def _headers(
    files: Sequence[InstanceFile], keep: Collection[str]
) -> tuple[list[Image], list[InstanceFile], Counter[str]]:
    """The images whose header can be read (each ``place`` is an ``_Instance``); the mosaics, by name; the other files
    by what is wrong."""
    images: list[Image] = []
    mosaics: dict[str, InstanceFile] = {}
    refused: Counter[str] = Counter()
    for file in files:
        try:
            header = read_header(file.path)
            if is_volume(_values(header, "ImageType"), keep):
                if file.name in mosaics:
                    raise ScanError(DUPLICATE)
                mosaics[file.name] = file
                continue
            with refusing(GEOMETRY):
                images.append(series_image(header, _instance(file, header)))
        except ScanError as error:
            refused[error.what] += 1
    return images, [mosaics[name] for name in sorted(mosaics)], refused


def is_volume(image_type: Sequence[str], keep: Collection[str]) -> bool:
    """Whether an image is a volume by itself, a mosaic; derived ones as the rule says (``kept``)."""
    return is_mosaic(image_type) and (DERIVED in keep or not is_derived(image_type))


def _instance(file: InstanceFile, header: pydicom.Dataset) -> _Instance:
    return _Instance(file, burn_in_risk(header), kind_of(header, [header]), patient_of(header), study_of(header))


def series_image(header: pydicom.Dataset, place: Any) -> Image:
    """What a series is assembled by, of one file."""
    number = header.get("InstanceNumber")
    return replace(
        image_of(header, place),
        instance=str(header.get("SOPInstanceUID") or ""),
        shape=(int(header.Rows), int(header.Columns), int(header.SamplesPerPixel)),
        number=None if number is None else int(number),
        marks=_marks(header),
        localizer=is_localizer(_values(header, "ImageType")),
        derived=is_derived(_values(header, "ImageType")),
    )


def is_localizer(image_type: Sequence[str]) -> bool:
    """By the values of ImageType."""
    return "LOCALIZER" in map(str.upper, image_type)


def is_derived(image_type: Sequence[str]) -> bool:
    """By the values of ImageType (DICOM PS3.3, C.7.6.1.1.2)."""
    return [value.upper() for value in image_type[:1]] == ["DERIVED"]


def _marks(header: pydicom.Dataset) -> tuple[str, ...]:
    """By ``stacks.MARKS``."""
    phase = _joined(header, "NominalPercentageOfCardiacPhase") or _joined(header, "TriggerTime")
    names = ("DiffusionBValue", "ImageType", "ContrastBolusAgent", "ConvolutionKernel")
    return (
        _joined(header, "AcquisitionNumber"),
        _joined(header, "EchoNumbers"),
        phase,
        _joined(header, "TemporalPositionIdentifier"),
        *(_joined(header, name) for name in names),
    )


def _joined(header: pydicom.Dataset, name: str) -> str:
    return "\\".join(_values(header, name))


def _values(header: pydicom.Dataset, name: str) -> list[str]:
    value: Any = header.get(name)
    if value is None or value == "":
        return []
    return [str(one).strip() for one in (value if isinstance(value, MultiValue | list | tuple) else [value])]


def _of_stack(item: str, stack: Stack, rule: Series, suv: bool) -> Part:
    instances = [image.place for image in stack.images]
    wanted = "keep" if stack.problem is None else policy(rule, stack.problem)
    if wanted == "leave_out":
        return Part(None, len(instances))
    first = instances[0]
    scan: Scan | ScanError
    try:
        if wanted == "quarantine":
            raise ScanError(stack.problem or "")
        scan = _volume(stack, instances, suv)
    except ScanError as error:
        scan = error
    risk = next((instance.risk for instance in instances if instance.risk is not None), None)
    return Part(Found(item, None, scan, risk, True, first.patient, first.study), len(instances))


def _volume(stack: Stack, instances: Sequence[_Instance], suv: bool) -> Scan:
    check_size((len(instances), *stack.images[0].shape))
    slices = _slices(instances, suv)
    with refusing(PIXELS):
        values, affine = even_slices(stack, slices) if stack.problem else (np.stack(slices, axis=1), stack.affine)
    del slices
    kinds = [instance.kind for instance in instances]
    unscaled = any(kind["unscaled"] for kind in kinds)
    return volume_of(values, affine, {**kinds[0], "unscaled": unscaled})


def _slices(instances: Sequence[_Instance], suv: bool) -> list[np.ndarray]:
    read = [read_values(instance.file.path, suv) for instance in instances]
    return _with_one_background([values for values, _ in read], [padding for _, padding in read])


def _with_one_background(slices: list[np.ndarray], paddings: list[np.ndarray | None]) -> list[np.ndarray]:
    """The slices in one type, with the smallest value of all that is not padding where they are padded."""
    kind = np.result_type(*{values.dtype for values in slices})
    if kind == np.float64 or kind.itemsize > 4:
        kind = np.dtype(np.float32)
    if any(padding is not None for padding in paddings):
        inner = [
            values if padding is None else values[:, ~padding] for values, padding in zip(slices, paddings, strict=True)
        ]
        lows = [values.min() for values in inner if values.size]
        low = min(lows) if lows else None
        slices = [
            values if padding is None or low is None else np.where(padding, low, values)
            for values, padding in zip(slices, paddings, strict=True)
        ]
    return [values.astype(kind, copy=False) for values in slices]
