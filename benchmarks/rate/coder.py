"""What every coder is: fitted on training volumes, then volumes become bytes and bytes volumes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float

from benchmarks.rate.volumes import Volume

Values = Float[np.ndarray, "slice row column"]
Mask = Bool[np.ndarray, "slice row column"] | None
"""What the decoder has of a mask; None: every value counts."""
HEADER = struct.Struct("<B3H")
"""Of the streams that are made here: which quality, and the volume's shape."""


class Coder(Protocol):
    """A way to store volumes.

    ``name`` is its line in tables; ``qualities`` are what ``encode`` takes, the worst first; ``shared_bytes`` is what
    a decoder has beside the bytes of a volume (tables, bases, a network), the same for all volumes.
    """

    name: str
    qualities: Sequence[float]

    @property
    def shared_bytes(self) -> int: ...

    def fit(self, training: Sequence[Volume]) -> None:
        """Learn what is shared; volumes with a mask are filled outside already."""
        ...

    def encode(self, values: Values, mask: Mask, quality: float) -> bytes:
        """Everything that ``decode`` needs, the mask aside."""
        ...

    def decode(self, data: bytes, mask: Mask) -> Values:
        """From these bytes, the mask and what is shared, and nothing else."""
        ...
