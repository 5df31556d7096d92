"""TIFF and BigTIFF, grey or colour, integers or floats of up to 32 bits.

tifffile reads the headers, and the values of uncompressed and deflated files. Pillow (libtiff) reads the others, where
its picture holds every bit of the file; what it would cut to 8 bits is refused.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PREDICTOR

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.bounded_file import BoundedFile
from medfuncta_dist.scans.readers.reader import Found, check_inflation, check_size, refusing, silence_logger
from medfuncta_dist.scans.readers.transparency import on_black
from medfuncta_dist.scans.scan import Scan, stored

silence_logger("tifffile")
silence_logger("PIL")

REASON = "not a readable TIFF file"
MAX_PAGES = 2**14
LARGEST_TAG = 2**26
"""Bytes of one tag: lists of the parts of a picture of 2^29 values are smaller."""
PREDICTORS = (PREDICTOR.NONE, PREDICTOR.HORIZONTAL)
"""What tifffile decodes without another package."""
DEFLATED = (COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE)
BY_PILLOW = {
    COMPRESSION.LZW: "LZW",
    COMPRESSION.PACKBITS: "PackBits",
    COMPRESSION.JPEG: "JPEG",
    COMPRESSION.CCITTRLE: "CCITT",
    COMPRESSION.CCITT_T4: "CCITT",
    COMPRESSION.CCITT_T6: "CCITT",
}
EXACT = {
    **dict.fromkeys([("1", 1), ("L", 2), ("L", 4), ("L", 8), ("P", 8), ("RGB", 8), ("RGBA", 8)], "u"),
    **dict.fromkeys([("I;16", 16), ("I;16B", 16)], "u"),
    **dict.fromkeys([("I", 16), ("I", 32)], "i"),
    ("F", 32): "f",
}
"""By Pillow's mode and the file's bits per value: the kind of values (NumPy's letter) of which it holds every bit."""
COLOURS = {
    PHOTOMETRIC.MINISWHITE: "grey",
    PHOTOMETRIC.MINISBLACK: "grey",
    PHOTOMETRIC.RGB: "colour",
    PHOTOMETRIC.PALETTE: "palette",
    PHOTOMETRIC.YCBCR: "colour",
}
REFUSED = {
    PHOTOMETRIC.SEPARATED: "CMYK",
    PHOTOMETRIC.MASK: "a mask",
    PHOTOMETRIC.CIELAB: "CIELAB",
    PHOTOMETRIC.YCBCR: "YCbCr",
}
REDUCED, MASK = 1, 4
"""Kinds of pages (NewSubfileType) that are no scans of their own."""
TURNS = {
    1: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}
"""By the tag Orientation: quarter turns (counter-clockwise), then whether left and right are exchanged."""


class TiffReader:
    """A picture per page; or, ``stacked``, all pages as one volume (row, column, page), for data sets of volumes."""

    name = "tiff"
    suffixes: tuple[str, ...] = (".tif", ".tiff")

    def __init__(self, stacked: bool = False) -> None:
        self._stacked = stacked

    def for_data(self, data: Data) -> TiffReader:
        """The reader that follows a run file."""
        return TiffReader(stacked=len(data.shape) == 3 or data.slices is not None)

    def scans(self, path: Path) -> Iterator[Found]:
        """The file's only page; or its pages ``page/0``, ..., which stay in one split; or the volume of its pages."""
        with refusing(REASON):
            file = BoundedFile(path)
            file.largest = LARGEST_TAG
        with file:
            with refusing(REASON):
                pages = _pages(tifffile.TiffFile(file))
                for page in pages:
                    _check(page)
                # Of all pages: they may share their bytes.
                check_inflation(sum(map(_bytes, pages)), path.stat().st_size)
                if self._stacked:
                    file.largest = None
            if len(pages) > 1 and self._stacked:
                with refusing(REASON):
                    yield Found("", None, _stack([_values(path, n, page) for n, page in enumerate(pages)]))
                return
            for number, page in enumerate(pages):
                with refusing(REASON):
                    scan = _scan(_values(path, number, page))
                yield Found(f"page/{number}" if len(pages) > 1 else "", None, scan, alike=len(pages) > 1)


def _pages(file: tifffile.TiffFile) -> list[Any]:
    """All pages; ScanError where they are not scans of one kind."""
    pages, offsets = list[Any](), set[int]()
    with suppress(IndexError):  # not len(file.pages): it would follow a circle of pages for ever
        while len(offsets) == len(pages) <= MAX_PAGES:
            pages.append(file.pages.get(len(pages), cache=True))
            offsets.add(pages[-1].offset)
    if not 0 < len(offsets) == len(pages) <= MAX_PAGES:
        raise ScanError(f"no page, more than {MAX_PAGES}, or the same again")
    if any(int(page.subfiletype) & (REDUCED | MASK) for page in pages):
        raise ScanError("some pages are reduced copies or masks of others")
    if len({(page.shape, page.dtype, page.photometric) for page in pages}) > 1:
        raise ScanError("pages of different sizes or types")
    _check_channels(file, len(pages))
    return pages


def _check_channels(file: tifffile.TiffFile, pages: int) -> None:
    """ScanError where the file's own description says that pages are channels of one picture, or lie elsewhere."""
    told = file.imagej_metadata if file.is_imagej else None
    if told and (told.get("channels", 1) > 1 or told.get("images", 1) > pages):
        raise ScanError("an ImageJ file of several channels, or without a page for each image")
    if file.is_ome and (pages > 1 or "UUID" in (file.ome_metadata or "")):
        raise ScanError("an OME file of several pages: they may be channels, and other files may be parts of it")


def _bytes(page: Any) -> int:
    return int(np.prod(page.shape, dtype=object)) * int(page.dtype.itemsize)


def _check(page: Any) -> None:
    """ScanError, before anything is allocated, for what is not read, and for pictures that are too large."""
    check_size(page.shape)
    if page.dtype is None or page.dtype.kind not in "buif":
        raise ScanError("the values are not integers or real numbers")
    kind = COLOURS.get(page.photometric)
    if kind is None or (page.photometric == PHOTOMETRIC.YCBCR and page.compression != COMPRESSION.JPEG):
        raise ScanError(f"a picture in {REFUSED.get(page.photometric, 'a colour model that is not read')}")
    if page.axes not in ("YX", "YXS", "SYX"):
        raise ScanError("a page that is not a picture of rows and columns")
    if page.bitspersample not in (1, 2, 4, 8, 16, 32, 64):
        raise ScanError(f"{page.bitspersample} bits per value")
    _check_samples(page, kind)
    if page.compression not in (COMPRESSION.NONE, *DEFLATED, *BY_PILLOW):
        raise ScanError("a compression that is not read")


def _check_samples(page: Any, kind: str) -> None:
    extra = tuple(page.extrasamples)
    if page.samplesperpixel - len(extra) != {"grey": 1, "colour": 3, "palette": 1}[kind] or len(extra) > 1:
        raise ScanError(f"{page.samplesperpixel} values per pixel")
    if extra and (extra[0] == EXTRASAMPLE.UNSPECIFIED or page.dtype.kind != "u"):
        raise ScanError("a further value per pixel, of which the file does not say that it is transparency")


def _by_tifffile(page: Any) -> bool:
    return page.compression not in BY_PILLOW and page.predictor in PREDICTORS


def _values(path: Path, number: int, page: Any) -> np.ndarray:
    """(row, column, channel) of a page, grey or colour, high is bright, as it is to be looked at."""
    if not _by_tifffile(page):
        return _decoded_by_pillow(path, number, page)
    if page.compression in DEFLATED:
        _check_parts(page)
    with refusing(REASON):
        values = page.asarray(maxworkers=1)
    if values.shape != page.shape:
        raise ScanError("the file is shorter than its header declares")
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    return _turned(_opaque(_bright(_with_channels(values), page), page), page)


def _with_channels(values: np.ndarray) -> np.ndarray:
    return values[..., None] if values.ndim == 2 else values


def _check_parts(page: Any) -> None:
    """Inflate every part, a piece at a time: the library would inflate one whole, whatever it becomes."""
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    row = columns * (1 if page.planarconfig == 2 else page.samplesperpixel) * page.bitspersample
    largest = rows * (-(-row // 8)) + 2**16
    for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        page.parent.filehandle.seek(offset)
        inflater, inflated = zlib.decompressobj(), 0
        piece = page.parent.filehandle.read(length)
        while piece and not inflater.eof:
            inflated += len(inflater.decompress(piece, 2**20))
            piece = inflater.unconsumed_tail
            if inflated > largest:
                raise ScanError("a part of the picture inflates to more than it holds: a decompression bomb")


def _decoded_by_pillow(path: Path, number: int, page: Any) -> np.ndarray:
    """(row, column, channel) as it is to be looked at; Pillow follows the tag Orientation."""
    with Image.open(path, formats=("TIFF",)) as image:
        image.seek(number)
        if EXACT.get((image.mode, page.bitspersample)) != page.dtype.kind.replace("b", "u"):
            how = BY_PILLOW.get(page.compression, "deflate with a predictor of floats")
            kind = f"{page.samplesperpixel} values of {page.bitspersample} bits"
            raise ScanError(f"{kind} per pixel, compressed by {how}: save it uncompressed or deflated")
        if sorted(image.size) != sorted((page.imagewidth, page.imagelength)):
            raise ScanError(REASON)
        values = np.asarray(image)
    if image.mode == "P":
        return _by_palette(values, page)
    if image.mode.startswith("I;16") and page.photometric == PHOTOMETRIC.MINISWHITE:
        values = np.iinfo(np.uint16).max - values  # Pillow does so for 8 bits only
    values = values.astype(np.uint8) * 255 if values.dtype == bool else values
    values = values.astype(page.dtype) if image.mode == "I" else values
    return _opaque(_with_channels(values), page)


def _bright(values: np.ndarray, page: Any) -> np.ndarray:
    """Fewer than 8 bits spread over 8, as in PNG; palettes as colours; 0 as black."""
    bits = page.bitspersample
    if page.photometric == PHOTOMETRIC.PALETTE:
        return _by_palette(values[..., 0], page)
    if bits < 8:
        values = (values.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    if page.photometric != PHOTOMETRIC.MINISWHITE:
        return values
    if values.dtype.kind != "u":
        raise ScanError("0 is white, and the values have no largest one")
    return np.concatenate([np.iinfo(values.dtype).max - values[..., :1], values[..., 1:]], axis=-1)


def _by_palette(indexes: np.ndarray, page: Any) -> np.ndarray:
    """(row, column, 3): 8 bits where the palette's 16-bit numbers are such, times 256 or 257, else 16."""
    palette = np.asarray(page.colormap)
    if palette.shape[0] != 3 or indexes.max() >= palette.shape[1]:
        raise ScanError("a value that is not in the palette")
    if not (palette % 257).any() or not (palette % 256).any():
        palette = (palette >> 8).astype(np.uint8)
    return np.moveaxis(palette[:, indexes], 0, -1)


def _opaque(values: np.ndarray, page: Any) -> np.ndarray:
    """Without transparency: over black. Colours that are multiplied with it already are so."""
    if not page.extrasamples:
        return values
    colour, alpha = values[..., :-1], values[..., -1:]
    return colour if page.extrasamples[0] == EXTRASAMPLE.ASSOCALPHA else on_black(colour, alpha)


def _turned(values: np.ndarray, page: Any) -> np.ndarray:
    tag = page.tags.get(274)
    turns, mirrored = TURNS.get(int(tag.value) if tag is not None else 1, (0, False))
    turned = np.rot90(values, turns)
    return turned[:, ::-1] if mirrored else turned


def _scan(values: np.ndarray) -> Scan:
    return Scan(np.ascontiguousarray(np.moveaxis(stored(values), -1, 0)), (1.0, 1.0), None, "PX")


def _stack(pages: list[np.ndarray]) -> Scan:
    check_size((*pages[0].shape, len(pages)))
    return Scan(
        np.ascontiguousarray(np.stack([np.moveaxis(stored(p), -1, 0) for p in pages], -1)), (1.0,) * 3, None, "OT"
    )
