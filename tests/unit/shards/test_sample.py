from __future__ import annotations

import io
import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medfuncta_dist.errors import FormatVersionError, IntegrityError, MedfunctaError, ScanError
from medfuncta_dist.scans.scan import STORED_TYPES, Scan, Window
from medfuncta_dist.shards.sample import decode, encode
from tests.unit.shards.samples import key_of, scan

KEY = key_of(0)

arrays = st.sampled_from(STORED_TYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=4, max_side=4))
)


def npy_of(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def header_of(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def changed(meta: bytes, **fields: object) -> bytes:
    return json.dumps(json.loads(meta) | fields).encode()


@given(array=arrays, low=st.floats(-1e6, 1e6), width=st.floats(0, 1e6), labels=st.lists(st.integers(0, 2**31 - 1)))
@settings(deadline=None)
def test_what_is_encoded_is_decoded_bit_for_bit(array: np.ndarray, low: float, width: float, labels: list[int]) -> None:
    affine = np.diag([0.1, 1 / 3, 2.0, 1.0])
    original = Scan(array, (1 / 3,) * (array.ndim - 1), affine, "CT", Window(low, low + width), tuple(labels), 7)
    sample = decode(KEY, *encode(KEY, original))
    assert sample.array.dtype == array.dtype
    assert sample.array.tobytes() == array.tobytes()
    assert sample.array.shape == array.shape
    assert (sample.window, sample.labels) == (original.window, tuple(labels))
    assert sample.meta["spacing"] == list(original.spacing)
    assert np.array_equal(sample.meta["affine"], affine)
    assert (sample.meta["modality"], sample.meta["slice"]) == ("CT", 7)


def test_values_are_in_the_unit_interval_by_the_window() -> None:
    original = replace(scan(), array=np.array([[[-5, 0, 25, 50, 100, 130]]], np.int16), window=Window(0.0, 100.0))
    values = decode(KEY, *encode(KEY, original)).values()
    assert values.dtype == np.float32
    assert values.tolist() == [[[0.0, 0.0, 0.25, 0.5, 1.0, 1.0]]]


def test_equal_scans_are_equal_bytes_whatever_their_memory_layout() -> None:
    first = scan()
    strided = replace(first, array=np.asfortranarray(first.array))
    assert encode(KEY, strided) == encode(KEY, first)


def test_a_scan_without_a_window_is_refused() -> None:
    with pytest.raises(ScanError, match="no intensity window"):
        encode(KEY, replace(scan(), window=None))


@pytest.mark.parametrize(("labels", "reason"), [((2**31,), "its labels"), ((0,) * 600_000, "too many labels")])
def test_a_scan_that_could_not_be_decoded_is_not_encoded(labels: tuple[int, ...], reason: str) -> None:
    with pytest.raises(ScanError, match=reason):
        encode(KEY, replace(scan(), labels=labels))


def test_a_header_that_declares_petabytes_is_refused_without_allocating() -> None:
    _, meta = encode(KEY, scan())
    npy = header_of("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1000000, 1000000, 1000000), }\n") + b"1234"
    big = changed(meta, shape=[1, 1000000, 1000000, 1000000], dtype="uint8")
    with pytest.raises(IntegrityError, match="size that its header declares"):
        decode(KEY, npy, big)


def test_a_pickled_array_is_refused_unread() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return pytest.fail, ("unpickled",)

    _, meta = encode(KEY, scan())
    npy = npy_of(np.array([[Bomb()]], dtype=object), allow_pickle=True)
    with pytest.raises(IntegrityError, match="not hold plain little-endian numbers"):
        decode(KEY, npy, changed(meta, shape=[1, 1]))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 6, 5), ">i2"),
        np.zeros((1, 6, 5), [("a", "<i2")]),
        np.zeros((1, 6, 5), "U4"),
        np.asfortranarray(np.zeros((1, 6, 5), "<i2")),
        np.zeros((1, 6, 5), "complex64"),
    ],
)
def test_other_arrays_than_encode_writes_are_refused(array: np.ndarray) -> None:
    with pytest.raises(IntegrityError, match="not hold plain"):
        decode(KEY, npy_of(array), encode(KEY, scan())[1])


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": [1, 6]},
        {"shape": [1, 5, 6]},
        {"shape": [1, -6, -5]},
        {"shape": "all"},
        {"dtype": "object"},
        {"dtype": ["int16"]},
        {"window": [1.0]},
        {"window": [2.0, 1.0]},
        {"window": [-1.7e308, 1.7e308]},
        {"window": [0, 10**400]},
        {"spacing": ["1"]},
        {"affine": [[1.0] * 4] * 3},
        {"modality": "Doe^Jane"},
        {"labels": [1.5]},
        {"labels": [2**31]},
        {"slice": True},
    ],
)
def test_a_damaged_field_is_refused(fields: dict[str, object]) -> None:
    npy, meta = encode(KEY, scan())
    with pytest.raises(IntegrityError) as caught:
        decode(KEY, npy, changed(meta, **fields))
    assert KEY in str(caught.value)


@pytest.mark.parametrize("fields", [{"format_version": 2}, {"format_version": "1"}, {"format_version": None}])
def test_an_unknown_format_version_is_refused_by_name(fields: dict[str, object]) -> None:
    npy, meta = encode(KEY, scan())
    with pytest.raises(FormatVersionError, match="format_version"):
        decode(KEY, npy, changed(meta, **fields))


def test_a_later_npy_version_is_refused_by_name() -> None:
    npy, meta = encode(KEY, scan())
    with pytest.raises(FormatVersionError, match="npy format version"):
        decode(KEY, npy[:6] + b"\x03" + npy[7:], meta)


@given(data=st.data(), member=st.sampled_from(["npy", "json"]))
@settings(deadline=None, max_examples=300)
def test_any_mutilation_decodes_or_is_refused_in_our_words(data: st.DataObject, member: str) -> None:
    npy, meta = encode(KEY, scan())
    damaged = bytearray(npy if member == "npy" else meta)
    at = data.draw(st.integers(0, min(len(damaged), 220) - 1))
    damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=6))
    with suppress(MedfunctaError):  # any other exception fails
        decode(KEY, bytes(damaged) if member == "npy" else npy, bytes(damaged) if member == "json" else meta)


def test_a_json_member_too_large_to_be_one_is_refused() -> None:
    npy, meta = encode(KEY, scan())
    with pytest.raises(IntegrityError, match="too large"):
        decode(KEY, npy, meta + b" " * 2**20)
