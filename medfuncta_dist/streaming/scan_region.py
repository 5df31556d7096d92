"""A region of a scan from its shard's file: only the bricks that its bytes touch are read, and each is verified first.

The file is mapped while a region is copied out, and no longer: between two regions a reader holds nothing of it but the
note of which bricks were verified. A region of a scan is many short runs of bytes, of which a brick has hundreds; so
each brick is verified once per open file, and not once per region.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from medfuncta_dist.shards.sample import LARGEST_HEADER
from medfuncta_dist.storage.digest import crc32c


class BrickedArray:
    """An array in an open file, with a checksum for every so many bytes of its npy member, ``place`` in the file.

    ``shape``, ``dtype``: the array's, whose values are the last bytes of the member.
    """

    def __init__(
        self, place: range, shape: tuple[int, ...], dtype: np.dtype, brick_bytes: int, checksums: npt.NDArray[np.uint32]
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._place, self._brick_bytes, self._checksums = place, brick_bytes, checksums
        self._header = len(place) - math.prod(shape) * dtype.itemsize
        self._verified = np.zeros(len(checksums), bool)

    def copied(self, file: BinaryIO, region: Sequence[slice]) -> np.ndarray | None:
        """A copy of a region, one slice with step 1 per axis; None where bytes that it touches are damaged."""
        region = within(region, self.shape)
        if os.fstat(file.fileno()).st_size < self._place.stop:  # bytes missing from a mapped file end the process
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return self._values(mapped)[tuple(region)].copy() if self._verify(mapped, region) else None

    def header(self, file: BinaryIO) -> bytes | None:
        """The bytes before the values, as many as an npy header may have; None where their bricks are damaged."""
        length = min(self._header, LARGEST_HEADER)
        bricks = range(-(-length // self._brick_bytes))
        data = os.pread(file.fileno(), min(len(bricks) * self._brick_bytes, len(self._place)), self._place.start)
        for brick in bricks:
            if crc32c(data[brick * self._brick_bytes :][: self._brick_bytes]) != self._checksums[brick]:
                return None
            self._verified[brick] = True
        return data[:length] if length == self._header else None

    def touched(self, region: Sequence[slice]) -> npt.NDArray[np.bool_]:
        """Which bricks hold bytes of a region: one truth value per brick."""
        item = self.dtype.itemsize
        edges = np.zeros(len(self._checksums) + 1, np.int64)
        if all(part.start < part.stop for part in region):
            # A run is what lies together: the last axis of the region, once for each point of its other axes.
            first = np.array([self._header + region[-1].start * item])
            for axis, part in enumerate(region[:-1]):
                step = math.prod(self.shape[axis + 1 :]) * item
                first = (first[:, None] + np.arange(part.start, part.stop) * step).ravel()
            last = first + (region[-1].stop - region[-1].start) * item - 1
            np.add.at(edges, first // self._brick_bytes, 1)
            np.add.at(edges, last // self._brick_bytes + 1, -1)
        return np.asarray(np.cumsum(edges[:-1]) > 0)

    def _verify(self, mapped: mmap.mmap, region: Sequence[slice]) -> bool:
        for brick in np.flatnonzero(self.touched(region) & ~self._verified).tolist():
            bytes_of_brick = self._place[brick * self._brick_bytes :][: self._brick_bytes]
            with memoryview(mapped) as whole, whole[bytes_of_brick.start : bytes_of_brick.stop] as data:
                if crc32c(data) != self._checksums[brick]:
                    return False
            self._verified[brick] = True
        return True

    def _values(self, mapped: mmap.mmap) -> np.ndarray:
        return np.ndarray(self.shape, self.dtype, buffer=mapped, offset=self._place.start + self._header)


def within(region: Sequence[slice], shape: tuple[int, ...]) -> list[slice]:
    """The region with a start and a stop for each axis. ValueError for another number of axes, or another step."""
    if len(region) != len(shape) or any(part.step not in (None, 1) for part in region):
        raise ValueError(f"a region of {shape} is a slice with step 1 for each axis, got {region}")
    return [slice(*part.indices(n)[:2]) for part, n in zip(region, shape, strict=True)]
