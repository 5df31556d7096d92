"""DICOM series of the kinds that no installed package carries, written small, for ``series_volumes``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

AXIAL, SAGITTAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CT, MR, PET, NM = "2", "4", "128", "20"
"""Ends of the storage classes."""
ENHANCED_MR = "4.1"
SLICES, ROWS, COLUMNS = 12, 16, 20
SPACING = (0.9, 0.7)


def made_series(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """(what it is, its files), each in a folder of its own."""
    oblique = rotated(0.3, 0.2, 0.1)
    for name, orientation, step, elements in (
        ("axial, from head to feet", AXIAL, -2.5, {}),
        ("sagittal, from left to right", SAGITTAL, -1.0, {}),
        ("oblique, as exact as numbers are", oblique, 2.5, {}),
        ("oblique, cosines of six digits, positions of three decimals", rounded(oblique, 6), 2.5, {"decimals": 3}),
        ("PET, each slice with its own slope", AXIAL, 3.0, {"kind": PET, "slopes": np.linspace(0.5, 2, SLICES)}),
        ("two echoes at each place", oblique, 2.0, {"kind": MR, "echoes": 2}),
    ):
        yield name, single_images(folder / name, orientation, step, **elements)  # type: ignore[arg-type]
    for name, orientation, step in (
        ("nuclear medicine, along the normal", AXIAL, 2.0),
        ("nuclear medicine, against the normal", AXIAL, -2.0),
        ("nuclear medicine, oblique, against the normal", oblique, -1.5),
    ):
        yield name, [nuclear(folder / name, orientation, step)]
    yield "enhanced MR, frames in no order", [enhanced(folder / "enhanced", rounded(oblique, 6), 1.1)]


def rotated(*angles: float) -> tuple[float, ...]:
    """Direction cosines of a plane that is turned about the three axes."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        one, other = (a for a in range(3) if a != axis)
        step = np.eye(3)
        step[[one, other], [one, other]] = np.cos(angle)
        step[one, other], step[other, one] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    return tuple(turn[:, :2].T.ravel())


def rounded(numbers: Sequence[float], decimals: int) -> tuple[float, ...]:
    """As a scanner writes them."""
    return tuple(round(float(number), decimals) for number in numbers)


def pixels(seed: int) -> np.ndarray:
    """(slice, row, column), int16."""
    return np.random.default_rng(seed).integers(0, 2000, (SLICES, ROWS, COLUMNS)).astype(np.int16)


def positions(orientation: Sequence[float], step: float) -> np.ndarray:
    """(slice, 3), LPS mm."""
    across, down = np.reshape(orientation, (2, 3))
    return np.array([-61.3, 42.7, 17.9]) + np.arange(SLICES)[:, None] * step * np.cross(across, down)


def single_images(
    folder: Path,
    orientation: Sequence[float],
    step: float,
    *,
    kind: str = CT,
    decimals: int = 10,
    slopes: Sequence[float] = (1.0,) * SLICES,
    echoes: int = 1,
) -> list[Path]:
    """A file per slice and echo, in no order."""
    folder.mkdir(parents=True)
    places, paths = positions(orientation, step), []
    for number in np.random.default_rng(0).permutation(SLICES * echoes):
        index, echo = divmod(int(number), echoes)
        dataset = image(pixels(echo)[index], kind, str(number))
        dataset.ImageOrientationPatient = list(rounded(orientation, 10))
        dataset.ImagePositionPatient = list(rounded(places[index], decimals))
        dataset.InstanceNumber, dataset.SliceThickness = int(number) + 1, abs(step)
        dataset.RescaleSlope, dataset.RescaleIntercept = float(slopes[index]), -10
        if echoes > 1:
            dataset.EchoNumbers, dataset.EchoTime = echo + 1, 10 * (echo + 1)
        paths.append(folder / f"{len(paths):03d}")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def nuclear(path: Path, orientation: Sequence[float], step: float) -> Path:
    """Reconstructed slices in one file (DICOM PS3.3 C.8.4)."""
    from pydicom import Dataset

    dataset = image(pixels(0), NM, "nm")
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    dataset.SpacingBetweenSlices, dataset.SliceThickness, dataset.NumberOfSlices = step, abs(step), SLICES
    dataset.FrameIncrementPointer, dataset.SliceVector = 0x00540080, list(range(1, SLICES + 1))
    detector = Dataset()
    detector.ImageOrientationPatient = list(rounded(orientation, 10))
    detector.ImagePositionPatient = list(positions(orientation, step)[0])
    dataset.DetectorInformationSequence = [detector]
    dataset.save_as(path, enforce_file_format=True)
    return path


def enhanced(path: Path, orientation: Sequence[float], step: float) -> Path:
    """An enhanced MR, its frames in no order."""
    dataset, places = image(pixels(0), ENHANCED_MR, "enhanced"), positions(orientation, step)
    del dataset.PixelSpacing
    order = np.random.default_rng(0).permutation(SLICES)
    dataset.PixelData = pixels(0)[order].tobytes()
    measures = item(PixelSpacing=list(SPACING), SliceThickness=step, SpacingBetweenSlices=step)
    plane = item(ImageOrientationPatient=list(rounded(orientation, 10)))
    dataset.SharedFunctionalGroupsSequence = [item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[plane])]
    dataset.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=list(rounded(places[index], 10)))],
            FrameContentSequence=[item(DimensionIndexValues=[1, int(index) + 1], InStackPositionNumber=int(index) + 1)],
            PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-10, RescaleType="US")],
        )
        for index in order
    ]
    dataset.save_as(path, enforce_file_format=True)
    return path


def item(**elements: Any) -> Any:
    """An item of a sequence."""
    from pydicom import Dataset

    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def image(values: np.ndarray, kind: str, name: str) -> Any:
    """A data set with pixels: (row, column), or (frame, row, column)."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = f"1.2.840.10008.5.1.4.1.1.{kind}"
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["benchmark", kind, name])
    dataset.Modality = {CT: "CT", PET: "PT", NM: "NM"}.get(kind, "MR")
    dataset.PatientID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "made", "1.2.3", "1.2.3.4"
    dataset.SeriesNumber, dataset.ImageType = 1, ["ORIGINAL", "PRIMARY", "M"]
    dataset.PixelSpacing, dataset.PhotometricInterpretation = list(SPACING), "MONOCHROME2"
    dataset.Rows, dataset.Columns = values.shape[-2:]
    if values.ndim == 3:
        dataset.NumberOfFrames = len(values)
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelData = values.tobytes()
    return dataset
