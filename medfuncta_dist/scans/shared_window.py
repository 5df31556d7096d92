"""Images of one recording, a DICOM series or the frames of a file, share an intensity window: grey means one thing in
all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.canonical import prepared, windowed
from medfuncta_dist.scans.intensity import choose_joint_window, intensity_of, needs_values
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.scan import MAX_VALUES, Scan, Window

TOO_MANY = f"the images of a series hold more than {MAX_VALUES} values: too many for one intensity window"


def with_shared_window(found: Iterable[Found], data: Data) -> Iterator[Found]:
    """The same, where ``alike`` with one window that is chosen from the values of all of them.

    They are in memory at once, unless the window does not depend on their values
    (8-bit images, ``intensity.range``, a CT in Hounsfield units).
    Those that are refused for burned-in text do not count.
    """
    held: list[Found] = []
    values = 0
    for one in found:
        if not _takes_part(one, data):
            yield one
            continue
        one = _prepared(one, data)
        if isinstance(one.scan, ScanError):
            yield one
        elif not needs_values(one.scan.array.dtype, intensity_of(one.scan, data)):
            yield replace(one, scan=windowed(one.scan, data))
        elif values + one.scan.array.size > MAX_VALUES:
            yield replace(one, scan=ScanError(TOO_MANY))
        else:
            held.append(one)
            values += one.scan.array.size
    yield from _windowed(held, data)


def _takes_part(one: Found, data: Data) -> bool:
    return one.alike and isinstance(one.scan, Scan) and (one.burn_in is None or data.burned_in == "keep")


def _prepared(one: Found, data: Data) -> Found:
    assert isinstance(one.scan, Scan)
    try:
        return replace(one, scan=prepared(one.scan, data))
    except ScanError as error:
        return replace(one, scan=error)


def _windowed(held: list[Found], data: Data) -> Iterator[Found]:
    scans = [one.scan for one in held if isinstance(one.scan, Scan)]
    if not scans:
        return
    window: Window | ScanError
    try:
        window = choose_joint_window([scan.array for scan in scans], data.intensity)
    except ScanError as error:
        window = error
    for one, scan in zip(held, scans, strict=True):
        yield replace(one, scan=window if isinstance(window, ScanError) else replace(scan, window=window))
