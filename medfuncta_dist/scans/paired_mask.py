"""The segmentation that is paired with a scan: classes on the scan's own grid, before it is resampled."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.scan import Scan

SAME_PLACE = 0.1
"""mm: how far rounding in headers may move a corner."""


def mask_of(found: Iterable[Found], scan: Scan) -> np.ndarray:
    """uint8 (*spatial) of a segmentation as read. ScanError where it is not one of this scan."""
    scans = [one.scan for one in islice(found, 2)]
    if len(scans) != 1:
        raise ScanError("its segmentation is not one volume or picture")
    [mask] = scans
    if isinstance(mask, ScanError):
        raise ScanError(f"its segmentation cannot be used: {mask.what}")
    if mask.channels != 1 or mask.shape != scan.shape:
        raise ScanError("its segmentation has another shape, or is in colour")
    if not _same_place(mask, scan):
        raise ScanError("its segmentation is at another place, or has another orientation")
    classes = mask.array[0]
    if (
        not np.isfinite(classes).all()
        or (classes != np.rint(classes)).any()
        or classes.min() < 0
        or classes.max() > 255
    ):
        raise ScanError("its segmentation holds other values than whole numbers from 0 to 255")
    return np.asarray(classes.astype(np.uint8))


def _same_place(mask: Scan, scan: Scan) -> bool:
    """Whether the corners of both are where the other's are; so too where one of them does not say."""
    if mask.affine is None or scan.affine is None:
        return True
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in scan.shape], indexing="ij")).reshape(len(scan.shape), -1)
    points = np.zeros((4, corners.shape[1]))
    points[: len(corners)], points[3] = corners, 1
    return bool(np.abs((mask.affine - scan.affine) @ points).max() <= SAME_PLACE)
