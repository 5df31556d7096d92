"""Mosaics: one image in which a Siemens scanner tiles the slices of a volume (ImageType has MOSAIC).

How many slices there are, and on which side of the first one the others lie, only its private header (CSA) says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Float

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.dicom.stacks import Image, affine_with, directions, has_geometry

UNKNOWN = "a mosaic of slices that does not say how they lie: the scanner's private header is missing"
NO_PLACE = "a mosaic of slices without position, orientation or spacing"
UNEVEN = "a mosaic whose slices do not fill it"


@dataclass(frozen=True)
class Mosaic:
    """The volume in a mosaic. ``affine``: (row, column, slice, 1) → RAS mm."""

    slices: int
    per_side: int
    affine: Float[np.ndarray, "4 4"]


def is_mosaic(image_type: Sequence[str]) -> bool:
    """By the values of ImageType."""
    return "MOSAIC" in [str(value).strip().upper() for value in image_type]


def mosaic_of(dataset: pydicom.Dataset, image: Image) -> Mosaic:
    """How the slices lie; ``image``: the mosaic as if it were one. ScanError where the file does not say it.

    The position is that of a slice as large as the whole mosaic, with the same centre as the first slice.
    """
    from nibabel.nicom import csareader  # here: it warns when it is imported, and the caller silences warnings

    private: dict[str, Any] | None = csareader.get_csa_header(dataset, "image")  # type: ignore[no-untyped-call]
    slices = csareader.get_n_mosaic(private) if private else None  # type: ignore[no-untyped-call]
    normal = csareader.get_slice_normal(private) if private else None  # type: ignore[no-untyped-call]
    if not slices or normal is None:
        raise ScanError(UNKNOWN)
    distance = float(dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness") or 0)
    if not has_geometry(image) or not 0 < distance < math.inf:
        raise ScanError(NO_PLACE)
    per_side = math.ceil(math.sqrt(slices))
    size = np.array([int(dataset.Rows), int(dataset.Columns)])
    if (size % per_side).any():
        raise ScanError(UNEVEN)
    affine = affine_with(image, distance if normal @ np.cross(*directions(image)) > 0 else -distance)
    affine[:3, 3] += affine[:3, :2] @ (size - size // per_side) / 2
    return Mosaic(int(slices), per_side, affine)


def tiles(pixels: np.ndarray, mosaic: Mosaic) -> np.ndarray:
    """(row, column) of a mosaic as (slice, row, column)."""
    rows, columns = (n // mosaic.per_side for n in pixels.shape)
    tiled = pixels.reshape(mosaic.per_side, rows, mosaic.per_side, columns).transpose(0, 2, 1, 3)
    return tiled.reshape(-1, rows, columns)[: mosaic.slices]
