"""Our latents as the product stores them: one line per storage type."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.rate.blocks import cut, joined, needed
from benchmarks.rate.coder import HEADER, Mask, Values
from benchmarks.rate.field_transform import FieldTransform
from benchmarks.rate.volumes import Volume
from medfuncta_dist.latents.latent_types import LARGEST_INT8, Stored, int8_units, store


class Storage(Protocol):
    """A storage type: ``latents`` of a volume's blocks as bytes, and back."""

    def fit(self, transform: FieldTransform, numbers: int) -> None: ...

    def encode(self, latents: Tensor) -> bytes: ...

    def decode(self, data: bytes, blocks: int) -> Tensor: ...


class Int8Zlib:
    """The product's int8, column by column, compressed as one piece."""

    def fit(self, transform: FieldTransform, numbers: int) -> None:
        """The units of the numbers, where the network has any."""
        self._numbers = numbers
        self._units = int8_units(transform.field.network.extras.get("latent.variances"), numbers)

    def encode(self, latents: Tensor) -> bytes:
        """Numbers, then scales."""
        stored = store(latents, "int8", self._units)
        assert stored.scales is not None
        numbers, scales = stored.numbers.numpy().T, stored.scales.numpy().astype("<f4")
        return zlib.compress(np.ascontiguousarray(numbers).tobytes() + scales.tobytes(), 9)

    def decode(self, data: bytes, blocks: int) -> Tensor:
        """As the product restores them."""
        raw = zlib.decompress(data)
        numbers = np.frombuffer(raw, np.int8, self._numbers * blocks).reshape(self._numbers, blocks).T.copy()
        scales = np.frombuffer(raw, "<f4", blocks, self._numbers * blocks).copy()
        assert np.abs(numbers).max(initial=0) <= LARGEST_INT8
        return Stored(torch.from_numpy(numbers), torch.from_numpy(scales), self._units).restored()


class StoredLatents:
    """A field with a storage type. ``qualities``: how many of the numbers are kept, the first ones."""

    def __init__(self, name: str, transform: FieldTransform, storage: type[Storage], keep: Sequence[int]) -> None:
        self.name, self.qualities = name, tuple(map(float, keep))
        self._transform, self._type = transform, storage
        self._storages: list[Storage] = []

    @property
    def shared_bytes(self) -> int:
        """The network's."""
        return self._transform.shared_bytes

    def fit(self, training: Sequence[Volume]) -> None:
        """Train the network, where nobody has yet."""
        block = self._transform.block
        kept = (cut(v.values, block)[needed(v.mask, v.values.shape, block)] for v in training)
        self._transform.fit(np.concatenate(list(kept)))
        self._storages = [self._type() for _ in self.qualities]
        for storage, quality in zip(self._storages, self.qualities, strict=True):
            storage.fit(self._transform, int(quality))

    def encode(self, values: Values, mask: Mask, quality: float) -> bytes:
        """The header, then the storage type's bytes."""
        number, block = self.qualities.index(quality), self._transform.block
        blocks = cut(values, block)[needed(mask, values.shape, block)]
        latents = self._transform.latents(blocks)[:, : int(quality)]
        return HEADER.pack(number, *values.shape) + self._storages[number].encode(latents)

    def decode(self, data: bytes, mask: Mask) -> Values:
        """Latents, then the field on each block."""
        number, *shape = HEADER.unpack_from(data)
        kept = needed(mask, shape, self._transform.block)
        latents = self._storages[number].decode(data[HEADER.size :], int(kept.sum()))
        blocks = np.zeros((len(kept), int(np.prod(self._transform.block))), np.float32)
        blocks[kept] = self._transform.values(latents)
        return joined(blocks, shape, self._transform.block)
