"""NIfTI-1 and -2 volumes, plain or gzipped; nibabel brings them to RAS+ order (flips and swaps of axes only)."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.orientation import closest_ras
from medfuncta_dist.scans.readers.reader import Found, check_inflation, check_size, refusing, silence_logger
from medfuncta_dist.scans.scan import Scan, stored

silence_logger("nibabel.global")

GZIP_MAGIC = b"\x1f\x8b"
MAX_DEFLATE_RATIO = 1032  # https://zlib.net/zlib_tech.html
KINDS: tuple[Any, ...] = (nib.Nifti1Image, nib.Nifti2Image)
SINGLE = (b"n+1", b"n+2")
"""Magic of a file with header and values; a header whose values are in another file has ni1 or ni2."""
LARGEST_OFFSET = 2**24
"""Bytes before the first value: header and extensions, which are read whole."""
LARGEST_TAIL = 2**20
"""Bytes after the last value that are read to reach the checksum of a gzip file. There should be none."""
UNIT_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


class NiftiReader:
    """One volume per file. Series of volumes are refused: only their owner knows whether they are one scan or many."""

    name = "nifti"
    suffixes: tuple[str, ...] = (".nii", ".nii.gz")

    def scans(self, path: Path) -> Iterator[Found]:
        """The file's volume."""
        yield Found("", None, _read(path))


def _read(path: Path) -> Scan:
    with refusing("not a readable NIfTI file"):
        image = _image(path)
        shape = _volume_shape(image.shape)
        array, affine = closest_ras(stored(np.asanyarray(image.dataobj)).reshape(shape), _affine_mm(image))
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Scan(np.ascontiguousarray(array[None]), spacing, affine, "OT")


def _image(path: Path) -> Any:
    """Read the header, check that it declares no more than the file has, then read the file into memory."""
    packed = _is_gzip(path)
    with _opened(path, packed) as file:
        start = file.read(max(kind.header_class.sizeof_hdr for kind in KINDS))
        kind, header = _header(start)
        _volume_shape(header.get_data_shape())
        declared = _declared_bytes(path.stat().st_size, packed, header)
        data = start + file.read(max(declared - len(start), 0))
        if packed:
            _to_the_end(file)
    return kind.from_bytes(data)


def _opened(path: Path, packed: bool) -> gzip.GzipFile | BinaryIO:
    return gzip.open(path) if packed else path.open("rb")


def _header(start: bytes) -> tuple[Any, Any]:
    kind = next((kind for kind in KINDS if kind.header_class.may_contain_header(start)), None)
    if kind is None:
        raise ScanError("not a NIfTI file")
    header = kind.header_class(start[: kind.header_class.sizeof_hdr])
    if bytes(header["magic"])[:3] not in SINGLE:
        raise ScanError("a NIfTI header whose values are in another file")
    return kind, header


def _volume_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    check_size(shape)
    if len(shape) < 2 or any(n > 1 for n in shape[3:]):
        do = "write each volume of a series to a file of its own"
        raise ScanError(f"expected one volume, found {len(shape)} axes", do=do)
    i, j, k = (*shape, 1)[:3]
    return i, j, k


def _declared_bytes(size: int, packed: bool, header: Any) -> int:
    """Uncompressed size by the header; ScanError if a file of ``size`` bytes cannot hold that much."""
    offset = int(header.get_data_offset())
    if not 0 <= offset <= LARGEST_OFFSET:
        raise ScanError(f"the header declares values {offset} bytes into the file")
    declared = offset + check_size(header.get_data_shape()) * int(header.get_data_dtype().itemsize)
    if declared > (size * MAX_DEFLATE_RATIO if packed else size):
        raise ScanError("the file is shorter than its header declares")
    check_inflation(declared, size)
    return declared


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC


def _to_the_end(file: gzip.GzipFile | BinaryIO) -> None:
    """To the end of a gzip file, where its checksum is (nibabel stops before it)."""
    if len(file.read(LARGEST_TAIL)) == LARGEST_TAIL:
        raise ScanError("the file holds more data than its header declares")


def _affine_mm(image: Any) -> np.ndarray:
    factor = UNIT_MM[image.header.get_xyzt_units()[0]]
    return np.diag([factor, factor, factor, 1.0]) @ np.asarray(image.affine, np.float64)
