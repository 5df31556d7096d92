"""Finds texts and bytes in files whatever they are wrapped in: Parquet, tar, npy, gzip, base64, SQLite, numbers."""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

BASE64 = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")


def holding(folder: Path, wanted: Iterable[bytes]) -> dict[str, list[bytes]]:
    """The files below ``folder`` that hold any of the wanted bytes, and which; file names count."""
    texts, found = list(wanted), {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        layers = [str(path.relative_to(folder)).encode("utf-8", "surrogateescape"), *unwrapped(path.read_bytes())]
        if held := [text for text in texts if any(text in layer for layer in layers)]:
            found[str(path.relative_to(folder))] = held
    return found


def unwrapped(data: bytes, depth: int = 0) -> Iterator[bytes]:
    """The bytes, and what is in them."""
    yield data
    yield data.lower()
    if depth < 4:
        for inner in _inside(data):
            yield from unwrapped(inner, depth + 1)


def _inside(data: bytes) -> Iterator[bytes]:
    if data[:4] == b"PAR1":
        yield from _parquet(data)
    elif data[:2] == b"\x1f\x8b":
        try:
            yield gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            return
    elif data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                yield f"{member.name} {member.uname} {member.gname} {member.linkname}".encode()
                if (file := tar.extractfile(member)) is not None:
                    yield file.read()
    elif data[:6] == b"\x93NUMPY":
        array = np.load(io.BytesIO(data), allow_pickle=False)
        yield array.tobytes()
        yield np.rint(array.astype(float)).astype(np.int64).astype(str).tobytes()
    else:
        for match in BASE64.finditer(data):
            try:
                yield base64.b64decode(match.group())
            except binascii.Error:
                continue


def _parquet(data: bytes) -> Iterator[bytes]:
    table = pq.read_table(io.BytesIO(data))
    yield repr(table.schema.metadata).encode()
    for name in table.column_names:
        yield name.encode()
        yield "\n".join(str(value) for value in table[name].to_pylist()).encode()
        for chunk in table[name].chunks:
            yield b"".join(buffer.to_pybytes() for buffer in chunk.buffers() if buffer is not None)
            for value in chunk.to_pylist()[:1]:
                if isinstance(value, list) and value and isinstance(value[0], int | float):
                    yield chunk.flatten().to_numpy(zero_copy_only=False).tobytes()
