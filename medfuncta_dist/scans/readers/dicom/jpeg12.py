"""Frames of JPEG Extended with 12 bits. GDCM decodes them; pydicom does not ask it for more than 8 bits."""

from __future__ import annotations

import numpy as np
import pydicom
from pydicom.uid import JPEGExtended12Bit

BITS = 12


def is_jpeg12(dataset: pydicom.Dataset) -> bool:
    """Whether the frames are of this kind; those of 8 bits are not."""
    return bool(dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit and dataset.BitsStored > 8)


def jpeg12_pixels(frame: bytes, dataset: pydicom.Dataset) -> np.ndarray:
    """(row, column) as stored, uint16 or int16. ``frame``: one compressed image of one sample per pixel."""
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, BITS, BITS - 1, 0))
    decoded = image.GetBuffer().encode("utf-8", "surrogateescape")  # bytes, which GDCM returns as text
    pixels = np.frombuffer(decoded, "<u2").reshape(rows, columns)
    return _signed(pixels) if dataset.PixelRepresentation else pixels.astype(np.uint16)


def _signed(pixels: np.ndarray) -> np.ndarray:
    """The 12 bits as a two's complement, which JPEG knows nothing of."""
    spare = 16 - BITS
    return np.asarray((pixels << spare).astype(np.int16) >> spare)
