"""What a block's neighbours tell of it: which class is likely, and what its first coefficients are.

Blocks are coded one after the other, so that decoder and encoder know the same neighbours: those before it along each
axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from benchmarks.rate import entropy
from benchmarks.rate.blocks import cut, grid_of, joined, needed, spread
from benchmarks.rate.coder import HEADER, Mask, Values
from benchmarks.rate.transform_coder import STEPS
from benchmarks.rate.transforms import Coefficients, Transform
from benchmarks.rate.volumes import Volume

PREDICTED = 32
"""Coefficients that are predicted, those that vary most, from the same ones of each neighbour."""
RIDGE = 1e-3
"""Of the regression, relative to the mean diagonal."""
MOST = 4000
"""Training blocks that tables are learned from."""
SMOOTHING = 2.0
"""Counts that every class has in every context."""

Before = Int[np.ndarray, "block axis"]
"""The block before each one along each axis, by its place among those that are coded; −1 where there is none."""


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """What is shared beside the entropy coder's model: likely classes by context, and the regression."""

    frequency: Float[np.ndarray, "context class"]
    places: Int[np.ndarray, " predicted"]
    weights: Float[np.ndarray, "predicted neighbour"]

    @property
    def shared_bytes(self) -> int:
        """Two per number."""
        return 2 * (self.frequency.size + self.places.size + self.weights.size)

    def predicted(self, coefficients: Coefficients, before: Int[np.ndarray, " axis"]) -> np.ndarray:
        """What the neighbours say of a block's coefficients, in the places that are predicted."""
        return np.asarray(self.weights @ _seen(coefficients, self.places, before[None])[0])


def before_each(kept: Bool[np.ndarray, " block"], grid: Sequence[int]) -> Before:
    """The neighbours of the blocks that are coded."""
    number = np.where(kept, np.cumsum(kept) - 1, -1).reshape(grid)
    found = []
    for axis in range(3):
        moved = np.full_like(number, -1)
        to, source = ([slice(None)] * 3 for _ in range(2))
        to[axis], source[axis] = slice(1, None), slice(None, -1)
        moved[tuple(to)] = number[tuple(source)]
        found.append(moved.ravel()[kept])
    return np.stack(found, 1)


def context(chosen: Int[np.ndarray, " block"], before: Before) -> Int[np.ndarray, " block"]:
    """0 without a neighbour, or one more than the mean class of those there are."""
    there = before >= 0
    total = np.where(there, chosen[before], 0).sum(1)
    return np.where(there.any(1), 1 + (2 * total + there.sum(1)) // (2 * np.maximum(1, there.sum(1))), 0)


def _seen(coefficients: Coefficients, places: np.ndarray, before: Before) -> np.ndarray:
    """(block, axis × place): the neighbours' coefficients, zeros where there is none."""
    there = coefficients[before][:, :, places] * (before >= 0)[:, :, None]
    return np.concatenate([there.reshape(len(before), -1), (before < 0).astype(np.float32)], 1)


def _learned(coefficients: Coefficients, before: Before, step: float) -> tuple[entropy.Model, Neighbourhood]:
    """From training blocks: neighbours as they would be decoded at this step, or nearly."""
    scaled = coefficients / np.float32(step)
    decoded = np.rint(scaled)
    places = np.argsort(-scaled.var(0), kind="stable")[:PREDICTED]
    seen = _seen(decoded, places, before).astype(np.float64)
    gram = seen.T @ seen
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram, seen.T @ scaled[:, places]).T.astype(np.float16).astype(np.float32)
    rest = scaled.copy()
    rest[:, places] -= (seen @ weights.T).astype(np.float32)
    model = entropy.in_order(entropy.learned(rest[spread(len(rest), MOST)]))
    chosen = entropy.rounded(rest[:, model.kept], model.table, model.frequency)[0]
    frequency = np.full((len(model.table) + 1, len(model.table)), SMOOTHING)
    np.add.at(frequency, (context(chosen, before), chosen), 1.0)
    return model, Neighbourhood(frequency, places, weights)


def _closed_loop(
    scaled: Coefficients, before: Before, model: entropy.Model, around: Neighbourhood
) -> tuple[np.ndarray, np.ndarray]:
    """Classes and symbols, block by block: each from what its neighbours are decoded to."""
    decoded = np.zeros_like(scaled)
    chosen, symbols = np.zeros(len(scaled), np.int64), np.zeros((len(scaled), len(model.kept)), np.int32)
    for index, neighbours in enumerate(before):
        told = np.zeros(scaled.shape[1], np.float32)
        told[around.places] = around.predicted(decoded, neighbours)
        likely = around.frequency[context(chosen, neighbours[None])[0]]
        found = entropy.rounded((scaled[index] - told)[None, model.kept], model.table, likely)
        chosen[index], symbols[index] = found[0][0], found[1][0]
        decoded[index] = told
        decoded[index, model.kept] += symbols[index]
    return chosen, symbols


class NeighbourCoder:
    """As ``TransformCoder``, with blocks coded one after the other."""

    def __init__(self, name: str, transform: Transform, steps: Sequence[float] = STEPS) -> None:
        self.name, self.qualities, self._transform = name, tuple(steps), transform
        self._models: list[tuple[entropy.Model, Neighbourhood]] = []

    @property
    def shared_bytes(self) -> int:
        """The transform's, and what one step has."""
        return self._transform.shared_bytes + max(m.shared_bytes + n.shared_bytes for m, n in self._models)

    def fit(self, training: Sequence[Volume]) -> None:
        """The transform; then, for each step, the regression, and tables of what it leaves."""
        kept = [needed(v.mask, v.values.shape, self._transform.block) for v in training]
        parts = [cut(v.values, self._transform.block)[k] for v, k in zip(training, kept, strict=True)]
        blocks = np.concatenate(parts)
        self._transform.fit(blocks)
        starts = np.cumsum([0, *(len(part) for part in parts)])
        before = np.concatenate(
            [
                np.where((b := before_each(k, grid_of(v.values.shape, self._transform.block))) < 0, -1, b + start)
                for v, k, start in zip(training, kept, starts, strict=False)
            ]
        )
        coefficients = self._transform.forward(blocks)
        self._models = [_learned(coefficients, before, step) for step in self.qualities]

    def encode(self, values: Values, mask: Mask, quality: float) -> bytes:
        """The header, then classes and symbols."""
        number, block = self.qualities.index(quality), self._transform.block
        model, around = self._models[number]
        kept = needed(mask, values.shape, block)
        before = before_each(kept, grid_of(values.shape, block))
        coefficients = self._transform.forward(cut(values, block)[kept])
        chosen, symbols = _closed_loop(coefficients / np.float32(quality), before, model, around)
        ans, beyond = entropy.symbols_pushed(symbols, chosen, model)
        tables = [entropy.categorical(row) for row in around.frequency]
        for index, where in reversed(list(enumerate(context(chosen, before)))):
            ans.encode_reverse(int(chosen[index]), tables[where])
        return HEADER.pack(number, *values.shape) + entropy.finished(ans, beyond)

    def decode(self, data: bytes, mask: Mask) -> Values:
        """Classes, symbols, then blocks one after the other."""
        number, *shape = HEADER.unpack_from(data)
        model, around = self._models[number]
        kept = needed(mask, shape, self._transform.block)
        before = before_each(kept, grid_of(shape, self._transform.block))
        ans, beyond = entropy.begun(data[HEADER.size :])
        tables = [entropy.categorical(row) for row in around.frequency]
        chosen = np.zeros(len(before), np.int64)
        for index in range(len(before)):
            chosen[index] = ans.decode(tables[context(chosen, before[index : index + 1])[0]])
        found = entropy.symbols_popped(ans, beyond, chosen, model).astype(np.float32)
        for index, neighbours in enumerate(before):
            found[index, around.places] += around.predicted(found, neighbours)
        blocks = np.zeros((len(kept), int(np.prod(self._transform.block))), np.float32)
        blocks[kept] = self._transform.inverse(found * np.float32(self.qualities[number]))
        return joined(blocks, shape, self._transform.block)
