"""Files of one volume after another (NIfTI, MGH), plain or gzipped: sizes are checked before anything is read, and one
volume is in memory at a time."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.orientation import closest_ras
from medfuncta_dist.scans.readers.reader import Found, check_inflation, check_size, refusing
from medfuncta_dist.scans.readers.transparency import on_black
from medfuncta_dist.scans.scan import Scan, stored

GZIP_MAGIC = b"\x1f\x8b"
MAX_DEFLATE_RATIO = 1032  # https://zlib.net/zlib_tech.html
LARGEST_OFFSET = 2**24
"""Bytes before the first value: header and extensions."""
LARGEST_TAIL = 2**20
"""Bytes after the last value that are read to reach the checksum of a gzip file. NIfTI has none, MGH a few tags."""
PIECE = 2**18
SLAB_VALUES = 2**24
COLOUR, WITH_ALPHA = ("R", "G", "B"), ("R", "G", "B", "A")
"""Fields of a voxel that is a colour."""


@dataclass(frozen=True)
class Layout:
    """Where the values are, as a header tells. ``shape``: of one volume; ``offset``: bytes before the first value."""

    offset: int
    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype

    @property
    def volume_bytes(self) -> int:
        """Bytes of one volume."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


def chosen_volume(data: Data) -> int | None:
    """The only volume of a file that a run file asks for; None for each."""
    return None if data.volume == "each" else data.volume


def layout(offset: int, shape: tuple[int, ...], dtype: np.dtype) -> Layout:
    """The layout of a header; ScanError where it is no file of volumes. The fourth axis counts volumes."""
    if not 0 <= offset <= LARGEST_OFFSET:
        raise ScanError(f"the header declares values {offset} bytes into the file")
    if len(shape) < 2 or any(n > 1 for n in shape[4:]):
        raise ScanError(f"expected volumes along the fourth axis, found {len(shape)} axes")
    i, j, k, volumes = (*(int(n) for n in shape[:4]), 1, 1)[:4]
    check_size((i, j, k))
    if min(shape) <= 0:
        raise ScanError("the header declares an empty axis")
    if dtype.kind == "c":
        raise ScanError("complex values: nothing says whether magnitude, phase or parts are the scan")
    if dtype.names not in (None, COLOUR, WITH_ALPHA):
        raise ScanError("the values are not integers or real numbers")
    return Layout(offset, (i, j, k), volumes, dtype)


def head(path: Path, length: int) -> bytes:
    """The first bytes of a file, decompressed."""
    with _opened(path, is_gzip(path)) as file:
        return file.read(length)


def is_gzip(path: Path) -> bool:
    """Whether the file is compressed, whatever it is called."""
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC


def volumes(path: Path, of: Layout, chosen: int | None) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of every volume, or of the chosen one where there are several.

    The file is checked before the first one: ScanError where it is damaged, or not as long as its header declares.
    """
    packed, size = is_gzip(path), path.stat().st_size
    _check_length(size, packed, of)
    if of.volumes > 1 and chosen is not None and chosen >= of.volumes:
        raise ScanError(f"the file has {of.volumes} volumes, so there is none of the number in data.volume")
    if packed and of.volumes > 1:
        _check_whole(path, of)
    with _opened(path, packed) as file:
        _skip(file, of.offset)
        for number in range(of.volumes):
            if chosen in (None, number) or of.volumes == 1:
                data = file.read(of.volume_bytes)
                if packed and of.volumes == 1:
                    _to_the_end(file)
                yield number, data
            else:
                _skip(file, of.volume_bytes)


def found_volumes(
    path: Path, of: Layout, chosen: int | None, image_of: Callable[[bytes], Any], reason: str
) -> Iterator[Found]:
    """The scans of a file. ``image_of``: a nibabel image from one volume's bytes; ``reason``: of any other failure.

    A file of one volume has the item "". The volumes of others are ``volume/0``, ..., and stay in one split.
    """
    several = of.volumes > 1
    numbered = volumes(path, of, chosen)
    while True:
        with refusing(reason):
            try:
                number, data = next(numbered)
            except StopIteration:
                return
            scan = scan_of(image_of(data), of)
        yield Found(f"volume/{number}" if several else "", None, scan, alike=several)


def scan_of(image: Any, of: Layout) -> Scan:
    """A nibabel image of one volume as a scan in RAS+ order; flips and swaps of axes only."""
    affine = np.asarray(image.affine, np.float64)
    if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise ScanError("the affine is not invertible")
    array, affine = closest_ras(_values(image.dataobj, of), affine)
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Scan(np.ascontiguousarray(np.moveaxis(array, -1, 0)), spacing, affine, "OT")


def _values(dataobj: Any, of: Layout) -> np.ndarray:
    """(i, j, k, channel) in a stored type. nibabel scales in float64, so a large volume is read some slices at once."""
    few = max(1, SLAB_VALUES * of.shape[2] // math.prod(of.shape))
    if few >= of.shape[2] or of.dtype.names is not None or dataobj.shape != of.shape:
        return _channels_last(np.asanyarray(dataobj).reshape(of.shape))
    values: np.ndarray | None = None
    for start in range(0, of.shape[2], few):
        slab = stored(np.asanyarray(dataobj[:, :, start : start + few]))
        values = np.empty(of.shape, slab.dtype, order="F") if values is None else values
        values[:, :, start : start + few] = slab
    assert values is not None
    return values[..., None]


def _channels_last(values: np.ndarray) -> np.ndarray:
    """(i, j, k) numbers or colours -> (i, j, k, channel). As in pictures, what is transparent is black."""
    if values.dtype.names is None:
        return stored(values)[..., None]
    colour = np.stack([values[name] for name in COLOUR], axis=-1)
    if values.dtype.names == COLOUR:
        return stored(colour)
    if not values["A"].any():
        raise ScanError("colours that are transparent everywhere")
    return on_black(colour, values["A"][..., None])


def _check_length(size: int, packed: bool, of: Layout) -> None:
    """ScanError if a file of ``size`` bytes cannot hold what its header declares."""
    declared = of.offset + of.volume_bytes * of.volumes
    if declared > (size * MAX_DEFLATE_RATIO if packed else size):
        raise ScanError("the file is shorter than its header declares")
    check_inflation(declared, size)


def _check_whole(path: Path, of: Layout) -> None:
    """Read a gzip file of several volumes to its end, where its checksum is, before any of them is handed out."""
    with _opened(path, True) as file:
        _skip(file, of.offset + of.volume_bytes * of.volumes)
        _to_the_end(file)


def _skip(file: gzip.GzipFile | BinaryIO, length: int) -> None:
    while length:
        piece = file.read(min(PIECE, length))
        if not piece:
            raise ScanError("the file is shorter than its header declares")
        length -= len(piece)


def _to_the_end(file: gzip.GzipFile | BinaryIO) -> None:
    """To the end of a gzip file, where its checksum is (nibabel stops before it)."""
    if len(file.read(LARGEST_TAIL)) == LARGEST_TAIL:
        raise ScanError("the file holds more data than its header declares")


def _opened(path: Path, packed: bool) -> gzip.GzipFile | BinaryIO:
    return gzip.open(path) if packed else path.open("rb")
