"""NIfTI-1 and -2 volumes, plain or gzipped; nibabel brings them to RAS+ order (flips and swaps of axes only)."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers import Found, check_size, refusing
from medfuncta_dist.scans.scan import Scan, stored

GZIP_MAGIC = b"\x1f\x8b"
MAX_DEFLATE_RATIO = 1032  # https://zlib.net/zlib_tech.html
UNIT_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


class NiftiReader:
    """One volume a file. Series of volumes are refused: whether they are one scan or many, only their owner knows."""

    name = "nifti"
    suffixes: tuple[str, ...] = (".nii", ".nii.gz")

    def scans(self, path: Path) -> Iterator[Found]:
        """The file's volume."""
        yield Found("", None, _read(path))


def _read(path: Path) -> Scan:
    with refusing("not a readable NIfTI file"):
        header: Any = nib.load(path)  # the header only
        if not isinstance(header, nib.Nifti1Image):
            raise ScanError("not a NIfTI file")
        shape = _volume_shape(header.shape)
        declared = _declared_bytes(path, header)
        image = type(header).from_bytes(_whole(path, declared))
        array, affine = _reoriented(stored(np.asanyarray(image.dataobj)).reshape(shape), _affine_mm(image))
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Scan(np.ascontiguousarray(array[None]), spacing, affine, "OT")


def _volume_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    check_size(shape)
    if len(shape) < 2 or any(n > 1 for n in shape[3:]):
        do = "write each volume of a series to a file of its own"
        raise ScanError(f"expected one volume, found {len(shape)} axes", do=do)
    i, j, k = (*shape, 1)[:3]
    return i, j, k


def _declared_bytes(path: Path, image: Any) -> int:
    """Uncompressed size by the header; ScanError if a file of this size can not hold that much."""
    declared = int(image.dataobj.offset) + check_size(image.shape) * int(image.get_data_dtype().itemsize)
    size = path.stat().st_size
    if declared > (size * MAX_DEFLATE_RATIO if _is_gzip(path) else size):
        raise ScanError("the file is shorter than its header declares")
    return declared


def _reoriented(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """To the closest RAS+ order: nibabel's as_closest_canonical, but for images of two axes too."""
    flips: Any = nib.orientations
    order = flips.io_orientation(affine)
    return flips.apply_orientation(array, order), affine @ flips.inv_ornt_aff(order, array.shape)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC


def _whole(path: Path, declared: int) -> bytes:
    """The declared bytes; a gzip file is read on to its end, where its checksum is (nibabel stops before it)."""
    if not _is_gzip(path):
        return path.read_bytes()
    with gzip.open(path) as file:
        data = file.read(declared)
        while file.read(2**20):
            pass
    return data


def _affine_mm(image: Any) -> np.ndarray:
    factor = UNIT_MM[image.header.get_xyzt_units()[0]]
    return np.diag([factor, factor, factor, 1.0]) @ np.asarray(image.affine, np.float64)
