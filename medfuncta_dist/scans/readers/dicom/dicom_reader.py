"""DICOM: images, (row, column) as displayed, and multi-frame files whose frames are a volume or an image each; mosaics.

Values are in the modality's units (rescale slope and intercept, or the modality table, applied); MONOCHROME1, where low
is bright, is inverted, so that high is bright in every scan. Overlays are never drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.orientation import closest_ras
from medfuncta_dist.scans.readers.dicom.burn_in import burn_in_risk
from medfuncta_dist.scans.readers.dicom.decoder import DECODER, PIXELS
from medfuncta_dist.scans.readers.dicom.file import NOT_DICOM, opened, read_dataset
from medfuncta_dist.scans.readers.dicom.geometry import (
    FrameStack,
    Header,
    affine_of,
    frame_headers,
    image_of,
    pixel_size,
    stack_of,
)
from medfuncta_dist.scans.readers.dicom.mosaic import is_mosaic, mosaic_of, tiles
from medfuncta_dist.scans.readers.dicom.patient import patient_of, study_of
from medfuncta_dist.scans.readers.dicom.pixels import (
    DECODERS,
    check_syntax,
    decoded,
    in_hounsfield,
    values_and_padding,
    values_of,
)
from medfuncta_dist.scans.readers.dicom.suv import PET, suv_factor
from medfuncta_dist.scans.readers.reader import Found, check_inflation, check_size, refusing, silence_logger
from medfuncta_dist.scans.scan import Scan, stored

silence_logger("pydicom")

GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
MODALITIES = {"MR": "MR", "CT": "CT", "US": "US"} | dict.fromkeys(("CR", "DX", "MG", "PX", "RF", "XA", "IO"), "XR")
DERIVED = ("SEG", "RTDOSE")  # labels and doses, not scans
SEGMENTATIONS = "1.2.840.10008.5.1.4.1.1.66"
"""So begin the SOP classes of segmentations, surfaces and label maps (.4, .5, .7), and those of registrations: whatever
modality such a file names, it is no image."""
WITHOUT_IMAGE = "a DICOM file without an image"
NO_SCAN = "a DICOM segmentation or dose, not a scan"
GEOMETRY = "the DICOM file's geometry is damaged"


class DicomReader:
    """A file's image, or the volume of a mosaic. Of several frames: one volume if they form a regular stack, else an
    image each ("frame/3").

    suv: a PET's values are standardized uptake values; where its header does not allow that, the scan is not usable.
    """

    name = "dicom"
    suffixes: tuple[str, ...] = (".dcm", ".dicom", ".ima", "")

    def __init__(self, suv: bool = False) -> None:
        self._suv = suv

    def for_data(self, data: Data) -> DicomReader:
        """The reader that follows a run file."""
        return DicomReader(data.pet == "suv")

    def scans(self, path: Path) -> Iterator[Found]:
        """The file's image, its volume (RAS+), or its frames."""
        file = replace(_read(path), suv=self._suv)
        with refusing(GEOMETRY):
            headers = frame_headers(file.dataset, file.frames)
            stack = stack_of(headers)
            risk, patient, study = burn_in_risk(file.dataset), patient_of(file.dataset), study_of(file.dataset)
        if stack is not None:
            yield Found("", None, _volume(file, headers, stack), risk, group=patient, study=study)
            return
        if file.frames == 1 and is_mosaic(file.dataset.get("ImageType") or ()):
            yield Found("", None, _mosaic(file, headers[0]), risk, group=patient, study=study)
            return
        alike = file.frames > 1
        for index, header in enumerate(headers):
            item = f"frame/{index}" if alike else ""
            yield Found(item, None, _image(file, header, index), risk, alike, patient, study)


@dataclass(frozen=True)
class ImageFile:
    """A data set whose pixels are still encoded, checked by its header."""

    path: Path
    dataset: pydicom.Dataset
    frames: int
    number: int = field(default_factory=count().__next__)
    """Another one for each time that a file is opened."""
    suv: bool = False
    """As in ``DicomReader``."""

    def decoded(self, index: int) -> np.ndarray:
        """One frame as stored."""
        if self.dataset.file_meta.TransferSyntaxUID in DECODERS:
            return DECODER.frame(self.path, index, self.frames, self.number)
        return decoded(self.dataset, index, self.frames)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        return int(self.dataset.Rows), int(self.dataset.Columns)

    def in_units(self, values: np.ndarray) -> np.ndarray:
        """Values in the modality's units, or those of a PET in g/ml where that is asked for."""
        if not (self.suv and self.dataset.get("Modality") == PET):
            return values
        return stored(values.astype(np.float64) * suv_factor(self.dataset))


def _read(path: Path) -> ImageFile:
    with refusing(NOT_DICOM):
        file = opened(path)
    with file:
        with refusing(NOT_DICOM):
            frames = _check_image(read_dataset(file, stop_before_pixels=True), path.stat().st_size)
        with refusing(PIXELS):
            return ImageFile(path, read_dataset(file), frames)


SEVERAL = "a DICOM file of several frames among those of one image"


def read_header(path: Path) -> pydicom.Dataset:
    """The data set of a file of one image, without its pixels. ScanError where it is no such file."""
    with refusing(NOT_DICOM), opened(path) as file:
        dataset = read_dataset(file, stop_before_pixels=True)
        if _check_image(dataset, path.stat().st_size) != 1:
            raise ScanError(SEVERAL)
        return dataset


def read_values(path: Path, suv: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (channel, row, column) of a file of one image, and where they are padding (see ``values_and_padding``).

    ``suv`` as in ``DicomReader``.
    """
    with refusing(PIXELS):
        with opened(path) as opened_file:
            dataset = read_dataset(opened_file)
        if _check_image(dataset, path.stat().st_size) != 1:
            raise ScanError(SEVERAL)
        file = ImageFile(path, dataset, 1, suv=suv)
        values, padding = values_and_padding(file.decoded(0)[None], dataset, [dataset])
        return file.in_units(values[:, 0]), None if padding is None else padding[0]


def _check_image(dataset: pydicom.Dataset, size: int) -> int:
    """The number of frames. ``size``: of the file in bytes."""
    if "Rows" not in dataset or "Columns" not in dataset:
        raise ScanError(WITHOUT_IMAGE)
    if dataset.get("Modality") in DERIVED or str(dataset.get("SOPClassUID") or "").startswith(f"{SEGMENTATIONS}."):
        raise ScanError(NO_SCAN)
    samples, frames = int(dataset.SamplesPerPixel), int(dataset.get("NumberOfFrames") or 1)
    if dataset.get("PhotometricInterpretation") not in {1: GREY, 3: COLOUR}.get(samples, ()):
        raise ScanError("a DICOM photometric interpretation that is not read")
    if dataset.BitsAllocated not in (8, 16, 32):
        raise ScanError("a DICOM image of other than 8, 16 or 32 bits")
    if not 1 <= frames <= size:
        raise ScanError("the DICOM header declares an impossible number of frames")
    check_syntax(dataset)
    values = frames * check_size((int(dataset.Rows), int(dataset.Columns), samples))
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        check_inflation(values * dataset.BitsAllocated // 8, size)
    return frames


def _image(file: ImageFile, header: Header, index: int) -> Scan:
    with refusing(PIXELS):
        array = file.in_units(values_of(file.decoded(index)[None], file.dataset, [header])[:, 0])
    with refusing(GEOMETRY):
        place = pixel_size(header), affine_of(header)
        return Scan(np.ascontiguousarray(array), *place, **kind_of(file.dataset, [header]))


def _mosaic(file: ImageFile, header: Header) -> Scan:
    with refusing(GEOMETRY):
        mosaic = mosaic_of(file.dataset, image_of(header, None))
    with refusing(PIXELS):
        values = file.in_units(values_of(file.decoded(0)[None], file.dataset, [header]))
        slices = np.stack([tiles(channel[0], mosaic) for channel in values])
    return volume_of(slices, mosaic.affine, kind_of(file.dataset, [header]))


def _volume(file: ImageFile, headers: list[Header], stack: FrameStack) -> Scan:
    dataset = file.dataset
    check_size((file.frames, int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel)))
    with refusing(PIXELS):
        pixels = np.stack([file.decoded(index) for index in stack.order])
        values = file.in_units(values_of(pixels, dataset, [headers[index] for index in stack.order]))
    return volume_of(values, stack.affine, kind_of(dataset, headers))


def volume_of(values: np.ndarray, affine: np.ndarray, kind: Mapping[str, Any]) -> Scan:
    """(channel, slice, row, column), and (row, column, slice, 1) -> RAS mm, as a volume in RAS+ order; `kind_of` it."""
    with refusing(GEOMETRY):
        array, affine = closest_ras(values.transpose(2, 3, 1, 0), affine)
        array = np.ascontiguousarray(np.moveaxis(array, -1, 0))
        spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
        return Scan(array, spacing, affine, **kind)


def kind_of(dataset: pydicom.Dataset, headers: Sequence[Header]) -> dict[str, Any]:
    """Modality (one of ``scan.MODALITIES``) and whether it is a CT whose values are no Hounsfield units."""
    modality = MODALITIES.get(str(dataset.get("Modality")), "OT")
    return {"modality": modality, "unscaled": modality == "CT" and not all(map(in_hounsfield, headers))}
