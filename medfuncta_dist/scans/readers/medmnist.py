"""npz in MedMNIST's layout: ``<split>_images`` (n, h, w[, 3]) or (n, d, h, w), ``<split>_labels`` (n, k).

Read as a stream, one image in memory at a time (the archives at 224 x 224 are larger than memory), and never unpickled.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.label_check import risk_of_columns, risk_of_targets
from medfuncta_dist.scans.readers.bounded_file import BoundedFile
from medfuncta_dist.scans.readers.reader import Found, check_inflation, check_size, refusing
from medfuncta_dist.scans.scan import Scan, stored

SPLITS = ("train", "val", "test")
IMAGES, LABELS = "_images.npy", "_labels.npy"
MAX_LABELS = 2**24  # a hundred times the largest MedMNIST; labels are read whole
MAX_LABELS_A_SCAN = 2**12
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What NumPy writes. LZMA would allocate gigabytes if a header asks for them."""
LARGEST_DIRECTORY = 2**20
"""Bytes of the zip's list of members: room for thousands, where six are expected."""
NPY_START = {(1, 0): (10, npy.read_array_header_1_0), (2, 0): (12, npy.read_array_header_2_0)}
"""By version: bytes up to the header's text (magic, version, the text's length), and what reads it."""
LARGEST_WHOLE = 2**53
LARGEST_HEADER = 4096
"""Bytes. NumPy writes 118."""


class MedmnistReader:
    """Scans ``train/0``, ``train/1``, ... in the splits that the file gives."""

    name = "medmnist"
    suffixes: tuple[str, ...] = (".npz",)

    def scans(self, path: Path) -> Iterator[Found]:
        """All images of all splits."""
        with refusing("not a readable npz file"):
            file = BoundedFile(path)
        with file, _opened(file) as archive:
            with refusing("not in MedMNIST's layout"):
                present = _splits(archive)
                labels = {split: _labels(archive, split) for split in present}
            risks = _risks(labels)
            for split in present:
                for found in _images(archive, split, labels[split]):
                    yield replace(found, label_risk=risks[split])


def _risks(labels: dict[str, np.ndarray | None]) -> dict[str, str | None]:
    """Whether the labels look like identifiers: over all splits with classes, and over all with measurements. Pure."""
    risks: dict[str, str | None] = dict.fromkeys(labels)
    for kinds, risk_of in (("iu", risk_of_columns), ("f", risk_of_targets)):
        there = {split: v for split, v in labels.items() if v is not None and v.dtype.kind in kinds}
        risks |= dict.fromkeys(there, _risk(list(there.values()), risk_of))
    return risks


def _risk(there: list[np.ndarray], risk_of: Callable[[np.ndarray], str | None]) -> str | None:
    if len({values.shape[1] for values in there}) > 1:
        return next(filter(None, map(risk_of, there)), None)
    return risk_of(np.concatenate(there)) if there else None


def _opened(file: BoundedFile) -> zipfile.ZipFile:
    with refusing("not a readable npz file"):
        file.largest = LARGEST_DIRECTORY
        archive = zipfile.ZipFile(file)
        file.largest = None
    if any(info.compress_type not in COMPRESSIONS for info in archive.infolist()):
        raise ScanError("an npz member in a compression that is not read")
    return archive


def _splits(archive: zipfile.ZipFile) -> list[str]:
    names = {name for name in archive.namelist() if name.endswith(IMAGES)}
    known = [split for split in SPLITS if split + IMAGES in names]
    if not known:
        raise ScanError("no train_images, val_images or test_images")
    if len(names) != len(known):
        raise ScanError("images outside of the splits train, val and test")  # skipping them would lose scans
    for split in known:
        _check_sums(archive, split + IMAGES)
    return known


def _check_sums(archive: zipfile.ZipFile, member: str) -> None:
    """Read a member to its end, where zip checks its CRC-32, before any image is yielded."""
    info = archive.getinfo(member)
    check_inflation(info.file_size, info.compress_size)
    with refusing("the npz file is damaged"), archive.open(info) as stream:
        while stream.read(2**20):
            pass


def _header(stream: IO[bytes], declared: int) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, checked against the member's size; the stream then stands at its first value."""
    shape, fortran, dtype = _parsed(stream)
    if fortran or dtype.kind not in "biuf":
        raise ScanError("an array that is not numbers in C order")
    if stream.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize != declared:
        raise ScanError("an array header that does not match its size")
    return shape, dtype


def _parsed(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    start = stream.read(8)
    if (known := NPY_START.get(npy.read_magic(io.BytesIO(start)))) is None:
        raise ScanError("an npy version that is not read")
    size, read = known
    length = stream.read(size - len(start))
    if int.from_bytes(length, "little") > LARGEST_HEADER:  # NumPy would read all of it before checking
        raise ScanError("an array header that is too long")
    try:
        return read(io.BytesIO(length + stream.read(int.from_bytes(length, "little"))))
    except MemoryError:  # Python's parser, for text that is nested too deep
        raise ScanError("an array header that is damaged") from None


def _labels(archive: zipfile.ZipFile, split: str) -> np.ndarray | None:
    """(n, k) integers, which may be stored as floats; floats where these are measurements; None where the file has
    none."""
    if split + LABELS not in archive.namelist():
        return None
    info = archive.getinfo(split + LABELS)
    with archive.open(info) as stream:
        shape, dtype = _header(stream, info.file_size)
        if not 1 <= len(shape) <= 2 or int(np.prod(shape, dtype=object)) > MAX_LABELS:
            raise ScanError("labels that are not a table")
        values = np.frombuffer(stream.read(), dtype).reshape(shape)
    if values[:1].size > MAX_LABELS_A_SCAN:
        raise ScanError(f"more than {MAX_LABELS_A_SCAN} labels a scan")
    if dtype.kind == "f" and _are_whole(values):
        values = values.astype(np.int64)
    return values.reshape(len(values), -1)


def _are_whole(values: np.ndarray) -> bool:
    """Whether floats are integers, and so small that all of these have their own float."""
    return bool((np.isfinite(values) & (values == np.trunc(values)) & (np.abs(values) <= LARGEST_WHOLE)).all())


def _images(archive: zipfile.ZipFile, split: str, labels: np.ndarray | None) -> Iterator[Found]:
    info = archive.getinfo(split + IMAGES)
    with archive.open(info) as stream:
        with refusing("not in MedMNIST's layout"):
            (count, *shape), dtype = _header(stream, info.file_size)
            if labels is not None and len(labels) != count:
                raise ScanError("labels and images differ in number")
            if len(shape) == 3 and shape[0] == 3 != shape[-1]:
                raise ScanError("images of 3 x rows x columns: either colours come first, or they are volumes")
            size = check_size(shape) * dtype.itemsize
        for row in range(count):
            with refusing("the npz file is damaged"):
                image = np.frombuffer(stream.read(size), dtype).reshape(shape)
                scan = _scan(image)
            told = {} if labels is None else _told(labels[row])
            yield Found(f"{split}/{row}", split, replace(scan, **told))


def _told(labels: np.ndarray) -> dict[str, Any]:
    """One scan's labels: classes, or measurements, as their type writes them (0.1 of float32 is 0.1)."""
    if labels.dtype.kind != "f":
        return {"labels": tuple(int(value) for value in labels)}
    return {"targets": tuple(float(str(value)) for value in labels)}


def _scan(image: np.ndarray) -> Scan:
    if image.ndim == 3 and image.shape[-1] == 3:
        array, modality = np.moveaxis(image, -1, 0), "PX"
    else:
        array, modality = image[None], "PX" if image.ndim == 2 else "OT"
    return Scan(np.ascontiguousarray(stored(array)), (1.0,) * (array.ndim - 1), None, modality)
