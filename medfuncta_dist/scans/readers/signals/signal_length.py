"""Signals of another length than the run file declares: refused, resampled later, or cut up (``data.length``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.scan import Scan


def declared_length(data: Data | None, otherwise: str = "resample") -> int | None:
    """The number of samples that a signal must have; None where it may have any, as with ``data.patches``.

    ``otherwise`` is what counts where ``data.length`` is open: in data sets of earlier versions.
    """
    if data is None or len(data.shape) != 1 or data.patches is not None:
        return None
    return data.shape[0] if (data.length or otherwise) == "exact" else None


def of_length(found: Found, data: Data | None, otherwise: str = "resample") -> Iterator[Found]:
    """The signal itself, the reason why its length is refused, or its windows, ``.../window/0`` and so on."""
    if data is None or len(data.shape) != 1 or not isinstance(found.scan, Scan) or len(found.scan.shape) != 1:
        yield found
        return
    samples, wanted = found.scan.shape[0], data.shape[0]
    if (data.length or otherwise) == "windows":
        yield from _windows(found, found.scan, samples, wanted)
    elif samples != wanted and declared_length(data, otherwise) is not None:
        yield replace(found, scan=ScanError(f"a signal of {samples} samples, where data.shape declares {wanted}"))
    else:
        yield found


def _windows(found: Found, scan: Scan, samples: int, wanted: int) -> Iterator[Found]:
    if samples < wanted:
        yield replace(found, scan=ScanError(f"a signal of {samples} samples, shorter than a window of {wanted}"))
    for number in range(samples // wanted):
        piece = np.ascontiguousarray(scan.array[:, number * wanted : (number + 1) * wanted])
        item = "/".join(filter(None, (found.item, f"window/{number}")))
        yield replace(found, item=item, scan=replace(scan, array=piece), part_of=found.item)
