"""Linear transforms of blocks, whose coefficients have the same squared error as the blocks' values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import scipy.fft
from jaxtyping import Float

Blocks = Float[np.ndarray, "block value"]
Coefficients = Float[np.ndarray, "block coefficient"]


class Transform(Protocol):
    """Blocks to coefficients and back. Errors of the coefficients, squared and summed, are those of the blocks."""

    block: tuple[int, ...]

    @property
    def shared_bytes(self) -> int: ...

    def fit(self, blocks: Blocks) -> None: ...

    def forward(self, blocks: Blocks) -> Coefficients: ...

    def inverse(self, coefficients: Coefficients) -> Blocks: ...


class Dct:
    """Orthonormal cosines; the mean value of the training blocks is taken off first."""

    shared_bytes = 4

    def __init__(self, block: Sequence[int]) -> None:
        self.block, self._mean = tuple(block), 0.0

    def fit(self, blocks: Blocks) -> None:
        """One number."""
        self._mean = float(np.float32(blocks.mean()))

    def forward(self, blocks: Blocks) -> Coefficients:
        """As float32."""
        return self._transformed(blocks - self._mean, scipy.fft.dctn)

    def inverse(self, coefficients: Coefficients) -> Blocks:
        """As float32."""
        return self._transformed(coefficients, scipy.fft.idctn) + np.float32(self._mean)

    def _transformed(self, flat: np.ndarray, transform: object) -> np.ndarray:
        array = flat.reshape(len(flat), *self.block).astype(np.float32)
        assert callable(transform)
        found = transform(array, axes=range(1, array.ndim), norm="ortho")
        return np.asarray(found, np.float32).reshape(len(flat), -1)


class Klt:
    """Principal components of the training blocks, held in float16: PCA, where a block is a whole scan."""

    def __init__(self, block: Sequence[int], most: int | None = None) -> None:
        self.block, self._most = tuple(block), most or math.prod(block)
        self._mean, self._rows = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)

    @property
    def shared_bytes(self) -> int:
        """Components and the mean."""
        return 2 * (self._rows.size + self._mean.size)

    def fit(self, blocks: Blocks) -> None:
        """From the covariance; rounded, for what is shared is what is used."""
        mean = blocks.mean(0, dtype=np.float64)
        centred = (blocks - mean).astype(np.float32)
        _, vectors = np.linalg.eigh(np.asarray(centred.T @ centred, np.float64))
        rows = vectors.T[::-1][: self._most]
        self._mean, self._rows = (part.astype(np.float16).astype(np.float32) for part in (mean, rows))

    def forward(self, blocks: Blocks) -> Coefficients:
        """One product."""
        return np.asarray((blocks - self._mean) @ self._rows.T)

    def inverse(self, coefficients: Coefficients) -> Blocks:
        """One product."""
        return np.asarray(self._mean + coefficients @ self._rows)
