"""A sample: one scan as two members of a shard, ``<key>.npy`` (the array) and ``<key>.json`` (its metadata).

    <key>.json  {"format_version": 1, "shape": [1, 64, 64], "dtype": "int16", "spacing": [..mm], "affine": [[..]]|null,
                 "modality": "MR", "window": [low, high], "labels": [0], "slice": 12|null,
                 "mask": {"classes": [0, 1, 0], "lengths": [900, 24, 100]}}

``mask`` is there only where a segmentation is paired with the scan: runs of equal classes over the points, the last
axis fastest. Whoever does not look for it needs not know of it.

Bytes from storage are not trusted: nothing is unpickled, and a declared size is compared with the number of bytes
present before memory is allocated.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ScanError
from medfuncta_dist.scans.scan import MODALITIES, STORED_TYPES, Scan, Window
from medfuncta_dist.storage.digest import canonical_json

FORMAT_VERSION = 1
NPY_MAGIC, NPY_VERSION = b"\x93NUMPY", b"\x01\x00"
NPY_PREAMBLE = 10
"""Bytes: magic, version, and the length of the header that follows."""
LARGEST_HEADER = 4096
"""Bytes. NumPy writes 118 for any array of up to four axes."""
LARGEST_META = 2**20
"""Bytes. A scan with a thousand labels has about 10 kB."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A scan as stored in a shard: ``array`` (channel, *spatial) in its stored type, in the scan's own units."""

    key: str
    array: np.ndarray
    meta: dict[str, Any]

    @property
    def labels(self) -> tuple[int, ...]:
        """The scan's labels, empty where the source gave none."""
        return tuple(self.meta["labels"])

    @property
    def targets(self) -> tuple[float, ...]:
        """Measurements in the place of labels, empty where the source gave none. ``IntegrityError`` where they are
        damaged."""
        found = self.meta.get("targets", [])
        if not _are_numbers(found):
            raise _damaged(self.key, "the json member has no valid targets")
        return tuple(map(float, found))

    @property
    def window(self) -> Window:
        """The intensity window: the scan's own units at 0 and at 1."""
        low, high = self.meta["window"]
        return Window(low, high)

    def mask(self) -> np.ndarray | None:
        """uint8 (*spatial), the class of each point; None where no segmentation is paired with the scan.
        ``IntegrityError`` where it is damaged."""
        runs = self.meta.get("mask")
        if runs is None:
            return None
        shape = self.array.shape[1:]
        if not _are_runs(runs, math.prod(shape)):
            raise _damaged(self.key, "the json member has no valid mask")
        return np.repeat(np.array(runs["classes"], np.uint8), runs["lengths"]).reshape(shape)

    def values(self, out: np.ndarray | None = None) -> np.ndarray:
        """float32 (channel, *spatial) in [0, 1]: (array - low) / (high - low), clipped; in ``out``, where given."""
        return self.window.normalise(self.array, out)

    def fill(self, points: np.ndarray) -> None:
        """Write the values straight into ``points``, C-ordered float32 (point, channel), without a copy in between.

        Points are in the order of the coordinate grid: the last spatial axis runs fastest.
        """
        self.values(out=points.T.reshape(self.array.shape, copy=False))


def encode(key: str, scan: Scan) -> tuple[bytes, bytes]:
    """The npy and json members of a canonical scan. Same scan, same bytes. ``ScanError`` where it cannot be stored."""
    if scan.window is None:
        raise ScanError("the scan has no intensity window")
    array = _storable(scan.array)
    meta = {
        "format_version": FORMAT_VERSION,
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "spacing": [float(s) for s in scan.spacing],
        "affine": None if scan.affine is None else np.asarray(scan.affine, dtype=float).tolist(),
        "modality": scan.modality,
        "window": [float(scan.window.low), float(scan.window.high)],
        "labels": [int(label) for label in scan.labels],
        "slice": scan.slice_index,
    } | ({} if scan.mask is None else {"mask": _runs(scan.mask)})
    meta |= {"targets": [float(target) for target in scan.targets]} if scan.targets else {}
    npy = io.BytesIO()
    np.lib.format.write_array(npy, array, version=(1, 0), allow_pickle=False)
    return npy.getvalue(), _json(meta)


def decode(key: str, npy: bytes, json: bytes) -> Sample:
    """The sample of two members. ``IntegrityError`` (naming the key) for bytes that ``encode`` did not write.

    The array is read-only and shares memory with ``npy``.
    """
    meta = parse_meta(key, json)
    size, header = _parse_header(key, npy)
    if header.name != meta["dtype"] or list(header.shape) != meta["shape"]:
        raise _damaged(key, "the npy and json members do not belong together")
    if len(npy) - size != header.data_size:
        raise _damaged(key, "the npy member does not have the size that its header declares")
    return Sample(key, np.frombuffer(npy, header.dtype, offset=size).reshape(header.shape), meta)


def stored_shape(key: str, npy: bytes) -> tuple[int, ...]:
    """Shape (channel, *spatial) of an npy member, by its header. ``IntegrityError`` for one that is not valid."""
    return _parse_header(key, npy)[1].shape


def begins_array(key: str, start: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Whether an npy member that begins with ``start`` has that as its header, and this array behind it.
    ``IntegrityError`` for a header that is not valid."""
    size, header = _parse_header(key, start)
    return size == len(start) and header.dtype == dtype and header.shape == shape


def _storable(array: np.ndarray) -> np.ndarray:
    """Little-endian and C-ordered, so that equal scans are equal bytes on every machine."""
    if array.dtype.name not in STORED_TYPES:
        raise ScanError(f"values of type {array.dtype.name} cannot be stored")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _json(meta: dict[str, Any]) -> bytes:
    try:
        data = canonical_json(meta)
    except ValueError as error:
        raise ScanError("spacing, affine or intensity window is not finite") from error
    # A sample that ``decode`` would refuse must not be packed: it would end a training run later.
    if wrong := _invalid(meta):
        raise ScanError(f"its {wrong} cannot be stored")
    if len(data) > LARGEST_META:
        raise ScanError("its segmentation is too finely divided" if "mask" in meta else "it has too many labels")
    return data


def _runs(mask: np.ndarray) -> dict[str, list[int]]:
    """Runs of equal values, so that equal masks are equal bytes whatever compresses them elsewhere."""
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[0] ^ 1))
    return {"classes": flat[starts].tolist(), "lengths": np.diff(starts, append=flat.size).tolist()}


def _are_runs(value: Any, points: int) -> bool:
    if not isinstance(value, dict) or set(value) != {"classes", "lengths"} or not all(map(_are_ints, value.values())):
        return False
    classes, lengths = value["classes"], value["lengths"]
    fits = len(classes) == len(lengths) and all(0 <= c < 256 for c in classes)
    return fits and all(length > 0 for length in lengths) and sum(lengths) == points


class _Header(NamedTuple):
    """A parsed npy header. ``plain``: of a stored type, little-endian, in C order."""

    dtype: np.dtype[Any]
    name: str
    shape: tuple[int, ...]
    data_size: int
    plain: bool


def _parse_header(key: str, npy: bytes) -> tuple[int, _Header]:
    """The header and its size."""
    if npy[:6] == NPY_MAGIC and npy[6:8] != NPY_VERSION:
        raise FormatVersionError("npy format version is unknown; this version reads 1.0", where=f"sample {key}")
    size = min(NPY_PREAMBLE + int.from_bytes(npy[8:NPY_PREAMBLE], "little"), LARGEST_HEADER)
    try:
        header = _read_header(npy[:size])
    except (
        Exception
    ) as error:  # NumPy parses the header as Python literals, and lets any error of the tokenizer through
        raise _damaged(key, "the npy member has no valid header") from error
    if not header.plain:
        raise _damaged(key, "the npy member does not hold plain little-endian numbers in C order")
    return size, header


@lru_cache(256)  # A data set has a handful of different headers, and NumPy compiles Python to read one.
def _read_header(data: bytes) -> _Header:
    file = io.BytesIO(data)
    np.lib.format.read_magic(file)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=LARGEST_HEADER)
    plain = dtype.name in STORED_TYPES and dtype.newbyteorder("<") == dtype and not fortran
    return _Header(dtype, dtype.name, shape, math.prod(shape) * dtype.itemsize, plain)


def parse_meta(key: str, data: bytes) -> dict[str, Any]:
    """A sample's json member. ``IntegrityError`` (naming the key) for bytes that ``encode`` did not write."""
    if len(data) > LARGEST_META:
        raise _damaged(key, "the json member is too large")
    try:
        meta = _JSON.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise _damaged(key, "the json member is not JSON") from error
    if not isinstance(meta, dict) or "format_version" not in meta:
        raise _damaged(key, "the json member is not a sample's")
    if meta["format_version"] != FORMAT_VERSION:
        raise FormatVersionError(
            f"sample format_version {meta['format_version']!r} is unknown; this version reads {FORMAT_VERSION}",
            where=f"sample {key}",
            do="use the version of medfuncta-dist that wrote it, or a newer one",
        )
    if wrong := _invalid(meta):
        raise _damaged(key, f"the json member has no valid {wrong}")
    return meta


def _invalid(meta: dict[str, Any]) -> str:
    """The first field that is missing or invalid; "" if all are valid."""
    for name, valid in _FIELDS.items():
        if name not in meta or not valid(meta[name]):
            return name
    return ""


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse)
"""Created once: ``json.loads`` with an option creates one per call."""


def _is_int(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**31


def _are_ints(value: Any) -> bool:
    if not isinstance(value, list) or not _INTS.issuperset(map(type, value)):
        return False
    return max(map(abs, value), default=0) < 2**31


def _are_numbers(value: Any, n: int | None = None) -> bool:
    if not isinstance(value, list) or n not in (None, len(value)) or not _NUMBERS.issuperset(map(type, value)):
        return False
    # Compared, not converted: JSON has integers that no float can hold.
    return max(map(abs, value), default=0) <= sys.float_info.max


_INTS = frozenset({int})
_NUMBERS = frozenset({int, float})


def _is_affine(value: Any) -> bool:
    if value is None:
        return True
    rows = isinstance(value, list) and len(value) == 4 and all(isinstance(row, list) and len(row) == 4 for row in value)
    return rows and _are_numbers([*chain.from_iterable(value)])


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "shape": lambda v: _are_ints(v) and 2 <= len(v) <= 4 and all(n > 0 for n in v),
    "dtype": lambda v: v in STORED_TYPES,
    "spacing": _are_numbers,
    "affine": _is_affine,
    "modality": lambda v: v in MODALITIES,
    "window": lambda v: _are_numbers(v, 2) and 0 <= v[1] - v[0] <= sys.float_info.max,
    "labels": _are_ints,
    "slice": lambda v: v is None or _is_int(v),
}


def _damaged(key: str, what: str) -> IntegrityError:
    return IntegrityError(what, where=f"sample {key}", do="restore the shard from a backup")
