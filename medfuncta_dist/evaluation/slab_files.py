"""A scan's values as a file, written slab by slab: of a volume larger than memory, only a slab is held.

A file is written under another name beside the one asked for, and gets that when it is whole.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from jaxtyping import Float

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation.decoded_grid import spacing_affine
from medfuncta_dist.patches.blended_scan import Slab
from medfuncta_dist.scans.scan import Window

NIFTI_OFFSET = 352
"""Bytes before the values: the header, and four that say that no extension follows."""
LONGEST_AXIS = 2**15 - 1
"""Points of an axis of a NIfTI file: its header has 16 bits for them."""
GZIP_LEVEL = 1
"""As nibabel's: noise in the last bits of float32 does not get much smaller at a higher one."""

Slabs = Callable[[int], Iterator[Slab]]
"""From the axis that slabs are thin along to the slabs of a scan, in order, values in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Target:
    """What is written: (channel, *spatial) values in the units of ``window``."""

    shape: tuple[int, ...]
    window: Window
    spacing: tuple[float, ...]
    affine: Float[np.ndarray, "4 4"] | None


def write_slabs(path: Path, target: Target, slabs: Slabs) -> bool:
    """Write a NIfTI (.nii, .nii.gz) or npy file, float32; False where the suffix is another, and nothing is written."""
    writer = next((w for suffix, w in _WRITERS.items() if path.name.lower().endswith(suffix)), None)
    if writer is None:
        return False
    partial = path.with_name(f".{path.name}.partial")
    try:
        with ExitStack() as opened:
            file: IO[bytes] = opened.enter_context(partial.open("wb"))
            if path.name.lower().endswith(".gz"):
                # Without a file name and a time: the same values are the same bytes.
                packed = gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0)
                file = cast(IO[bytes], opened.enter_context(packed))
            writer(file, target, slabs)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return True


def nifti_image(
    volume: np.ndarray, spacing: tuple[float, ...], affine: Float[np.ndarray, "4 4"] | None
) -> nib.Nifti1Image:
    """An image of (channel, *spatial) values: channels on the fifth axis, millimetres. RunFileError for an axis of more
    points than the format's header can tell."""
    channels, shape = volume.shape[0], volume.shape[1:]
    if max(volume.shape) > LONGEST_AXIS:
        what = f"a scan of shape {list(shape)} has an axis of more than {LONGEST_AXIS} points, which NIfTI cannot hold"
        raise RunFileError(what, where="--out", do="use .npy, or a region")
    axes = [*shape, *[1] * (3 - len(shape)), *([1, channels] if channels > 1 else [])]
    placed = spacing_affine(spacing) if affine is None else affine
    image = nib.Nifti1Image(np.moveaxis(volume, 0, -1).reshape(axes), placed)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    return image


def _write_nifti(file: IO[bytes], target: Target, slabs: Slabs) -> None:
    """The last spatial axis is the slowest, and channels are slower still: they are decoded once for each."""
    empty = np.broadcast_to(np.float32(0), target.shape)
    header: Any = nifti_image(empty, target.spacing, target.affine).header
    header.set_data_offset(NIFTI_OFFSET)
    header.set_slope_inter(1, 0)
    file.write(header.binaryblock + bytes(NIFTI_OFFSET - len(header.binaryblock)))
    for channel in range(target.shape[0]):
        for slab in slabs(len(target.shape) - 2):
            file.write(target.window.restore(slab.values[channel]).astype("<f4").tobytes(order="F"))


def _write_npy(file: IO[bytes], target: Target, slabs: Slabs) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": target.shape}
    np.lib.format.write_array_header_1_0(file, header)
    for channel in range(target.shape[0]):
        for slab in slabs(0):
            file.write(target.window.restore(slab.values[channel]).astype("<f4").tobytes())


_WRITERS: dict[str, Callable[[IO[bytes], Target, Slabs], None]] = {
    ".nii.gz": _write_nifti,
    ".nii": _write_nifti,
    ".npy": _write_npy,
}
