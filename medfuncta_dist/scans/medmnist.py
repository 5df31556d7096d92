"""npz in MedMNIST's layout: ``<split>_images`` (n, h, w[, 3]) or (n, d, h, w), ``<split>_labels`` (n, k).

Read as a stream, one image in memory at a time (the archives at 224 x 224 are larger than memory), and never unpickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers import Found, check_size, refusing
from medfuncta_dist.scans.scan import Scan, stored

SPLITS = ("train", "val", "test")
IMAGES, LABELS = "_images.npy", "_labels.npy"
MAX_LABELS = 2**24  # a hundred times the largest MedMNIST; labels are read whole


class MedmnistReader:
    """Scans ``train/0``, ``train/1``, ... in the splits that the file gives."""

    name = "medmnist"
    suffixes: tuple[str, ...] = (".npz",)

    def scans(self, path: Path) -> Iterator[Found]:
        """All images of all splits."""
        with refusing("not a readable npz file"):
            archive = zipfile.ZipFile(path)
        with archive:
            with refusing("not in MedMNIST's layout"):
                present = _splits(archive)
                labels = {split: _labels(archive, split) for split in present}
            for split in present:
                yield from _images(archive, split, labels[split])


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
    """Read a member to its end, where zip compares its CRC-32: no image may be handed out before."""
    with refusing("the npz file is damaged"), archive.open(member) as stream:
        while stream.read(2**20):
            pass


def _header(stream: IO[bytes], declared: int) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, checked against the member's size; the stream then stands at its first value."""
    version = npy.read_magic(stream)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ScanError("an npy version that is not read")
    shape, fortran, dtype = read(stream)
    if fortran or dtype.kind not in "biuf":
        raise ScanError("an array that is not numbers in C order")
    if stream.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize != declared:
        raise ScanError("an array header that does not match its size")
    return shape, dtype


def _labels(archive: zipfile.ZipFile, split: str) -> np.ndarray | None:
    """(n, k) integers; None where the file has none."""
    if split + LABELS not in archive.namelist():
        return None
    info = archive.getinfo(split + LABELS)
    with archive.open(info) as stream:
        shape, dtype = _header(stream, info.file_size)
        if dtype.kind not in "biu" or not 1 <= len(shape) <= 2 or int(np.prod(shape, dtype=object)) > MAX_LABELS:
            raise ScanError("labels that are not a table of integers")
        values = np.frombuffer(stream.read(), dtype).reshape(shape)
    return values.reshape(len(values), -1)


def _images(archive: zipfile.ZipFile, split: str, labels: np.ndarray | None) -> Iterator[Found]:
    info = archive.getinfo(split + IMAGES)
    with archive.open(info) as stream:
        with refusing("not in MedMNIST's layout"):
            (count, *shape), dtype = _header(stream, info.file_size)
            if labels is not None and len(labels) != count:
                raise ScanError("labels and images differ in number")
            size = check_size(shape) * dtype.itemsize
        for row in range(count):
            with refusing("the npz file is damaged"):
                image = np.frombuffer(stream.read(size), dtype).reshape(shape)
                scan = _scan(image, () if labels is None else tuple(int(v) for v in labels[row]))
            yield Found(f"{split}/{row}", split, scan)


def _scan(image: np.ndarray, labels: tuple[int, ...]) -> Scan:
    if image.ndim == 3 and image.shape[-1] == 3:
        array, modality = np.moveaxis(image, -1, 0), "PX"
    else:
        array, modality = image[None], "PX" if image.ndim == 2 else "OT"
    return Scan(np.ascontiguousarray(stored(array)), (1.0,) * (array.ndim - 1), None, modality, labels=labels)
