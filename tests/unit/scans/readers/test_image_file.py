from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.image_file import ImageReader
from tests.unit.scans.archive import all_found, only
from tests.writers import write_png

READER = ImageReader()
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ScanError) as error:
        all_found(READER, path)
    assert path.name not in str(error.value)
    return error.value.what


def test_grey_png_is_what_was_written(tmp_path: Path) -> None:
    scan = only(READER, saved(tmp_path / "a.png", Image.fromarray(GREY)))
    assert (scan.array == GREY[None]).all()
    assert (scan.spacing, scan.affine, scan.modality) == ((1, 1), None, "PX")


def test_colour_has_three_channels_first(tmp_path: Path) -> None:
    colour = np.stack([GREY, GREY + 1, GREY + 2], axis=-1)
    scan = only(READER, saved(tmp_path / "a.png", Image.fromarray(colour)))
    assert (scan.array == np.moveaxis(colour, -1, 0)).all()


def test_16_bits_are_kept(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 257
    scan = only(READER, saved(tmp_path / "a.png", Image.fromarray(deep)))
    assert scan.array.max() == 220 * 257
    assert (scan.array[0] == deep).all()


def test_jpeg_is_close_to_what_was_written(tmp_path: Path) -> None:
    png = only(READER, write_png(tmp_path / "a.png", (32, 32)))
    jpeg = only(READER, write_png(tmp_path / "a.jpg", (32, 32)))
    assert np.abs(jpeg.array.astype(int) - png.array).mean() < 3


def test_palette_bits_and_transparency(tmp_path: Path) -> None:
    colour = Image.fromarray(np.stack([GREY, GREY, GREY], axis=-1))
    assert only(READER, saved(tmp_path / "p.png", colour.convert("P"))).channels == 3
    bits = only(READER, saved(tmp_path / "1.png", Image.fromarray(GREY > 100)))
    assert set(np.unique(bits.array)) == {0, 255}
    clear = np.dstack([np.full((3, 4, 3), 200, np.uint8), np.where(GREY > 100, 255, 0)]).astype(np.uint8)
    array = only(READER, saved(tmp_path / "c.png", Image.fromarray(clear))).array
    assert (array == np.where(GREY > 100, 200, 0)).all()
    grey_clear = np.dstack([np.full((3, 4), 200, np.uint8), np.where(GREY > 100, 255, 0)]).astype(np.uint8)
    array = only(READER, saved(tmp_path / "l.png", Image.fromarray(grey_clear, "LA"))).array
    assert (array == np.where(GREY > 100, 200, 0)).all()
    assert array.shape[0] == 1


def test_the_orientation_of_a_photograph_is_followed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to look at it
    image = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8).repeat(8, axis=1), (8, 1)))
    scan = only(READER, saved(tmp_path / "a.jpg", image, exif=exif))
    assert scan.shape == (16, 8)
    assert scan.array[0, :6].mean() < 5 < 250 < scan.array[0, -6:].mean()


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    """A PNG of 60 kB that declares, and really holds, 60 000 x 60 000 black bits."""
    header = bytearray(saved(tmp_path / "a.png", Image.new("1", (8, 8))).read_bytes())
    side = 60_000
    header[16:24] = side.to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(header)
    assert refusal(tmp_path / "a.png") == "not a readable PNG, JPEG or BMP file"


def test_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    whole = write_png(tmp_path / "a.png", (64, 64)).read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    assert refusal(tmp_path / "a.png") == "not a readable PNG, JPEG or BMP file"
    tiff = io.BytesIO()
    Image.fromarray(GREY).save(tiff, "TIFF")
    (tmp_path / "b.png").write_bytes(tiff.getvalue())
    assert refusal(tmp_path / "b.png") == "not a readable PNG, JPEG or BMP file"


def test_16_bit_colour_is_refused_rather_than_cut(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + bytes(3 * 2 * 4) for _ in range(3))
    chunks = [b"IHDR" + (4).to_bytes(4, "big") + (3).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])]
    chunks += [b"IDAT" + zlib.compress(rows), b"IEND"]
    body = b"".join((len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in chunks)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert refusal(tmp_path / "a.png") == "a picture of 16 bits a colour"


def test_several_frames_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    path = saved(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:])
    assert refusal(path) == "a picture of several frames"
