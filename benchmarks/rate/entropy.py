"""The one entropy coder of all transforms: a class per block, a table per class and coefficient, ANS.

A block's class is the one that makes it shortest. Which table a coefficient has in a class is learned from training
blocks at the same step, and is shared: a byte each. Rounding weighs bits against error, with the same tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import constriction
import numpy as np
from jaxtyping import Float, Int

from benchmarks.rate.symbol_tables import BINS, bin_bits, bins, tables
from benchmarks.rate.varints import read_varints, varints

CLASSES = 8
ROUNDS = 4
"""Of sorting training blocks into classes, and choosing the classes' tables."""
PRICE = 0.12
"""Of a bit in squared steps: what an optimal quantiser of small steps would pay is 2 ln 2 / 12."""
SELDOM = 5e-4
"""Of training blocks: coefficients that are larger than half a step in fewer are not coded."""
AT_ONCE = 2**20
"""Coefficients whose costs are held at once."""

Symbols = Int[np.ndarray, "block coefficient"]
Scaled = Float[np.ndarray, "block coefficient"]
"""Coefficients in steps."""


@dataclass(frozen=True, eq=False)
class Model:
    """What encoder and decoder share at one step: each class's table by coefficient, and how frequent classes are."""

    table: Int[np.ndarray, "class kept"]
    frequency: Int[np.ndarray, " class"]
    kept: Int[np.ndarray, " kept"]
    """Coefficients that are coded; the others hardly ever round to anything but zero."""
    count: int
    """Coefficients of a block."""

    @property
    def shared_bytes(self) -> int:
        """A byte per table, two per class, a bit per coefficient."""
        return self.table.size + 2 * self.frequency.size + self.count // 8


def learned(whole: Scaled, classes: int = CLASSES) -> Model:
    """From training blocks, in steps."""
    often = (np.abs(whole) > 0.5).sum(0) >= max(2, len(whole) * SELDOM)
    kept = np.flatnonzero(often)
    scaled = np.ascontiguousarray(whole[:, kept], np.float32)
    frequency, table = _sorted_into_classes(scaled, classes)
    return Model(table, frequency, kept, whole.shape[1])


def _sorted_into_classes(scaled: Scaled, classes: int) -> tuple[np.ndarray, np.ndarray]:
    symbols = np.rint(scaled).astype(np.int32)
    energy = np.log1p(np.abs(symbols)).sum(1)
    chosen = (energy.argsort(kind="stable").argsort(kind="stable") * classes // max(1, len(energy))).astype(np.intp)
    for _ in range(ROUNDS):
        frequency, table = _counted(symbols, chosen, classes)
        chosen, symbols = rounded(scaled, table, frequency)
    return _counted(symbols, chosen, classes)


def in_order(model: Model) -> Model:
    """The same with classes in the order of what blocks cost in them, so that neighbouring numbers are alike."""
    zeros = bin_bits()[model.table, 0].sum(1)
    order = zeros.argsort(kind="stable")
    return replace(model, table=model.table[order], frequency=model.frequency[order])


def _counted(symbols: Symbols, chosen: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """How frequent each class is, and the tables that make these symbols shortest."""
    count = symbols.shape[1]
    place = bins(symbols) + BINS * (np.arange(count) + count * chosen[:, None])
    histogram = np.bincount(place.ravel(), minlength=classes * count * BINS).reshape(classes * count, BINS)
    cost = histogram.astype(np.float32) @ bin_bits().T
    return 1 + np.bincount(chosen, minlength=classes), cost.argmin(1).reshape(classes, count)


def rounded(scaled: Scaled, table: np.ndarray, frequency: np.ndarray) -> tuple[Int[np.ndarray, " block"], Symbols]:
    """The class and the symbols of each block."""
    rows = max(1, AT_ONCE // max(1, scaled.shape[1]))
    parts = [_rounded(scaled[first : first + rows], table, frequency) for first in range(0, max(1, len(scaled)), rows)]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _rounded(scaled: Scaled, tables_of: np.ndarray, frequency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nearest = np.rint(scaled).astype(np.int32)
    price = -np.log2(frequency / frequency.sum())
    chosen = (np.stack([_bits(nearest, table).sum(1) for table in tables_of], 1) + price).argmin(1)
    table = tables_of[chosen]
    best, found = _lagrangian(scaled, nearest, table), nearest
    for candidate in (nearest - np.sign(nearest), np.zeros_like(nearest)):
        other = _lagrangian(scaled, candidate, table)
        found, best = np.where(other < best, candidate, found), np.minimum(best, other)
    return chosen, found.astype(np.int32)


def _lagrangian(scaled: Scaled, symbols: Symbols, table: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(scaled - symbols) + PRICE * _bits(symbols, table))


def _bits(symbols: Symbols, table: np.ndarray) -> np.ndarray:
    return bin_bits()[table, bins(symbols)]


def encoded(scaled: Scaled, model: Model) -> bytes:
    """Blocks as bytes."""
    chosen, symbols = rounded(scaled[:, model.kept], model.table, model.frequency)
    words, beyond = symbols_pushed(symbols, chosen, model)
    words.encode_reverse(chosen.astype(np.int32), categorical(model.frequency))
    return finished(words, beyond)


def decoded(data: bytes, blocks: int, model: Model) -> Symbols:
    """The symbols of so many blocks."""
    words, beyond = begun(data)
    chosen = words.decode(categorical(model.frequency), blocks)
    return symbols_popped(words, beyond, chosen, model)


Ans = constriction.stream.stack.AnsCoder


def symbols_pushed(symbols: Symbols, chosen: np.ndarray, model: Model) -> tuple[Ans, list[int]]:
    """A stack that has all symbols of blocks of these classes; and how far some are beyond their table's ends."""
    ans, groups, flat = Ans(), _groups(model, chosen), symbols.ravel()
    beyond: list[int] = []
    for places, number in groups:
        last, sizes = tables()[number].last, np.abs(flat[places])
        beyond += (sizes[sizes >= last] - last).tolist()
    for places, number in reversed(groups):
        table = tables()[number]
        clipped = np.clip(flat[places], -table.last, table.last) + table.last
        ans.encode_reverse(clipped.astype(np.int32), categorical(table.frequencies))
    return ans, beyond


def symbols_popped(ans: Ans, beyond: list[int], chosen: np.ndarray, model: Model) -> Symbols:
    """The symbols of blocks of these classes."""
    flat, taken = np.zeros(len(chosen) * len(model.kept), np.int64), 0
    for places, number in _groups(model, chosen):
        table = tables()[number]
        found = ans.decode(categorical(table.frequencies), len(places)).astype(np.int64) - table.last
        ends = np.flatnonzero(np.abs(found) == table.last)
        found[ends] += np.sign(found[ends]) * np.asarray(beyond[taken : taken + len(ends)], np.int64)
        taken += len(ends)
        flat[places] = found
    symbols = np.zeros((len(chosen), model.count), np.int64)
    symbols[:, model.kept] = flat.reshape(len(chosen), len(model.kept))
    return symbols


def finished(ans: Ans, beyond: list[int]) -> bytes:
    """What is beyond tables' ends, then the stack; its last word is not zero, but may begin with zeros."""
    return varints([len(beyond), *beyond]) + ans.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


def begun(data: bytes) -> tuple[Ans, list[int]]:
    """The stack, and what is beyond tables' ends."""
    (count,), start = read_varints(data, 0, 1)
    beyond, start = read_varints(data, start, count)
    words = data[start:] + bytes(-len(data[start:]) % 4)
    return Ans(np.frombuffer(words, "<u4").astype(np.uint32)), beyond


def _groups(model: Model, chosen: Sequence[int] | np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Places of the flat symbols that have the same table, and which."""
    numbers = model.table[np.asarray(chosen, np.intp)].ravel()
    order = numbers.argsort(kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    return list(zip(np.split(order, starts[1:]), found.tolist(), strict=True)) if len(found) else []


def categorical(frequencies: np.ndarray) -> constriction.stream.model.Categorical:
    """A table as constriction wants it."""
    return constriction.stream.model.Categorical(frequencies / frequencies.sum(), perfect=False)
