"""Synthetic scans, written as real files of every format that is read. One place, used by all tests.

Every picture is smooth, structured (a bright body with blobs in it) and a pure function of its seed. Formats that have
room for a patient's name get ``PATIENT``, so that a test can search outputs for it.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
    generate_uid,
)

PATIENT = "Doe^Jane"
PATIENT_ID = "PID-4711-0815"
PATIENT_UID = "1.2.826.0.1.3680043.8.498.20240131"

MIT_BIH_SAMPLES = 187


def structured(shape: Sequence[int], seed: int = 0, label: int = 0) -> np.ndarray:
    """A smooth picture in [0, 1], float32 of the given shape; ``label`` 1 adds one bright blob that ``0`` lacks."""
    rng = np.random.default_rng([seed, 77])
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = np.sqrt(sum((x / rng.uniform(0.7, 0.95)) ** 2 for x in axes))
    picture = 0.5 / (1 + np.exp((radius - 0.9) * 20))
    for _ in range(4):
        picture = picture + rng.uniform(0.05, 0.2) * _blob(
            axes, rng.uniform(-0.5, 0.5, len(axes)), rng.uniform(0.1, 0.3)
        )
    if label:
        picture = picture + 0.5 * _blob(axes, np.full(len(axes), 0.3), 0.2)
    return (picture / max(1.0, float(picture.max()))).astype(np.float32)


def _blob(axes: Sequence[np.ndarray], centre: np.ndarray, width: float) -> np.ndarray:
    squares = np.sum([(x - c) ** 2 for x, c in zip(axes, centre, strict=True)], axis=0)
    return np.asarray(np.exp(-squares / (2 * width**2)))


def write_nifti(
    path: Path,
    shape: Sequence[int] = (24, 28, 20),
    seed: int = 0,
    *,
    affine: np.ndarray | None = None,
    array: np.ndarray | None = None,
) -> Path:
    """A NIfTI volume (int16, 0..1000 unless ``array`` is given); default affine: RAS+, 2 x 1.5 x 3 mm, off centre."""
    if array is None:
        array = np.rint(structured(shape, seed) * 1000).astype(np.int16)
    if affine is None:
        affine = np.array([[2, 0, 0, -20.0], [0, 1.5, 0, 10], [0, 0, 3, 5], [0, 0, 0, 1]])
    image = nib.Nifti1Image(array, affine)  # type: ignore[no-untyped-call]
    image.header["descrip"] = PATIENT.encode()
    nib.save(image, path)
    return path


def write_nifti_pair(folder: Path, name: str = "pair", *, array: np.ndarray, affine: np.ndarray) -> tuple[Path, Path]:
    """The same as a pair of files: (header, values)."""
    nib.save(nib.Nifti1Pair(array, affine), folder / f"{name}.img")  # type: ignore[no-untyped-call]
    return folder / f"{name}.hdr", folder / f"{name}.img"


def write_mgh(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """An MGH file of (i, j, k[, frame]), compressed if it is called .mgz."""
    nib.save(nib.MGHImage(array, affine), path)  # type: ignore[no-untyped-call]
    return path


def colour_png(array: np.ndarray) -> bytes:
    """A PNG of 16 bits a colour, (row, column, 3 or 4) uint16, which Pillow does not write."""
    rows, columns, channels = array.shape
    kind = {3: 2, 4: 6}[channels]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in array)
    header = columns.to_bytes(4, "big") + rows.to_bytes(4, "big") + bytes([16, kind, 0, 0, 0])
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(lines), b"IEND"]
    body = b"".join((len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


DICOM_CLASSES = {
    "CT": CTImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "MR": MRImageStorage,
    "SEG": SegmentationStorage,
    "PT": PositronEmissionTomographyImageStorage,
    "US": UltrasoundImageStorage,
}


def write_dicom(
    path: Path,
    shape: tuple[int, int] = (32, 24),
    seed: int = 0,
    *,
    array: np.ndarray | None = None,
    modality: str = "MR",
    photometric: str = "MONOCHROME2",
    slope: float | None = None,
    intercept: float | None = None,
    spacing: tuple[float, float] | None = (0.8, 0.6),
    position: Sequence[float] | None = (-12.0, 7.0, 30.0),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    frames: int | None = None,
    elements: Mapping[str, object] | None = None,
) -> Path:
    """One uncompressed DICOM image: (row, col) uint16 of 12 stored bits, or ``array``, (row, col) or (row, col, 3);
    with ``frames``, each the same, or ``array`` (frame, row, col). ``elements``: others, by keyword.

    Spacing is (between rows, between columns) in mm; position and orientation are DICOM's (LPS).
    """
    if array is None:
        array = np.rint(structured(shape, seed) * 4000).astype(np.uint16)
    dataset = _dicom_frame(modality, photometric, array[0] if frames and array.ndim == 3 else array)
    if slope is not None or intercept is not None:
        dataset.RescaleSlope, dataset.RescaleIntercept = slope or 1, intercept or 0
    if spacing is not None:
        dataset.PixelSpacing = list(spacing)
    if position is not None:
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = list(position), list(orientation)
    if frames is not None:
        dataset.NumberOfFrames = frames
        dataset.PixelData = array.tobytes() * (1 if array.ndim == 3 else frames)
    for name, value in (elements or {}).items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    volume: np.ndarray,
    *,
    name: str = "series",
    patient: str = PATIENT_ID,
    heights: Sequence[float] | None = None,
    skip: Sequence[int] = (),
    seed: int = 0,
    folders: int = 3,
    sideways: float = 0.0,
    **elements: object,
) -> list[Path]:
    """A CT series, a file without suffix per slice of ``volume`` (row, column, slice), int16; the paths by slice.

    Files are called in an order that ``seed`` shuffles, and lie in several folders. Pixels are 3 mm x 3 mm, slices 4 mm
    apart or at ``heights``, each shifted along its rows by ``sideways`` mm against the one before it.
    """
    count = volume.shape[2]
    heights = np.arange(count) * 4.0 if heights is None else heights
    paths = []
    for index, number in enumerate(np.random.default_rng(seed).permutation(count)):
        path = folder / f"d{number % folders}" / f"IM{name}{number:04d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        own = {
            "PatientID": patient,
            "SeriesInstanceUID": generate_uid(entropy_srcs=[name]),
            "StudyInstanceUID": generate_uid(entropy_srcs=["study", name]),
            "SOPInstanceUID": generate_uid(entropy_srcs=[name, str(index)]),
        }
        write_dicom(
            path,
            array=np.ascontiguousarray(volume[:, :, index]),
            modality="CT",
            slope=1,
            intercept=-1024,
            spacing=(3, 3),
            position=(-90.0 + index * sideways, -80.0, -70.0 + heights[index]),
            elements=own | elements,
        )
        if index in skip:
            path.unlink()
        paths.append(path)
    return paths


def write_enhanced_dicom(
    path: Path,
    array: np.ndarray,
    positions: Sequence[Sequence[float]] | None,
    *,
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    spacing: tuple[float, float] = (0.5, 0.25),
    scales: Sequence[tuple[float, float]] = ((1, -1024),),
) -> Path:
    """An enhanced CT: frames (frame, row, col), their positions in groups of their own, all else in shared groups.

    ``scales``: slope and intercept of all frames, or of each, then in groups of its own.
    """
    dataset = _dicom_frame("CT", "MONOCHROME2", array[0])
    dataset.SOPClassUID = EnhancedCTImageStorage
    dataset.NumberOfFrames, dataset.PixelData = len(array), array.tobytes()
    shared = pydicom.Dataset()
    shared.PixelMeasuresSequence = [_macro(PixelSpacing=list(spacing), SliceThickness=7)]
    shared.PlaneOrientationSequence = [_macro(ImageOrientationPatient=list(orientation))]
    own = [pydicom.Dataset() for _ in array]
    for groups, (slope, intercept) in zip([shared] if len(scales) == 1 else own, scales, strict=True):
        groups.PixelValueTransformationSequence = [_macro(RescaleSlope=slope, RescaleIntercept=intercept)]
    for groups, position in zip(own, positions or (), strict=positions is not None):
        groups.PlanePositionSequence = [_macro(ImagePositionPatient=list(position))]
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], own
    dataset.save_as(path, enforce_file_format=True)
    return path


def _macro(**elements: object) -> pydicom.Dataset:
    item = pydicom.Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return item


def _dicom_frame(modality: str, photometric: str, array: np.ndarray) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = DICOM_CLASSES[modality], generate_uid(entropy_srcs=["scan"])
    dataset.PatientName, dataset.PatientID, dataset.StudyInstanceUID = PATIENT, PATIENT_ID, PATIENT_UID
    dataset.Modality, dataset.PhotometricInterpretation = modality, photometric
    dataset.Rows, dataset.Columns = array.shape[:2]
    dataset.SamplesPerPixel = 1 if array.ndim == 2 else array.shape[2]
    if array.ndim == 3:
        dataset.PlanarConfiguration = 0
    bits = array.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored = bits, 12 if array.dtype == np.uint16 else bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    dataset.PixelData = array.tobytes()
    return dataset


def write_png(path: Path, size: tuple[int, int] = (28, 28), seed: int = 0, *, mode: str = "L") -> Path:
    """A PNG or JPEG (by suffix) of (rows, columns) ``size`` in a Pillow mode: L, RGB, RGBA, I;16, ..."""
    picture = structured(size, seed)
    if mode == "I;16":
        Image.fromarray(np.rint(picture * 65535).astype(np.uint16)).save(path)
        return path
    grey = np.rint(picture * 255).astype(np.uint8)
    colour = np.stack([grey, grey // 2, 255 - grey], axis=-1)
    Image.fromarray(grey if mode == "L" else colour).convert(mode).save(path)
    return path


def write_medmnist(
    path: Path,
    shape: Sequence[int] = (28, 28),
    counts: Mapping[str, int] | None = None,
    seed: int = 0,
    *,
    classes: int = 2,
) -> Path:
    """An npz in MedMNIST's layout: uint8 ``<split>_images`` (n, *shape) and ``<split>_labels`` (n, 1).

    A last axis of 3 is colour, as in MedMNIST. Label 1 and above can be seen in the picture.
    """
    members: dict[str, np.ndarray] = {}
    for split, count in (counts or {"train": 40, "val": 8, "test": 8}).items():
        labels = np.arange(count) % classes
        seeds = seed * 100_003 + sum(map(ord, split)) * 1009
        pictures = [structured(shape, seeds + i, int(label)) for i, label in enumerate(labels)]
        members[f"{split}_images"] = np.rint(np.reshape(pictures, (count, *shape)) * 255).astype(np.uint8)
        members[f"{split}_labels"] = labels.astype(np.uint8)[:, None]
    np.savez_compressed(path, **members)  # type: ignore[arg-type]
    return path


def write_ecg_csv(path: Path, rows: int = 32, samples: int = MIT_BIH_SAMPLES, seed: int = 0) -> Path:
    """Heart beats, a row each, values in [0, 1]; with 187 samples the label column of the MIT-BIH layout follows."""
    time = np.linspace(0, 1, samples)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        for row in range(rows):
            rng, label = np.random.default_rng([seed, row]), row % 2
            beat = np.exp(-(((time - rng.uniform(0.25, 0.35)) / 0.02) ** 2)) * rng.uniform(0.7, 1.0)
            beat += 0.3 * np.exp(-(((time - 0.6 - 0.1 * label) / rng.uniform(0.05, 0.08)) ** 2))
            fields = [f"{v:.18e}" for v in np.clip(beat, 0, 1)]
            writer.writerow(fields + ([f"{label:.18e}"] if samples == MIT_BIH_SAMPLES else []))
    return path


def write_wfdb(
    path: Path,
    samples: int = 1000,
    *,
    form: str = "16",
    units: tuple[str, str] = ("mV", "mV"),
    missing: range = range(0),
    comments: Sequence[str] = (),
    seed: int = 0,
) -> Path:
    """A WFDB record of two leads, MLII and V5, at 360 Hz: a header at ``path`` (.hea), and its signal file."""
    import wfdb

    signals = np.random.default_rng(seed).normal(size=(samples, 2)).clip(-3, 3)
    signals[missing.start : missing.stop, 0] = np.nan
    wfdb.wrsamp(
        path.stem,
        fs=360,
        units=list(units),
        sig_name=["MLII", "V5"],
        p_signal=signals,
        fmt=[form] * 2,
        comments=list(comments),
        write_dir=str(path.parent),
    )
    return path


def write_segmentation(
    path: Path, images: Sequence[Path], classes: np.ndarray, *, fractional: int = 0, every: bool = False
) -> Path:
    """A DICOM segmentation of a series: ``classes`` (row, column, image), 0 for none; a frame per class and image, in
    another order than the images; without those that are empty unless ``every``. fractional: the largest value of one
    that is not binary; a pixel of a class then has three quarters of it, and others a quarter."""
    sources = [pydicom.dcmread(image) for image in images]
    chosen = [
        (number, index)
        for index in reversed(range(len(sources)))
        for number in range(1, int(classes.max()) + 1)
        if every or (classes[:, :, index] == number).any()
    ]
    frames = np.stack([classes[:, :, index] == number for number, index in chosen])
    dataset = _dicom_frame("SEG", "MONOCHROME2", frames[0].astype(np.uint8))
    dataset.NumberOfFrames = len(chosen)
    dataset.SegmentationType = "FRACTIONAL" if fractional else "BINARY"
    if fractional:
        dataset.MaximumFractionalValue = fractional
        dataset.PixelData = np.where(frames, 3 * fractional // 4, fractional // 4).astype(np.uint8).tobytes()
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
    else:
        dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
        dataset.BitsAllocated = dataset.BitsStored = 1
        dataset.HighBit = 0
    dataset.PixelData += bytes(len(dataset.PixelData) % 2)
    first = sources[0]
    dataset.FrameOfReferenceUID = "1.2.3"
    dataset.ReferencedSeriesSequence = [
        _macro(
            SeriesInstanceUID=first.SeriesInstanceUID,
            ReferencedInstanceSequence=[_macro(ReferencedSOPInstanceUID=s.SOPInstanceUID) for s in sources],
        )
    ]
    dataset.SegmentSequence = [_macro(SegmentNumber=n) for n in range(1, int(classes.max()) + 1)]
    dataset.SharedFunctionalGroupsSequence = [
        _macro(
            PixelMeasuresSequence=[_macro(PixelSpacing=first.PixelSpacing, SliceThickness=4)],
            PlaneOrientationSequence=[_macro(ImageOrientationPatient=first.ImageOrientationPatient)],
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        _macro(
            PlanePositionSequence=[_macro(ImagePositionPatient=sources[index].ImagePositionPatient)],
            SegmentIdentificationSequence=[_macro(ReferencedSegmentNumber=number)],
            DerivationImageSequence=[
                _macro(SourceImageSequence=[_macro(ReferencedSOPInstanceUID=sources[index].SOPInstanceUID)])
            ],
        )
        for number, index in chosen
    ]
    dataset.save_as(path, enforce_file_format=True)
    return path
