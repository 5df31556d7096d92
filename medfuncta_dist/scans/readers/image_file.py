"""PNG, JPEG and BMP pictures, (row, column), grey or colour, 8 or 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.reader import Found, check_inflation, check_size, refusing, silence_logger
from medfuncta_dist.scans.readers.transparency import on_black
from medfuncta_dist.scans.scan import Scan, stored

silence_logger("PIL")

DIRECT = ("L", "RGB", "I", "I;16", "I;16B")
"""Pillow's modes that are taken as they are."""
START_OF_SCAN, MAX_PASSES = b"\xff\xda", 100
"""A marker that coded data cannot contain. Encoders write about ten passes."""
AS_GREY = ("1", "LA")
AS_COLOUR = ("P", "PA", "RGBA", "CMYK", "YCbCr")
HIGH_BYTES, LOW_BYTES = ";16B", ";16L"
"""Of 16 bits a colour Pillow keeps the first byte where it takes the picture for big-endian, as PNG is, and the second
where it takes it for little-endian."""


class ImageReader:
    """One picture per file. Transparent parts are black; a photograph's orientation tag is followed."""

    name = "image"
    suffixes: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".bmp")

    def scans(self, path: Path) -> Iterator[Found]:
        """The file's picture."""
        yield Found("", None, _read(path))


def _read(path: Path) -> Scan:
    # Pillow refuses some decompression bombs at open; ``check_size`` applies the limit of all formats.
    reason = "not a readable PNG, JPEG or BMP file"
    with refusing(reason), Image.open(path, formats=("PNG", "JPEG", "BMP")) as image:
        check_inflation(check_size((*image.size, len(image.getbands()))), path.stat().st_size)
        _check_passes(image, path)
        if getattr(image, "n_frames", 1) != 1:
            raise ScanError("a picture of several frames")
        if image.format == "PNG" and image.mode != "I;16" and any(";16" in str(tile[3]) for tile in image.tile):
            pixels = _of_16_bits(path, image)
        else:
            pixels = stored(np.asarray(_plain(ImageOps.exif_transpose(image))))
    array = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    return Scan(np.ascontiguousarray(array), (1.0, 1.0), None, "PX")


def _of_16_bits(path: Path, image: ImageFile.ImageFile) -> np.ndarray:
    """(row, column, 3) uint16 of a colour PNG of 16 bits a colour. Pillow would drop the lower 8 silently."""
    [tile] = image.tile
    if tile[3] not in ("RGB;16B", "RGBA;16B") or "transparency" in image.info:
        raise ScanError("a picture of 16 bits with transparency other than RGBA")
    high, low = (_bytes_of(path, image.mode, rawmode).astype(np.uint16) for rawmode in (HIGH_BYTES, LOW_BYTES))
    pixels = high * 256 + low
    return pixels if image.mode == "RGB" else on_black(pixels[..., :3], pixels[..., 3:])


def _bytes_of(path: Path, mode: str, rawmode: str) -> np.ndarray:
    """(row, column, channel) of either byte, in the orientation in which the picture is to be looked at."""
    with Image.open(path, formats=("PNG",)) as image:
        [tile] = image.tile
        image.tile = [tile._replace(args=mode + rawmode)]
        return np.asarray(ImageOps.exif_transpose(image))


def _check_passes(image: Image.Image, path: Path) -> None:
    """Each pass of a progressive JPEG goes over the whole picture again, and takes ten bytes of the file."""
    if image.format != "JPEG":
        return
    with path.open("rb") as file:
        passes = sum(part.count(START_OF_SCAN) for part in iter(lambda: file.read(2**20), b""))
    if passes > MAX_PASSES:
        raise ScanError(f"a JPEG picture of more than {MAX_PASSES} passes")


def _plain(image: Image.Image) -> Image.Image:
    """The same picture as grey or RGB, without palette or transparency."""
    if image.mode in DIRECT:
        return image
    if image.mode not in AS_GREY + AS_COLOUR:
        raise ScanError("a picture in a colour mode that is not read")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA")).convert("L" if image.mode == "LA" else "RGB")
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
