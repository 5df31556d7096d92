"""HEVC, by PyAV: a volume is a film, its slices are the frames.

x265 (GPL) is in PyAV's wheel; only this benchmark uses it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np

from benchmarks.rate.coder import Mask, Values
from benchmarks.rate.volumes import Volume

QUALITIES = (50, 46, 41, 36, 31, 26, 21)
"""Constant rate factors, the worst first."""
PIXELS = {8: "gray", 10: "gray10le", 12: "gray12le"}
COMMON = "info=0:aud=0:hash=0:hrd=0:frame-threads=1:pools=none:wpp=0:log-level=none"
"""No words about the encoder in the stream, and one thread."""
START = b"\0\0\1"
PARAMETER_SETS = (32, 33, 34)
"""Types of units: of the film, of the sequence, of pictures."""
INTRA, INTER = "keyint=1", "keyint=-1:min-keyint=1:scenecut=0:bframes=8:rc-lookahead=40:ref=5"


class Hevc:
    """``inter``: frames are predicted from others."""

    shared_bytes = 0

    def __init__(self, inter: bool, bits: int = 8, preset: str = "slow") -> None:
        self.name = f"HEVC {'inter' if inter else 'intra'}"
        self.qualities, self._bits, self._preset = QUALITIES, bits, preset
        self._words = f"{COMMON}:{INTER if inter else INTRA}"

    def fit(self, training: Sequence[Volume]) -> None:
        """Nothing is learned."""

    def encode(self, values: Values, mask: Mask, quality: float) -> bytes:
        """The whole stream as it would be in a file: parameter sets and frames."""
        import av

        height, width = values.shape[1:]
        codec = av.CodecContext.create("libx265", "w")
        codec.width, codec.height, codec.pix_fmt = width, height, PIXELS[self._bits]
        codec.time_base, codec.framerate = Fraction(1, 25), Fraction(25)
        codec.thread_count, codec.flags = 1, codec.flags | av.codec.context.Flags.global_header
        words = f"{self._words}:crf={quality}"
        codec.options = {"preset": self._preset, "tune": "psnr", "x265-params": words}
        stream = []
        for number, frame in enumerate(self._integers(values)):
            picture = av.VideoFrame.from_ndarray(frame, format=PIXELS[self._bits])
            picture.pts = number
            stream += codec.encode(picture)
        stream += codec.encode(None)
        return without_repeats(b"".join([bytes(codec.extradata or b""), *map(bytes, stream)]))

    def decode(self, data: bytes, mask: Mask) -> Values:
        """All frames, in the order in which they are shown."""
        import av

        codec = av.CodecContext.create("hevc", "r")
        codec.thread_count = 1
        pictures = [frame for packet in [*codec.parse(data), *codec.parse(b"")] for frame in codec.decode(packet)]
        pictures += codec.decode(None)
        largest = np.float32(2**self._bits - 1)
        return np.stack([picture.to_ndarray() for picture in pictures]) / largest

    def _integers(self, values: Values) -> np.ndarray:
        whole = np.rint(np.clip(values, 0, 1) * (2**self._bits - 1))
        return whole.astype(np.uint8 if self._bits == 8 else np.uint16)


def without_repeats(stream: bytes) -> bytes:
    """The stream without parameter sets that it has had before: x265 repeats them at every frame that stands alone."""
    starts = [found.start() for found in re.finditer(START, stream)]
    seen: set[bytes] = set()
    kept = []
    for start, end in pairwise([*starts, len(stream)]):
        unit = stream[start:end].rstrip(b"\0")
        if unit in seen:
            continue
        if unit[len(START)] >> 1 & 63 in PARAMETER_SETS:
            seen.add(unit)
        kept.append(unit)
    return b"".join(kept)
