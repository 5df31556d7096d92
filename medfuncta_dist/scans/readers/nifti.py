"""NIfTI-1 and -2, plain or gzipped, in one file or in a pair (.hdr and .img); nibabel brings volumes to RAS+ order
(flips and swaps of axes only)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.reader import Found, refusing, silence_logger
from medfuncta_dist.scans.readers.volume_file import Layout, chosen_volume, found_volumes, head, layout
from medfuncta_dist.storage.sources import suffix

silence_logger("nibabel.global")

KINDS: tuple[Any, ...] = (nib.Nifti1Image, nib.Nifti2Image)
ANALYZE: Any = nib.AnalyzeImage.header_class
SINGLE, PAIR = (b"n+1", b"n+2"), (b"ni1", b"ni2")
"""Magic of a file with header and values, and of a header whose values are in another file."""
UNIT_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
LABELS = 1002
"""Intent of a map of labels: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h"""
MANY_VALUES = {1004: "matrices", 1005: "matrices", 1006: "displacements", 1007: "vectors", 1010: "quaternions"}
"""Intents of files whose further axes are components of a voxel's value, not volumes."""
HEADERS = {".hdr": ".img", ".hdr.gz": ".img.gz"}
"""Suffix of the header of a pair, and of its values."""
HALF_OF_PAIR = "half of a pair: its other file (.hdr or .img) is in neither the same folder nor the same archive file"


class NiftiReader:
    """Every volume of a file, or one of them: ``volume`` as ``data.volume``, None for each."""

    name = "nifti"
    suffixes: tuple[str, ...] = (".nii", ".nii.gz", ".img", ".hdr", ".img.gz", ".hdr.gz")

    def __init__(self, volume: int | None = None) -> None:
        self._volume = volume

    def for_data(self, data: Data) -> NiftiReader:
        """The reader that follows a run file."""
        return NiftiReader(chosen_volume(data))

    def parts(self, path: Path) -> list[str]:
        """Of a pair, the suffix of the other file."""
        other = other_of_pair(path.name)
        return [] if other is None else [suffix(other)]

    def scans(self, path: Path) -> Iterator[Found]:
        """The file's volumes. Of a pair, either file will do; the other one lies beside it."""
        reason = "not a readable NIfTI file"
        with refusing(reason):
            header_file, values_file = _files(path)
            start = head(header_file, max(kind.header_class.sizeof_hdr for kind in KINDS))
            kind, header = _header(start, paired=header_file != values_file)
            of = _layout(header)
            is_labels = int(header["intent_code"]) == LABELS
        for found in found_volumes(values_file, of, self._volume, partial(_image, kind, header), reason):
            yield replace(found, mask=is_labels)


def other_of_pair(name: str) -> str | None:
    """The path or URI of the file that belongs to one of a pair; None for any other name."""
    for header, values in HEADERS.items():
        for here, there in ((header, values), (values, header)):
            if name.lower().endswith(here):
                own = name[len(name) - len(here) :]
                return name[: -len(here)] + (there.upper() if own.isupper() else there)
    return None


def values_of_pair(name: str) -> str:
    """The name by which a pair is known: that of its values. Any other name stays."""
    other = other_of_pair(name)
    return other if other is not None and name.lower().endswith(tuple(HEADERS)) else name


def _files(path: Path) -> tuple[Path, Path]:
    """The files of header and values."""
    other = other_of_pair(str(path))
    if other is None:
        return path, path
    if not Path(other).is_file():
        raise ScanError(HALF_OF_PAIR)
    values = Path(values_of_pair(str(path)))
    return Path(other) if values == path else path, values


def _header(start: bytes, paired: bool) -> tuple[Any, Any]:
    kind = next((kind for kind in KINDS if kind.header_class.may_contain_header(start)), None)
    if kind is None:
        if paired and ANALYZE.may_contain_header(start):
            raise ScanError("an Analyze 7.5 header, which does not say which side is left")
        raise ScanError("not a NIfTI file")
    header = kind.header_class(start[: kind.header_class.sizeof_hdr])
    if (bytes(header["magic"])[:3] in PAIR) != paired:
        where = "in this file" if paired else "in another file"
        raise ScanError(f"a NIfTI header whose values are {where}")
    return kind, header


def _layout(header: Any) -> Layout:
    if (kind := MANY_VALUES.get(int(header["intent_code"]))) is not None:
        raise ScanError(f"{kind}, not an image")
    return layout(int(header.get_data_offset()), header.get_data_shape(), header.get_data_dtype())


def _image(kind: Any, header: Any, volume: bytes) -> Any:
    """An image of one volume in one file, without extensions; nibabel takes geometry and scaling from the header."""
    single = header.copy()
    single["magic"] = kind.header_class.single_magic
    single["vox_offset"] = kind.header_class.single_vox_offset
    if single["dim"][0] > 3:
        single["dim"][0], single["dim"][4:] = 3, 1
    gap = bytes(int(single["vox_offset"]) - kind.header_class.sizeof_hdr)
    image = kind.from_bytes(single.binaryblock + gap + volume)
    factor = UNIT_MM[image.header.get_xyzt_units()[0]]
    return _InMm(image, factor) if factor != 1 else image


class _InMm:
    """An image whose affine is in mm, which its header has in another unit."""

    def __init__(self, image: Any, factor: float) -> None:
        self.dataobj, self.affine = image.dataobj, image.affine.copy()
        self.affine[:3] *= factor
