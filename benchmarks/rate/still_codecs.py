"""Codecs of still images, by imagecodecs: a volume is one image, its slices below each other.

So headers are paid once and bytes are shared between slices as the codec likes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.rate.coder import Mask, Values
from benchmarks.rate.volumes import Volume

SLICES = struct.Struct("<H")
"""How many slices the image has: the codec's own header has the rest."""
LARGEST = 255
"""Of 8 bits, in which both data sets are published."""


class StillCodec:
    """One codec. ``options``: what it is called with, for a quality."""

    shared_bytes = 0

    def __init__(
        self, name: str, codec: str, qualities: Sequence[float], options: Callable[[float], Mapping[str, Any]]
    ) -> None:
        import imagecodecs

        self.name, self.qualities, self._options = name, tuple(qualities), options
        self._encode, self._decode = (getattr(imagecodecs, f"{codec}_{way}") for way in ("encode", "decode"))

    def fit(self, training: Sequence[Volume]) -> None:
        """Nothing is learned."""

    def encode(self, values: Values, mask: Mask, quality: float) -> bytes:
        """One image."""
        image = np.ascontiguousarray(integers(values).reshape(-1, values.shape[2]))
        return SLICES.pack(len(values)) + bytes(self._encode(image, **self._options(quality)))

    def decode(self, data: bytes, mask: Mask) -> Values:
        """And its slices."""
        (slices,) = SLICES.unpack_from(data)
        image = self._decode(data[SLICES.size :])
        return np.asarray(image.reshape(slices, -1, image.shape[-1]) / np.float32(LARGEST), np.float32)


def integers(values: Values) -> np.ndarray:
    """Values in [0, 1] as bytes."""
    return np.rint(np.clip(values, 0, 1) * LARGEST).astype(np.uint8)


def still_codecs() -> list[StillCodec]:
    """All four. JPEG-LS has no low rates: its quality is the largest error that it may make."""
    return [
        StillCodec("JPEG 2000", "jpeg2k", (26, 28, 30, 32, 34, 36, 38, 40, 42, 44), _jpeg_2000),
        StillCodec("HTJ2K", "htj2k", (0.6, 0.4, 0.28, 0.2, 0.14, 0.1, 0.06, 0.04, 0.02), _htj2k),
        StillCodec("JPEG-LS", "jpegls", (60, 40, 25, 16, 10, 6, 4, 2), lambda near: {"level": int(near)}),
        StillCodec("JPEG XL", "jpegxl", (25, 16, 10, 6, 3.5, 2, 1), _jpeg_xl),
    ]


def _jpeg_2000(decibel: float) -> dict[str, Any]:
    return {"level": int(decibel), "codecformat": "J2K", "reversible": False, "mct": False, "numthreads": 1}


def _htj2k(step: float) -> dict[str, Any]:
    return {"level": step, "reversible": False}


def _jpeg_xl(distance: float) -> dict[str, Any]:
    return {"distance": distance, "effort": 7, "usecontainer": False, "numthreads": 1}
