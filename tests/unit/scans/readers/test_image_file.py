from __future__ import annotations

import io
import zlib
from pathlib import Path

import hypothesis.extra.numpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.image_file import ImageReader
from tests.unit.scans.archive import all_found, only
from tests.writers import colour_png, write_png

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


@given(hypothesis.extra.numpy.arrays(np.uint16, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))))
@settings(max_examples=30, deadline=None)
def test_every_bit_of_16_bit_colour_is_kept(tmp_path_factory: pytest.TempPathFactory, colour: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("p") / "a.png"
    path.write_bytes(colour_png(colour))
    scan = only(READER, path)
    assert scan.array.dtype == np.uint16
    np.testing.assert_array_equal(scan.array, np.moveaxis(colour, -1, 0))


def test_16_bit_colour_is_laid_over_black(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 2**16, (3, 4, 4)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(colour_png(colour))
    expected = np.rint(colour[..., :3].astype(float) * colour[..., 3:] / 65535)
    np.testing.assert_array_equal(only(READER, tmp_path / "a.png").array, np.moveaxis(expected, -1, 0))


def test_16_bit_grey_with_transparency_is_refused_rather_than_cut(tmp_path: Path) -> None:
    raw = bytearray(colour_png(np.zeros((3, 4, 4), np.uint16)))
    rows = zlib.compress(b"".join(b"\0" + bytes(2 * 2 * 4) for _ in range(3)))
    raw[25] = 4
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    body = b"IDAT" + rows
    chunk = len(rows).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(bytes(raw[:33]) + chunk + raw[-12:])
    assert refusal(tmp_path / "a.png") == "a picture of 16 bits with transparency other than RGBA"


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_bmp_is_what_was_written(tmp_path: Path, mode: str) -> None:
    colour = np.stack([GREY, GREY // 2, 255 - GREY], axis=-1)
    image = Image.fromarray(colour).convert(mode)
    expected = np.asarray(image.convert("L") if mode == "1" else image.convert("RGB") if mode == "P" else image)
    array = only(READER, saved(tmp_path / "a.bmp", image)).array
    np.testing.assert_array_equal(array, np.moveaxis(np.atleast_3d(expected), -1, 0))


def test_a_bmp_that_declares_gigapixels_is_refused(tmp_path: Path) -> None:
    raw = bytearray(saved(tmp_path / "a.bmp", Image.fromarray(GREY)).read_bytes())
    for at, value in ((18, 60_000), (22, 60_000)):
        raw[at : at + 4] = value.to_bytes(4, "little")
    (tmp_path / "a.bmp").write_bytes(raw)
    assert refusal(tmp_path / "a.bmp") == "not a readable PNG, JPEG or BMP file"


def test_several_frames_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    path = saved(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:])
    assert refusal(path) == "a picture of several frames"
