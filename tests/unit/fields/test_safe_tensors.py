from __future__ import annotations

import json
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.fields import safe_tensors

TENSORS = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.ones(4)}
WHOLE = safetensors.torch.save(TENSORS, {"format_version": "1"})


def file(header: Any, values: bytes = bytes(40)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def entry(begin: int = 0, end: int = 40, shape: Any = (10,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_what_is_written_is_read() -> None:
    metadata, tensors = safe_tensors.load(WHOLE)
    assert metadata == {"format_version": "1"}
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert safe_tensors.load(file({"a": entry()}))[1].keys() == {"a"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        bytes(8),
        (2**63).to_bytes(8, "little") + b"{}",  # a header that is not there
        (2**22 + 1).to_bytes(8, "little") + b" " * (2**22 + 1),  # and one too long
        file(b"[" * 100_000),
        file([]),
        file({"__metadata__": {"format_version": 1}}, b""),
        file({"a": entry(end=44)}),  # beyond the file
        file({"a": entry(end=2**63)}),
        file({"a": entry(-4, 36)}),
        file({"a": entry(40, 0)}),
        file({"a": entry(shape=[2**62, 4])}),  # overflows
        file({"a": entry(shape=[11])}),
        file({"a": entry(shape=[-10])}),
        file({"a": entry(shape=[10.0])}),
        file({"a": entry(dtype="O")}),
        file({"a": entry(0, 24, [6]), "b": entry(20, 40, [5])}),  # overlap
        file({"a": entry(0, 16, [4]), "b": entry(20, 40, [5])}),  # a gap
        file({"a": entry(0, 20, [5])}),  # bytes that belong to none
        file({"a": {"dtype": "F32"}}),
        file({"a": None}),
    ],
)
def test_what_lies_about_sizes_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="safetensors"):
        safe_tensors.load(data)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255), st.booleans())
def test_damage_is_a_value_error_or_other_values(at: int, byte: int, cut: bool) -> None:
    damaged = WHOLE[:at] if cut else WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]
    try:
        _, tensors = safe_tensors.load(damaged)
    except ValueError:
        return
    assert sum(t.numel() * t.element_size() for t in tensors.values()) <= len(WHOLE)
