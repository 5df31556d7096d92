from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy
import numpy as np
import pytest
import skimage
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.tiff import TiffReader
from medfuncta_dist.scans.scan import Scan
from tests.unit.scans.archive import all_found, only

READER, STACKED = TiffReader(), TiffReader(stacked=True)
SKIMAGE = Path(skimage.__file__).parent / "data"
RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 2**16, (20, 30, 4)).astype(np.uint16)
COLOUR = DEEP[..., :3]


def written(path: Path, array: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, array, **options)
    return path


def channels_first(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.atleast_3d(array), -1, 0)


def refusal(path: Path, reader: TiffReader = READER) -> str:
    with pytest.raises(ScanError) as error:
        all_found(reader, path)
    assert path.name not in str(error.value)
    return error.value.what


LAYOUTS: list[dict[str, Any]] = [
    {},
    {"compression": "zlib"},
    {"byteorder": ">"},
    {"tile": (16, 16)},
    {"compression": "zlib", "tile": (16, 16)},
    {"compression": "zlib", "rowsperstrip": 7},
    {"bigtiff": True},
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f2", "f4", "f8"])
def test_grey_of_every_type_is_what_was_written(tmp_path: Path, dtype: str, layout: dict[str, Any]) -> None:
    array = RNG.integers(-127 if dtype[0] != "u" else 0, 127, (20, 30)).astype(dtype)
    scan = only(READER, written(tmp_path / "a.tif", array, **layout))
    np.testing.assert_array_equal(scan.array[0], array)
    assert (scan.spacing, scan.affine, scan.modality) == ((1, 1), None, "PX")


@given(
    hypothesis.extra.numpy.arrays(
        st.sampled_from([np.uint8, np.uint16]), st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3))
    ),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_colour_keeps_every_bit(
    tmp_path_factory: pytest.TempPathFactory, colour: np.ndarray, apart: bool, packed: bool
) -> None:
    array = np.ascontiguousarray(np.moveaxis(colour, -1, 0)) if apart else colour
    options: dict[str, Any] = {"planarconfig": "separate" if apart else "contig", "photometric": "rgb"}
    options |= {"compression": "zlib", "predictor": not apart} if packed else {}
    scan = only(READER, written(tmp_path_factory.mktemp("t") / "a.tif", array, **options))
    assert scan.array.dtype == colour.dtype
    np.testing.assert_array_equal(scan.array, np.moveaxis(colour, -1, 0))


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_what_pillow_writes_is_read_whole(tmp_path: Path, compression: str, predictor: int) -> None:
    low = (DEEP >> 8).astype(np.uint8)
    images = {
        "L": Image.fromarray(low[..., 0]),
        "RGB": Image.fromarray(low[..., :3]),
        "I;16": Image.fromarray(DEEP[..., 0]),
        "I": Image.fromarray(DEEP[..., 0].astype(np.int32) - 30_000),
        "1": Image.fromarray(low[..., 0] > 100),
    }
    for mode, image in images.items():
        if predictor != 1 and (compression == "packbits" or mode == "1"):
            continue
        image.save(tmp_path / "a.tif", compression=compression, tiffinfo={317: predictor})
        expected = np.asarray(image) * 255 if mode == "1" else np.asarray(image)
        np.testing.assert_array_equal(only(READER, tmp_path / "a.tif").array, channels_first(expected), mode)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("predictor", [1, 3])
def test_compressed_floats(tmp_path: Path, compression: str, predictor: int) -> None:
    array = RNG.normal(size=(20, 30)).astype(np.float32)
    Image.fromarray(array).save(tmp_path / "a.tif", compression=compression, tiffinfo={317: predictor})
    np.testing.assert_array_equal(only(READER, tmp_path / "a.tif").array[0], array)


def test_jpeg_and_fax(tmp_path: Path) -> None:
    grey = np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))
    Image.fromarray(np.dstack([grey] * 3)).save(tmp_path / "a.tif", compression="jpeg", quality=95)
    assert np.abs(only(READER, tmp_path / "a.tif").array.astype(int) - grey).max() < 8
    Image.fromarray(grey > 90).save(tmp_path / "a.tif", compression="group4")
    np.testing.assert_array_equal(only(READER, tmp_path / "a.tif").array[0], (grey > 90) * 255)


def test_what_would_lose_bits_is_refused_by_name(tmp_path: Path) -> None:
    """LZW colour of 16 bits, which no writer here makes: Pillow's file of 8 bits, with the header of 16."""
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((8, 9, 6), np.uint8)[..., :3]).save(path, compression="tiff_lzw")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["BitsPerSample"].overwrite((16, 16, 16))
    assert refusal(path) == "3 values of 16 bits per pixel, compressed by LZW: save it uncompressed or deflated"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_where_0_is_white_high_is_bright(tmp_path: Path, dtype: type, compression: str | None) -> None:
    array = (DEEP[..., 0] >> (8 if dtype is np.uint8 else 0)).astype(dtype)
    written(tmp_path / "a.tif", array, photometric="miniswhite")
    white = np.iinfo(dtype).max - array
    np.testing.assert_array_equal(only(READER, tmp_path / "a.tif").array[0], white)
    Image.fromarray(white if dtype is np.uint8 else array).save(  # of 16 bits, Pillow stores them as they are
        tmp_path / "b.tif", compression=compression, tiffinfo={262: 0}
    )
    np.testing.assert_array_equal(only(READER, tmp_path / "b.tif").array[0], white)
    written(tmp_path / "c.tif", array.astype(np.float32), photometric="miniswhite")
    assert refusal(tmp_path / "c.tif") == "0 is white, and the values have no largest one"


def test_palettes(tmp_path: Path) -> None:
    indexes = (DEEP[..., 0] >> 8).astype(np.uint8)
    palette = RNG.integers(0, 2**16, (3, 256)).astype(np.uint16)
    for colours, expected in [
        (palette, palette),
        (palette // 257 * 257, (palette // 257).astype(np.uint8)),
        (palette // 256 * 256, (palette // 256).astype(np.uint8)),
    ]:
        array = only(READER, written(tmp_path / "a.tif", indexes, photometric="palette", colormap=colours)).array
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected[:, indexes])
    image = Image.fromarray(indexes).convert("P")
    image.save(tmp_path / "b.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(
        only(READER, tmp_path / "b.tif").array, channels_first(np.asarray(image.convert("RGB")))
    )


def test_few_bits_are_spread_over_8(tmp_path: Path) -> None:
    array = only(READER, written(tmp_path / "a.tif", DEEP[..., 0] > 999, photometric="minisblack")).array
    np.testing.assert_array_equal(array[0], (DEEP[..., 0] > 999) * 255)


def test_transparency_is_black(tmp_path: Path) -> None:
    black = channels_first(np.rint(COLOUR.astype(float) * DEEP[..., 3:] / 65535))
    path = written(tmp_path / "a.tif", DEEP, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(only(READER, path).array, black)
    path = written(tmp_path / "a.tif", DEEP, photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_array_equal(only(READER, path).array, channels_first(COLOUR))  # it is multiplied already
    path = written(tmp_path / "a.tif", DEEP, photometric="rgb", extrasamples=["unspecified"])
    assert "does not say that it is transparency" in refusal(path)
    low = (DEEP >> 8).astype(np.uint8)
    Image.fromarray(low).save(path, compression="tiff_lzw")
    expected = np.rint(low[..., :3].astype(float) * low[..., 3:] / 255)
    np.testing.assert_array_equal(only(READER, path).array, channels_first(expected))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_the_orientation_is_followed(tmp_path: Path, orientation: int, compression: str | None) -> None:
    grey = (DEEP[..., 0] >> 8).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.tif", compression=compression, tiffinfo={274: orientation})
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(grey).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(only(READER, tmp_path / "a.tif").array[0], expected)


def test_pages_are_pictures_or_the_slices_of_a_volume(tmp_path: Path) -> None:
    pages = RNG.integers(0, 255, (4, 5, 6)).astype(np.uint8)
    path = written(tmp_path / "a.tif", pages, photometric="minisblack")
    found = all_found(READER, path)
    assert [(f.item, f.alike) for f in found] == [(f"page/{n}", True) for n in range(4)]
    for page, one in zip(pages, found, strict=True):
        assert isinstance(one.scan, Scan)
        np.testing.assert_array_equal(one.scan.array[0], page)
    volume = only(STACKED, path)
    np.testing.assert_array_equal(volume.array[0], np.moveaxis(pages, 0, -1))
    assert (volume.spacing, volume.modality) == ((1, 1, 1), "OT")


@pytest.mark.parametrize(("name", "channels"), [("multipage.tif", 1), ("multipage_rgb.tif", 3)])
def test_real_pages_as_tifffile_has_them(name: str, channels: int) -> None:
    expected = tifffile.imread(SKIMAGE / name)
    found = all_found(READER, SKIMAGE / name)
    assert len(found) == len(expected) > 1
    for page, one in zip(expected, found, strict=True):
        assert isinstance(one.scan, Scan)
        np.testing.assert_array_equal(one.scan.array, page.reshape(channels, *page.shape[-2:]).astype(np.float32))


def test_ambiguous_pages_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    grey = np.zeros((16, 16), np.uint8)
    with tifffile.TiffWriter(path) as file:
        file.write(grey)
        file.write(grey[:8, :8])
    assert refusal(path) == "pages of different sizes or types"
    with tifffile.TiffWriter(path) as file:
        file.write(grey)
        file.write(grey[:8, :8], subfiletype=1)
    assert refusal(path) == "some pages are reduced copies or masks of others"
    stack = np.zeros((3, 2, 16, 16), np.uint8)
    assert "ImageJ" in refusal(written(path, stack, imagej=True, metadata={"axes": "TCYX"}))
    assert len(all_found(READER, written(path, stack[0], imagej=True, metadata={"axes": "ZYX"}))) == 2
    assert "OME" in refusal(written(path, stack[0], ome=True, photometric="minisblack", metadata={"axes": "CYX"}))


def test_pages_in_a_circle_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", np.zeros((200, 4, 4), np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as file:
        pages: list[Any] = list(file.pages)
        at = pages[-1].offset + 2 + 12 * len(pages[-1].tags)
        raw = bytearray(path.read_bytes())
    raw[at : at + 4] = pages[120].offset.to_bytes(4, "little")
    path.write_bytes(raw)
    assert "the same again" in refusal(path)


def test_other_colours_and_layouts_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    four = np.zeros((8, 9, 4), np.uint8)
    Image.fromarray(four, "CMYK").save(path)
    assert refusal(path) == "a picture in CMYK"
    Image.fromarray(four[..., :3], "LAB").save(path)
    assert refusal(path) == "a picture in CIELAB"
    assert refusal(written(path, np.zeros((8, 9), np.complex64))) == "the values are not integers or real numbers"
    solid = np.zeros((4, 16, 16), np.uint8)
    assert "rows and columns" in refusal(written(path, solid, volumetric=True, photometric="minisblack"))
    Image.fromarray(four[..., 0]).save(path, compression="lzma")
    assert refusal(path) == "a compression that is not read"


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", DEEP[..., 0])
    whole = path.read_bytes()
    for cut in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert refusal(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert refusal(path) == "not a readable TIFF file"


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", np.zeros((16, 16), np.uint8), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        for name, value in (("ImageWidth", 60_000), ("ImageLength", 60_000), ("RowsPerStrip", 60_000)):
            file.pages[0].tags[name].overwrite(value, dtype="I")
    assert "the header declares 3600000000 values" in refusal(path)


def test_a_small_picture_in_a_huge_part_is_a_bomb(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", np.zeros((16, 16), np.uint8), compression="zlib")
    bomb = zlib.compress(bytes(2**26))
    at = path.stat().st_size
    path.write_bytes(path.read_bytes() + bomb)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["StripOffsets"].overwrite((at,), dtype="I")
        file.pages[0].tags["StripByteCounts"].overwrite((len(bomb),), dtype="I")
    assert "decompression bomb" in refusal(path)


def test_pages_that_share_their_bytes_are_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for _ in range(40):
            file.write(np.zeros((16, 16), np.uint8), compression="zlib", metadata=None)
    at, strip = path.stat().st_size, zlib.compress(bytes(3000 * 3000))
    path.write_bytes(path.read_bytes() + strip)
    with tifffile.TiffFile(path, mode="r+") as file:
        for page in list(file.pages):
            tags = {"StripOffsets": at, "StripByteCounts": len(strip)}
            for name, value in (tags | dict.fromkeys(["ImageWidth", "ImageLength", "RowsPerStrip"], 3000)).items():
                page.tags[name].overwrite(value, dtype="I")  # type: ignore[union-attr]
    for reader in (READER, STACKED):
        assert "decompression bomb" in refusal(path, reader)
