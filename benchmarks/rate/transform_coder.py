"""A transform, one step and the entropy coder: PCA, KLT, DCT, and our fields, whose latents are coefficients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.rate import entropy
from benchmarks.rate.blocks import cut, joined, needed, spread
from benchmarks.rate.coder import HEADER, Mask, Values
from benchmarks.rate.transforms import Coefficients, Transform
from benchmarks.rate.volumes import Volume

STEPS = (1.2, 0.8, 0.55, 0.4, 0.28, 0.2, 0.14, 0.1, 0.07)
"""Of quantisation; an orthonormal coefficient of values in [0, 1]."""


class TransformCoder:
    """Blocks that hold nothing that counts are not stored; they come back as zeros."""

    def __init__(self, name: str, transform: Transform, steps: Sequence[float] = STEPS, sample: int = 4000) -> None:
        self.name, self.qualities, self._transform, self._sample = name, tuple(steps), transform, sample
        self._models: list[entropy.Model] = []

    @property
    def shared_bytes(self) -> int:
        """The transform's, and the tables of one step: an archive has one."""
        return self._transform.shared_bytes + max(model.shared_bytes for model in self._models)

    def fit(self, training: Sequence[Volume]) -> None:
        """The transform, then tables for each step, from a sample of the blocks."""
        blocks = np.concatenate([self._kept(volume.values, volume.mask) for volume in training])
        self._transform.fit(blocks)
        coefficients = self._transform.forward(blocks[spread(len(blocks), self._sample)])
        self._models = [entropy.learned(coefficients / step) for step in self.qualities]

    def encode(self, values: Values, mask: Mask, quality: float) -> bytes:
        """The header, then the entropy coder's bytes."""
        number = self.qualities.index(quality)
        coefficients: Coefficients = self._transform.forward(self._kept(values, mask))
        stream = entropy.encoded(coefficients / quality, self._models[number])
        return HEADER.pack(number, *values.shape) + stream

    def decode(self, data: bytes, mask: Mask) -> Values:
        """Symbols, coefficients, blocks."""
        number, *shape = HEADER.unpack_from(data)
        kept = needed(mask, shape, self._transform.block)
        symbols = entropy.decoded(data[HEADER.size :], int(kept.sum()), self._models[number])
        coefficients = (symbols * self.qualities[number]).astype(np.float32)
        blocks = np.zeros((len(kept), int(np.prod(self._transform.block))), np.float32)
        blocks[kept] = self._transform.inverse(coefficients)
        return joined(blocks, shape, self._transform.block)

    def _kept(self, values: Values, mask: Mask) -> np.ndarray:
        return cut(values, self._transform.block)[needed(mask, values.shape, self._transform.block)]
