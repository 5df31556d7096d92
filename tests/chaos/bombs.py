"""Small files that ask for a machine's whole memory, or for hours, and a process with limits to read them in.

python -m tests.chaos.bombs FOLDER    reads every bomb in its own child, a JSON line each
"""

from __future__ import annotations

import gc
import gzip
import io
import json
import lzma
import os
import resource
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile

from medfuncta_dist.config.load import parse as parse_run_file
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.readers.reader_registry import reader_named
from medfuncta_dist.shards.sample import decode
from medfuncta_dist.shards.shard_index import SCHEMA, parse_index
from medfuncta_dist.storage.commit_record import parse_record
from tests.bundles import read_through
from tests.writers import write_dicom, write_mgh, write_nifti

HEADROOM = 768 * 2**20
"""Bytes of address space that reading one file of a few kilobytes may take beyond what the process has."""

Read = Callable[[Path], Any]


def scans(reader: str) -> Read:
    """Read a file as packing does; a scan that is refused alone counts as refused."""

    def read(path: Path) -> None:
        found: list[Found] = list(reader_named(reader).scans(path))
        for one in found:
            if isinstance(one.scan, MedfunctaError):
                raise one.scan

    return read


def nifti_header(folder: Path, at: int, kind: str, *values: float) -> bytes:
    raw = bytearray(write_nifti(folder / "small.nii").read_bytes())
    raw[at : at + struct.calcsize(kind)] = struct.pack(kind, *values)
    return bytes(raw)


def bundle(suffix: str) -> Read:
    """Read a file as an archive file of this kind."""

    def read(path: Path) -> None:
        copy = path.with_name(f"bomb{suffix}")
        copy.write_bytes(path.read_bytes())
        read_through(copy)

    return read


def tar_block(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo("a.png")
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def zip_of_many(members: int) -> bytes:
    """A directory of empty members, which all lie at the same place."""
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65_535, 65_535, members * len(entry), 0, 0)
    return entry * members + end


def xz_dictionary() -> bytes:
    """It asks for a dictionary of four gigabytes."""
    raw = bytearray(lzma.compress(tar_block(0) + bytes(1024)))
    size = 4 * (raw[12] + 1)
    raw[16] = 40
    raw[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(raw[12 : 12 + size - 4]))
    return bytes(raw)


def gzip_of_zeros(start: bytes, megabytes: int) -> bytes:
    """A gzip file that becomes ``start`` and zeros; a thousandth of that in size."""
    out = io.BytesIO()
    with gzip.open(out, "wb") as file:
        file.write(start)
        for _ in range(megabytes):
            file.write(bytes(2**20))
    return out.getvalue()


def with_extension(folder: Path, size: int) -> bytes:
    """A header that promises an extension of ``size`` bytes before the values."""
    raw = nifti_header(folder, 108, "<f", float(352 + size))
    return raw[:348] + b"\1\0\0\0" + struct.pack("<ii", size, 6) + raw[352:]


def mgh_header(folder: Path, *dims: int) -> bytes:
    raw = write_mgh(folder / "small.mgh", np.zeros((4, 5, 6), np.int16), np.eye(4)).read_bytes()
    return raw[:4] + struct.pack(">4i", *dims) + raw[20:]


def tiff(folder: Path, tags: dict[str, int], strip: bytes | None = None) -> bytes:
    """A deflated TIFF of 16 x 16 pixels with other values of some tags, or with another strip."""
    path = folder / "small.tif"
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), compression="zlib")
    if strip is not None:
        tags = tags | {"StripOffsets": path.stat().st_size, "StripByteCounts": len(strip)}
        path.write_bytes(path.read_bytes() + strip)
    with tifffile.TiffFile(path, mode="r+") as file:
        page: Any = file.pages[0]
        for name, value in tags.items():
            page.tags[name].overwrite(value, dtype="I")
    return path.read_bytes()


def npz(*members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def npy(shape: Any, data: bytes = b"", version: tuple[int, int] = (1, 0), header: bytes | None = None) -> bytes:
    text = header or repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode() + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def text_bomb(megabytes: int) -> bytes:
    """A PNG with a compressed text of many megabytes before its picture."""
    body = b"Comment\0\0" + zlib.compress(bytes(megabytes * 2**20))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    plain = png(4, 4, zlib.compress(bytes(20)))
    return plain[:33] + chunk + plain[33:]


def dicom(folder: Path, element: bytes) -> bytes:
    """A valid image with one more element, raw, before its last one."""
    raw = write_dicom(folder / "small.dcm").read_bytes()
    pixels = raw.index(b"\xe0\x7f\x10\x00")
    return raw[:pixels] + element + raw[pixels:]


def endless(folder: Path) -> bytes:
    """Sequences in sequences, ten thousand deep."""
    item = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return dicom(folder, item * 10_000)


def parquet_of_equal(megabytes: int, rows: int) -> bytes:
    """An index whose every key is the same long text: its dictionary is small, its column is not."""
    values = {f.name: pa.array(["" if pa.types.is_string(f.type) else 0] * rows, f.type) for f in SCHEMA}
    values["key"] = pa.chunked_array([pa.array(["x" * (megabytes * 2**20)])] * rows)
    out = io.BytesIO()
    pq.write_table(pa.table({name: values[name] for name in SCHEMA.names}, schema=SCHEMA), out, compression="zstd")
    return out.getvalue()


def index(path: Path) -> None:
    parse_index(path.read_bytes(), shard_size=10_000, samples=64, where="here")


def more_rows(rows: int) -> bytes:
    """A lying row count: run-length coding makes a billion zeros of a few bytes."""
    columns = {f.name: pa.array(np.zeros(rows, np.int64)).cast(f.type) for f in SCHEMA}
    out = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), out, compression="zstd")
    return out.getvalue()


def sample(path: Path) -> None:
    npy_member, _, meta = path.read_bytes().partition(b"<json>")
    decode("k", npy_member, meta)


def record(path: Path) -> None:
    parse_record(path.read_bytes(), "pack", "here")


def run_file(path: Path) -> None:
    parse_run_file(path.read_text())


def laughs() -> bytes:
    """Lists of lists, by aliases: ten to the tenth values."""
    pairs = pairwise("abcdefghij")
    lines = [f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in pairs]
    return "\n".join(["a: &a [x, x, x, x, x, x, x, x, x, x]", *lines]).encode()


IMAGES = "train_images.npy"
META = (
    b'<json>{"affine":null,"dtype":"uint8","format_version":1,"labels":[],"modality":"OT","shape":[1,4],"slice":null,'
    b'"spacing":[1.0],"window":[0.0,1.0]}'
)
BOMBS: dict[str, tuple[Read, Callable[[Path], bytes]]] = {
    "nifti: two gigabytes of zeros": (
        scans("nifti"),
        lambda f: gzip_of_zeros(nifti_header(f, 40, "<8h", 3, 1280, 1280, 655, 1, 1, 1, 1), 64),
    ),
    "nifti: zeros behind the values": (
        scans("nifti"),
        lambda f: gzip_of_zeros(write_nifti(f / "s.nii").read_bytes(), 256),
    ),
    "nifti: all axes at their largest": (scans("nifti"), lambda f: nifti_header(f, 40, "<8h", 7, *[32767] * 7)),
    "nifti: negative axes": (scans("nifti"), lambda f: nifti_header(f, 40, "<8h", 3, -24, -28, 20, 1, 1, 1, 1)),
    "nifti: values a gigabyte away": (scans("nifti"), lambda f: gzip_of_zeros(nifti_header(f, 108, "<f", 1e9), 1)),
    "nifti: an extension of two gigabytes": (scans("nifti"), lambda f: with_extension(f, 2**31 - 1024)),
    "nifti: an extension in a gzip file": (scans("nifti"), lambda f: gzip_of_zeros(with_extension(f, 2**28), 64)),
    "nifti: a series of petabytes": (scans("nifti"), lambda f: nifti_header(f, 40, "<8h", 4, 9, 9, 9, *[32767] * 4)),
    "nifti: a series of nothing but zeros": (
        scans("nifti"),
        lambda f: gzip_of_zeros(nifti_header(f, 40, "<8h", 4, 64, 64, 64, 1024, 1, 1, 1), 512),
    ),
    "mgh: all axes at their largest": (scans("mgh"), lambda f: mgh_header(f, *[2**31 - 1] * 4)),
    "mgh: two gigabytes of zeros": (scans("mgh"), lambda f: gzip_of_zeros(mgh_header(f, 1280, 1280, 655, 1), 64)),
    "tiff: four gigapixels": (scans("tiff"), lambda f: tiff(f, {"ImageWidth": 65_535, "ImageLength": 65_535})),
    "tiff: half a gigapixel of nothing": (
        scans("tiff"),
        lambda f: tiff(f, {"ImageWidth": 20_000, "ImageLength": 20_000, "RowsPerStrip": 20_000}),
    ),
    "tiff: a strip of a gigabyte": (scans("tiff"), lambda f: tiff(f, {}, zlib.compress(bytes(2**30)))),
    "bmp: gigapixels": (
        scans("image"),
        lambda f: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 60_000, 60_000, 1, 8, 1, 9, 1, 1, 0, 0),
    ),
    "dicom: an element of four gigabytes": (
        scans("dicom"),
        lambda f: dicom(f, b"\x09\x00\x10\x10OB\0\0\xfe\xff\xff\xff"),
    ),
    "dicom: sequences ten thousand deep": (scans("dicom"), endless),
    "dicom: a meta element of four gigabytes": (
        scans("dicom"),
        lambda f: bytes(128) + b"DICM" + b"\x02\x00\x01\x00OB\0\0\xfe\xff\xff\xff" + bytes(100),
    ),
    "png: a hundred megapixels of nothing": (scans("image"), lambda f: png(10_000, 10_000, zlib.compress(b"x"))),
    "png: four gigapixels": (scans("image"), lambda f: png(65_535, 65_535)),
    "png: a text of a gigabyte": (scans("image"), lambda f: text_bomb(128)),
    "npz: an array of petabytes": (scans("medmnist"), lambda f: npz((IMAGES, npy((2**50, 28, 28))))),
    "npz: a header of a quarter of a gigabyte": (
        scans("medmnist"),
        lambda f: npz((IMAGES, npy((), header=b" " * 2**28, version=(2, 0)))),
    ),
    "npz: a header nested too deep": (scans("medmnist"), lambda f: npz((IMAGES, npy((), header=b"-" * 4000 + b"1")))),
    "npz: images of nothing but zeros": (
        scans("medmnist"),
        lambda f: npz((IMAGES, npy((2**18 + 2**12, 32, 32), bytes(2**28 + 2**22)))),
    ),
    "npz: one image of a quarter of a gigabyte": (
        scans("medmnist"),
        lambda f: npz((IMAGES, npy((1, 2**28 + 2, 1), bytes(2**28 + 2)))),
    ),
    "npz: a dictionary of four gigabytes": (
        scans("medmnist"),
        lambda f: npz((IMAGES, npy((1, 4, 4), bytes(16))), compression=zipfile.ZIP_LZMA),
    ),
    "npz: a pickle": (
        scans("medmnist"),
        lambda f: npz(
            (IMAGES, npy((), header=b"{'descr':'|O','fortran_order':False,'shape':(1,4,4)}\n", data=b"cos\nsystem\n."))
        ),
    ),
    "npz: a hundred thousand members": (scans("medmnist"), lambda f: npz(*((str(i), b"") for i in range(100_000)))),
    "zip: a quarter of a gigabyte of zeros": (bundle(".zip"), lambda f: npz(("a.png", bytes(2**28 + 2**22)))),
    "zip: three hundred thousand members": (bundle(".zip"), lambda f: zip_of_many(300_000)),
    "zip: a directory larger than any": (bundle(".zip"), lambda f: zip_of_many(800_000)),
    "zip in zip in zip": (bundle(".zip"), lambda f: npz(("a.zip", npz(("b.zip", npz(("c.png", b""))))))),
    "tar: a name of gigabytes": (bundle(".tar"), lambda f: tar_block(2**33, tarfile.GNUTYPE_LONGNAME) + bytes(2**21)),
    "tar: a size below zero": (bundle(".tar"), lambda f: tar_block(0) + tar_block(-1024) + bytes(1024)),
    "tar: attributes of attributes": (bundle(".tar"), lambda f: tar_block(0, tarfile.XHDTYPE) * 50_000),
    "tar: a member of terabytes": (bundle(".tar"), lambda f: tar_block(2**42) + bytes(1024)),
    "tar.gz: nothing but zeros": (bundle(".tar.gz"), lambda f: gzip_of_zeros(tar_block(2**33), 300)),
    "tar.xz: a dictionary of four gigabytes": (bundle(".tar.xz"), lambda f: xz_dictionary()),
    "csv: one line of gigabytes": (scans("ecg-csv"), lambda f: b"1," * 2**24),
    "sample: a header of petabytes": (sample, lambda f: npy((1, 2**50)) + META),
    "sample: json nested a million deep": (sample, lambda f: npy((1, 4), bytes(4)) + b"<json>" + b"[" * 2**19),
    "record: nested a million deep": (record, lambda f: b'{"a":' * 10**6),
    "record: a number of a million digits": (record, lambda f: b"[" + b"9" * 10**6 + b"]"),
    "run file: aliases of aliases": (run_file, lambda f: laughs()),
    "index: one key of gigabytes": (index, lambda f: parquet_of_equal(16, 64)),
    "index: more rows than its record says": (index, lambda f: more_rows(2**20)),
}


def outcome(read: Read, path: Path) -> dict[str, Any]:
    """What reading one file came to: the error's class, seconds."""
    began = time.process_time()
    try:
        read(path)
        outcome = "read"
    except MedfunctaError as error:
        outcome = "refused" if error.what else "refused without a message"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"[:200]
    return {"outcome": outcome, "seconds": round(time.process_time() - began, 3)}


def explode(name: str, folder: Path) -> dict[str, Any]:
    """Make one bomb, and read it under a limit of memory."""
    read, make = BOMBS[name]
    path = folder / "bomb"
    path.write_bytes(make(folder))
    gc.collect()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, used + HEADROOM))
    return {"bomb": name, "bytes": path.stat().st_size, **outcome(read, path)}


def main() -> None:
    """A child each: a limit cannot be taken back, and one that is killed takes no other with it."""
    for name in BOMBS:
        child = os.fork()
        if child == 0:
            print(json.dumps(explode(name, Path(sys.argv[1]))), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            print(json.dumps({"bomb": name, "outcome": "killed", "seconds": 0}), flush=True)


if __name__ == "__main__":
    main()
