"""FreeSurfer's MGH, plain or gzipped (MGZ); nibabel brings volumes to RAS+ order (flips and swaps of axes only)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import DATA_OFFSET, MGHHeader

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.reader import Found, refusing
from medfuncta_dist.scans.readers.volume_file import chosen_volume, found_volumes, head, layout

FRAMES_AT = 16
"""Bytes before the number of frames in a header."""


class MghReader:
    """Every frame of a file, or one of them: ``volume`` as ``data.volume``, None for each."""

    name = "mgh"
    suffixes: tuple[str, ...] = (".mgh", ".mgz")

    def __init__(self, volume: int | None = None) -> None:
        self._volume = volume

    def for_data(self, data: Data) -> MghReader:
        """The reader that follows a run file."""
        return MghReader(chosen_volume(data))

    def scans(self, path: Path) -> Iterator[Found]:
        """The file's frames, each a volume."""
        reason = "not a readable MGH file"
        with refusing(reason):
            start = head(path, DATA_OFFSET)
            if len(start) < DATA_OFFSET or start[:4] != b"\0\0\0\1":
                raise ScanError("not an MGH file")
            header: Any = MGHHeader(start)  # type: ignore[no-untyped-call]
            of = layout(DATA_OFFSET, tuple(int(n) for n in header["dims"]), _dtype(header))
        yield from found_volumes(path, of, self._volume, partial(_image, start), reason)


def _dtype(header: Any) -> np.dtype:
    try:
        dtype: np.dtype = np.dtype(header.get_data_dtype())
    except KeyError:
        raise ScanError("an MGH file of a type of values that is not read") from None
    return dtype


def _image(start: bytes, volume: bytes) -> Any:
    one_frame = start[:FRAMES_AT] + (1).to_bytes(4, "big") + start[FRAMES_AT + 4 :]
    return nib.MGHImage.from_bytes(one_frame + volume)
