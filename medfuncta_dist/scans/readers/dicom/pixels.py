"""The values of DICOM frames: decoded, padding as background, in the modality's units, colour as RGB.

Compressed frames are decoded by pydicom with GDCM and OpenJPEG (the extra ``dicom``). Neither is replaced by another
decoder that happens to be installed: lossy syntaxes would give other values on another machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pydicom
from pydicom._uid_dict import UID_dictionary
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    HTJ2K,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.dicom.geometry import Header
from medfuncta_dist.scans.readers.dicom.jpeg12 import is_jpeg12, jpeg12_pixels
from medfuncta_dist.scans.readers.reader import silence_logger
from medfuncta_dist.scans.scan import stored

for library in ("pylibjpeg", "openjpeg", "openjpeg.decode"):
    silence_logger(library)
with suppress(ImportError):
    import gdcm

    for switch_off in (gdcm.Trace.DebugOff, gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff):
        switch_off()  # it would write to stderr, where ``refusing`` cannot catch it

GDCM, OPENJPEG = frozenset({"gdcm"}), frozenset({"pylibjpeg"})
DECODERS = (
    dict.fromkeys((*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes), GDCM)
    | dict.fromkeys(JPEG2000TransferSyntaxes, GDCM | OPENJPEG)
    | dict.fromkeys((HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL), OPENJPEG)
)
"""pydicom's plugins that a syntax needs; the others (RLE, uncompressed) need none."""
J2K_START = b"\xff\x4f\xff\x51"
"""Start of codestream, then the marker of the segment with the image's size (ISO/IEC 15444-1, A.5.1)."""
PALETTE_ENTRIES = 256
"""Entries of an 8-bit palette that pydicom looks up without wrapping around."""


def check_syntax(dataset: pydicom.Dataset) -> None:
    """ScanError for pixels that cannot be decoded here; the reason names the syntax and what to install."""
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ScanError(f"a DICOM file compressed as {_name(syntax)}, which is not read") from None
    if not DECODERS.get(syntax, frozenset()) <= set(decoder.available_plugins):
        raise ScanError(
            f"a DICOM file compressed as {_name(syntax)}, whose decoder is not installed (extra dicom)",
            do="pip install 'medfuncta-dist[dicom]'",
        )
    if is_jpeg12(dataset) and (dataset.SamplesPerPixel, dataset.BitsAllocated) != (1, 16):
        raise ScanError(f"a DICOM file compressed as {_name(syntax)} with 12 bits that is no grey image of 16")


def decoded(dataset: pydicom.Dataset, index: int, frames: int) -> np.ndarray:
    """One frame as stored: (row, column), or (row, column, 3) as RGB.

    Checks the size that a compressed frame itself declares before it is decoded.
    """
    if dataset.file_meta.TransferSyntaxUID in DECODERS:
        frame = _checked_frame(dataset, index, frames)
        if is_jpeg12(dataset):
            return jpeg12_pixels(frame, dataset)
    pixels = pixel_array(dataset, index=index, number_of_frames=frames, allow_excess_frames=False)
    return _coloured(pixels, dataset) if dataset.PhotometricInterpretation == "PALETTE COLOR" else pixels


def values_of(pixels: np.ndarray, dataset: pydicom.Dataset, headers: Sequence[Header]) -> np.ndarray:
    """Frames as stored, (frame, row, column) or (frame, row, column, 3), to (channel, frame, row, column).

    ``headers``: of each frame. Padding becomes the smallest value of what is not padding.
    """
    values, padding = values_and_padding(pixels, dataset, headers)
    return values if padding is None else with_background(values, padding[None])


def values_and_padding(
    pixels: np.ndarray, dataset: pydicom.Dataset, headers: Sequence[Header]
) -> tuple[np.ndarray, np.ndarray | None]:
    """The same with padding as it is in the file; and where that is, (frame, row, column), None if nowhere."""
    if pixels.ndim == 4:
        return np.moveaxis(stored(pixels), -1, 0), None
    padding = _padding(pixels, dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = _inverted(pixels, int(dataset.BitsStored))
    return _in_units(pixels, dataset, headers)[None], None if padding is None or not padding.any() else padding


def with_background(values: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """The values, but where ``padding`` is the smallest one that is not; as they are if there is no other."""
    return values if padding.all() else np.where(padding, values[~padding].min(), values)


def in_hounsfield(header: Header) -> bool:
    """Whether the values of a CT frame are in Hounsfield units: it has a rescale, which gives them unless the file
    names another unit (DICOM PS3.3 C.8.2.1.1.2, Rescale Type)."""
    return header.get("RescaleIntercept") is not None and (header.get("RescaleType") or "HU") == "HU"


def _name(syntax: UID) -> str:
    """Of a syntax that the standard names: another UID is the file's own text."""
    return syntax.name if syntax in UID_dictionary else "an unknown transfer syntax"


def _checked_frame(dataset: pydicom.Dataset, index: int, frames: int) -> bytes:
    """A frame as it is compressed; ScanError if it declares more than the header."""
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    frame = get_frame(dataset.PixelData, index, number_of_frames=frames, extended_offsets=offsets)
    jpeg = dataset.file_meta.TransferSyntaxUID in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes)
    declared = _jpeg_values(frame) if jpeg else _j2k_values(frame)
    if declared > int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel):
        raise ScanError("a compressed DICOM frame declares more values than the file's header")
    return frame


def _j2k_values(frame: bytes) -> int:
    """Values that a JPEG 2000 codestream declares."""
    start = frame.index(J2K_START) + len(J2K_START) + 4
    x1, y1, x0, y0 = (int.from_bytes(frame[start + 4 * n : start + 4 * n + 4], "big") for n in range(4))
    return (x1 - x0) * (y1 - y0) * int.from_bytes(frame[start + 32 : start + 34], "big")


def _jpeg_values(frame: bytes) -> int:
    """Values that a JPEG or JPEG-LS frame declares in its start-of-frame segment (ISO/IEC 10918-1, B.2.2)."""
    at = 2
    while at + 10 <= len(frame):
        marker = frame[at + 1]
        if frame[at] != 0xFF or marker == 0xFF:
            at += 1  # fill bytes
        elif (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns = (int.from_bytes(frame[at + n : at + n + 2], "big") for n in (5, 7))
            return rows * columns * frame[at + 9]
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    raise ScanError("a compressed DICOM frame without a size")


def _coloured(pixels: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Palette indices to (row, column, 3)."""
    entries = int(dataset.RedPaletteColorLookupTableDescriptor[0]) or 2**16
    colours = apply_color_lut(pixels, dataset)[..., :3]
    if colours.dtype.itemsize == 1 and entries > PALETTE_ENTRIES:
        raise ScanError("a DICOM palette of more than 256 colours of 8 bits")
    return colours


def _padding(pixels: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray | None:
    """Where the frames are padding (DICOM PS3.3 C.7.5.1.1.2); None where the file names no padding."""
    ends = [dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")]
    if pixels.dtype.kind not in "iu" or ends[0] is None:
        return None
    ends = [_as_pixel(int(end), pixels.dtype) for end in ends if end is not None]
    return np.asarray((pixels >= min(ends)) & (pixels <= max(ends)))


def _as_pixel(value: int, dtype: np.dtype) -> int:
    """Some files write a negative padding value as an unsigned one, or the reverse."""
    bits = dtype.itemsize * 8
    value %= 2**bits
    return value - 2**bits if dtype.kind == "i" and value >= 2 ** (bits - 1) else value


def _inverted(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Reflect in the range of the stored bits; for signed values that is the bitwise complement."""
    if pixels.dtype.kind == "i":
        return np.asarray(np.invert(pixels))
    # No wrap-around: pydicom has cleared what was beyond the stored bits.
    return np.asarray(np.array(2**bits - 1, pixels.dtype) - pixels)


def _in_units(pixels: np.ndarray, dataset: pydicom.Dataset, headers: Sequence[Header]) -> np.ndarray:
    """In the modality's units; frames that are scaled differently as float32."""
    if "ModalityLUTSequence" in dataset:
        return stored(np.asarray(apply_modality_lut(pixels, dataset)))
    scales = [_scale(header) for header in headers]
    if len(set(scales)) == 1:
        return _rescaled(pixels, *scales[0])
    slopes, intercepts = (np.array(column, np.float64)[:, None, None] for column in zip(*scales, strict=True))
    return stored(pixels * slopes + intercepts)


def _scale(header: Header) -> tuple[float, float]:
    """Slope and intercept; an element may be present and empty."""
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def _rescaled(pixels: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Whole slopes keep integers integers, of 16 bits where they fit (most CT does)."""
    if (slope, intercept) == (1, 0):
        return stored(pixels)
    if pixels.dtype.kind == "f" or not (_is_short(slope) and _is_short(intercept)):
        return stored(pixels.astype(np.float64) * slope + intercept)
    values = pixels.astype(np.int64) * int(slope) + int(intercept)
    limits = np.iinfo(np.int16)
    return values.astype(np.int16) if limits.min <= values.min() and values.max() <= limits.max else stored(values)


def _is_short(number: float) -> bool:
    """A whole number that 32-bit pixels can be multiplied with in 64 bits."""
    return number.is_integer() and abs(number) < 2**30
