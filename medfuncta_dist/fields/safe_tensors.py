"""safetensors bytes, not trusted: sizes are checked before memory is allocated, and every error is a ValueError."""

from __future__ import annotations

import json
from typing import Any

import safetensors.torch
from torch import Tensor

PREAMBLE = 8
"""Bytes: the length of the header that follows, little endian."""
LARGEST_HEADER = 2**22
"""Bytes. A tensor takes about 100 of them."""


def load(data: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors, which share no memory with ``data``. ValueError if it is not safetensors."""
    metadata = _metadata(data)
    try:
        # The library checks that tensors have the size of their shape, do not overlap, and fill the file exactly.
        return metadata, safetensors.torch.load(data)
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError("not a safetensors file") from error


def _metadata(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:PREAMBLE], "little")
    if not 0 < size <= min(LARGEST_HEADER, len(data) - PREAMBLE):
        raise ValueError("no safetensors header")
    try:
        header: Any = json.loads(data[PREAMBLE : PREAMBLE + size])
    except RecursionError:
        raise ValueError("a safetensors header that is nested too deep") from None
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("a safetensors header of another form")
    return metadata
