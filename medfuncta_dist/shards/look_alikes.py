"""Pairs of scans that look alike (``scans/look.py``) in different splits, or of different patients: pure, vectorised.

Comparing all with all takes N²/2 steps. So where scans are many, each look is cut to 64 bits: whether each number is
above its median over the scans. Two looks that differ in at most 7 bits differ in at most 1 within one of four bands of
16 bits: so a scan is compared with those whose band is equal, or differs in one bit. Of what is left, the numbers
themselves are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

OnStep = Callable[[int, int], None]

ALIKE = 0.97
"""Smallest likeness (cosine of the angle between two looks) that is reported: chosen on chest X-rays, where pictures of
different patients reach 0.95 (docs/reference/groups.md has the figures)."""
ALL_WITH_ALL = 2**13
"""Scans: no more are compared each with each, which takes half a second."""
BITS, BANDS = 7, 4
BAND_BITS = 16
MASKS = (0, *(1 << bit for bit in range(BAND_BITS)))
MOST_IN_A_BUCKET = 2048
"""Looks with the same band that are compared with one another: a data set of ten thousand nearly equal pictures must
not take hours. What is left out is counted."""
MOST_COMPARED = 2**11
"""Pairs of bits per scan that are compared in one band, some 50 µs of time; where there are more, fewer of each bucket
are compared. Fifteen million scans that are spread over all buckets do not reach it; short signals are in few."""
LEAST_IN_A_BUCKET = 32
MOST_EQUAL = 8
"""Of scans with the same bits, the neighbours that each is compared with, and those that others are compared with."""
CHUNK = 2**19
"""Pairs of bits that are in memory at once; of looks, an eighth."""
MOST_PAIRS = 10**6
"""Pairs that are kept."""
MOST_FOUND = 2**24
"""Pairs after which the search stops. They are counted; in memory are at most twice those that are kept."""
MOST_LIKENESSES, IN_ANY_CASE = 2**8, 2**24
"""Pairs of looks per scan after which it stops, some 75 µs of time, but not before so many of all. Scans unlike
one another do not reach it; short signals, whose bits are few, do."""
ROUNDING = 1e-4
SAMPLE = 2**14
"""Looks from which the medians are taken."""


class Owners(NamedTuple):
    """Whose each scan is. Each (scan,): ``split`` a number, ``patient`` and ``volume`` 64 bits of a key."""

    split: np.ndarray
    patient: np.ndarray
    volume: np.ndarray


@dataclass(frozen=True)
class LookAlikes:
    """``pairs`` (pair, 2): places of two scans, the earlier first, most alike first; ``likeness`` (pair,)."""

    pairs: np.ndarray
    likeness: np.ndarray
    across_splits: int
    """Pairs whose scans are in different splits; also where more were found than are kept."""
    across_patients: int
    """Pairs of different patients, in the same split."""
    complete: bool = True
    """False where the search stopped at so many pairs: the counts then are the least that there are."""
    skipped: int = 0
    """Scans that look like so many others that they were not compared with all of these."""


def look_alikes(
    looks: np.ndarray, owners: Owners, alike: float = ALIKE, on_step: OnStep = lambda done, total: None
) -> LookAlikes:
    """Search the looks, (scan, 64) int8, which may be a memory map: about 50 bytes per scan are in memory besides.

    Scans of one volume, of one patient in one split, and constant scans are no pairs. ``on_step`` hears how many steps
    are done, of how many: of a million scans, one takes seconds.
    """
    bits = _bits(looks)
    usable = np.flatnonzero(np.concatenate([part.any(axis=1) for part in _parts(looks)] or [np.empty(0, bool)]))
    # Equal bits in the order of their patients' keys: neighbours are then of any split.
    order = usable[np.lexsort((owners.patient[usable], bits[usable]))]
    if len(order) <= ALL_WITH_ALL:
        return _among_few(looks, owners, order, alike)
    distinct, first, counts = np.unique(bits[order], return_index=True, return_counts=True)
    tally = _Tally(looks, owners, alike)
    for left, right in _equal(first, counts):
        tally.add(order[left], order[right])
    steps = BANDS * len(MASKS)
    for step, near in enumerate(_close(distinct)):
        on_step(step, steps)
        for left, right in near:
            tally.add(*(order[places] for places in _members(left, right, first, counts)))
            if not tally.complete:
                return tally.result(_skipped(distinct, counts))
    return tally.result(_skipped(distinct, counts))


def _among_few(looks: np.ndarray, owners: Owners, places: np.ndarray, alike: float) -> LookAlikes:
    tally = _Tally(looks, owners, alike)
    unit = np.asarray(looks[places]).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    rows = max(1, CHUNK // max(1, len(unit)))
    for start in range(0, len(unit), rows):
        left, right = np.nonzero(unit[start : start + rows] @ unit.T >= alike - ROUNDING)
        later = right > left + start
        tally.add(places[left[later] + start], places[right[later]])
    return tally.result(0)


def _parts(looks: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(looks), CHUNK // 8):
        yield np.asarray(looks[start : start + CHUNK // 8])


def _bits(looks: np.ndarray) -> np.ndarray:
    """(scan,) uint64: which numbers of each look are above the median."""
    if not len(looks):
        return np.empty(0, np.uint64)
    step = -(-len(looks) // SAMPLE)
    middle = np.median(np.asarray(looks[::step]), axis=0)
    packed = [np.packbits(part > middle, axis=1) for part in _parts(looks)]
    # Neighbouring frequencies go to different bands: they say the same more often than others do.
    return np.concatenate([part.view(np.uint64).ravel() for part in map(np.ascontiguousarray, packed)])


def _band(bits: np.ndarray, band: int) -> np.ndarray:
    found: np.ndarray = (bits >> np.uint64(BAND_BITS * band)) & np.uint64(2**BAND_BITS - 1)
    return found.astype(np.int64)


def _equal(first: np.ndarray, counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of scans with equal bits, each with its next neighbours."""
    start, count = first[counts > 1], counts[counts > 1]
    places = np.repeat(start, count) + _ramp(count)
    end = np.repeat(start + count, count)
    for step in range(1, MOST_EQUAL + 1):
        there = places + step < end
        yield places[there], places[there] + step


def _ramp(counts: np.ndarray) -> np.ndarray:
    """0, 1, ..., count - 1 for each count, one after the other."""
    ends = np.cumsum(counts)
    found: np.ndarray = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
    return found


def _close(bits: np.ndarray) -> Iterator[Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Pairs of places of different bits that differ in at most ``BITS``, each once; step by step."""
    earlier: list[np.ndarray] = []
    for band in range(BANDS):
        value = _band(bits, band)
        order = np.argsort(value, kind="stable")
        value, ordered = value[order], bits[order]
        size = np.bincount(value, minlength=2**BAND_BITS)
        start = np.cumsum(size) - size
        most = _most_in_a_bucket(size)
        size = np.minimum(size, most)
        inside = np.arange(len(value)) - start[value] < most
        for mask in MASKS:
            joined = _joined(value, start, size, inside, mask)
            yield _near(bits, ordered, order, joined, earlier)
        here = np.empty(len(bits), bool)
        here[order] = inside
        earlier.append(here)


def _near(
    bits: np.ndarray,
    ordered: np.ndarray,
    order: np.ndarray,
    joined: Iterator[tuple[np.ndarray, np.ndarray]],
    earlier: Sequence[np.ndarray],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of pairs in the ``order`` of a band, the places of those that are near and that no earlier band has had."""
    for left, right in joined:
        near = np.bitwise_count(ordered[left] ^ ordered[right]) <= BITS
        a, b = order[left[near]], order[right[near]]
        new = ~_met(bits, a, b, earlier)
        yield a[new], b[new]


def _most_in_a_bucket(size: np.ndarray) -> int:
    """How many of a bucket are compared with others, where ``size`` scans are in each bucket of a band."""
    most = MOST_IN_A_BUCKET
    while most > LEAST_IN_A_BUCKET and _pairs(np.minimum(size, most)) > MOST_COMPARED * int(size.sum()):
        most //= 2
    return most


def _pairs(size: np.ndarray) -> int:
    """Pairs of scans in buckets of these sizes whose values are equal or differ in one bit."""
    sizes, value = size.astype(np.float64), np.arange(len(size))
    twice = sum(float(sizes @ sizes[value ^ mask]) for mask in MASKS) - float(sizes.sum())
    return int(twice / 2)


def _met(bits: np.ndarray, left: np.ndarray, right: np.ndarray, earlier: Sequence[np.ndarray]) -> np.ndarray:
    """Which of these pairs an earlier band has had. ``earlier``: by band, the places that were compared in it."""
    met = np.zeros(len(left), bool)
    for band, inside in enumerate(earlier):
        apart = np.bitwise_count(_band(bits[left], band) ^ _band(bits[right], band))
        met |= (apart <= 1) & inside[left] & inside[right]
    return met


def _joined(
    value: np.ndarray, start: np.ndarray, size: np.ndarray, inside: np.ndarray, mask: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each place with those of the bucket whose value differs by ``mask``; ``CHUNK`` pairs or so at once."""
    places = np.flatnonzero(inside & (value <= value ^ mask))
    other = value[places] ^ mask
    begin = np.where(mask == 0, places + 1, start[other])
    length = start[other] + size[other] - begin
    ends = np.cumsum(length)
    cuts = [0, *np.searchsorted(ends, np.arange(CHUNK, ends[-1] if len(ends) else 0, CHUNK)).tolist(), len(places)]
    for low, high in pairwise(cuts):
        if high > low:
            part = length[low:high]
            yield np.repeat(places[low:high], part), np.repeat(begin[low:high], part) + _ramp(part)


def _members(
    left: np.ndarray, right: np.ndarray, first: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places of scans for pairs of distinct bits: a few of each."""
    many, others = np.minimum(counts[left], MOST_EQUAL), np.minimum(counts[right], MOST_EQUAL)
    number = _ramp(many * others)
    width = np.repeat(others, many * others)
    return (
        np.repeat(first[left], many * others) + number // width,
        np.repeat(first[right], many * others) + number % width,
    )


def _skipped(bits: np.ndarray, counts: np.ndarray) -> int:
    """Scans beyond the first of a bucket, in any band."""
    beyond = np.zeros(len(bits), bool)
    for band in range(BANDS):
        value = _band(bits, band)
        order = np.argsort(value, kind="stable")
        size = np.bincount(value, minlength=2**BAND_BITS)
        beyond[order] |= np.arange(len(value)) - (np.cumsum(size) - size)[value[order]] >= _most_in_a_bucket(size)
    return int(counts[beyond].sum())


class _Tally:
    """Compares candidates, each given once, counts those that are alike, and keeps the best."""

    def __init__(self, looks: np.ndarray, owners: Owners, alike: float) -> None:
        self._looks, self._owners, self._alike = looks, owners, alike
        self._squares = np.concatenate([_squares(part) for part in _parts(looks)] or [np.empty(0, np.float32)])
        self._pairs, self._likeness = np.empty((0, 2), np.int64), np.empty(0, np.float32)
        self._more: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0
        self._most = max(IN_ANY_CASE, MOST_LIKENESSES * len(looks))
        self._compared, self._across, self._found, self.complete = 0, 0, 0, True

    def add(self, left: np.ndarray, right: np.ndarray) -> None:
        """Add candidates: places of scans."""
        if self._found > MOST_FOUND or self._compared > self._most:
            self.complete = False
            return
        split, patient, volume = self._owners
        apart = (split[left] != split[right]) | (patient[left] != patient[right])
        apart &= volume[left] != volume[right]
        left, right = left[apart], right[apart]
        for start in range(0, len(left), CHUNK // 8):
            self._compare(left[start : start + CHUNK // 8], right[start : start + CHUNK // 8])

    def _compare(self, left: np.ndarray, right: np.ndarray) -> None:
        likeness = self._cosine(left, right)
        alike = likeness >= self._alike
        pairs = np.stack([np.minimum(left, right), np.maximum(left, right)], axis=1)[alike].astype(np.int64)
        self._compared += len(left)
        self._across += int(self._are_across(pairs).sum())
        self._found += len(pairs)
        self._more.append((pairs, likeness[alike]))
        self._waiting += len(pairs)
        if self._waiting > MOST_PAIRS:
            self._keep_best()

    def _cosine(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Of whole numbers that float32 holds exactly: the same on every machine."""
        a, b = (np.asarray(self._looks[places]).astype(np.float32) for places in (left, right))
        lengths = self._squares[left].astype(np.float64) * self._squares[right]
        found: np.ndarray = (np.einsum("ij,ij->i", a, b) / np.sqrt(lengths)).astype(np.float32)
        return found

    def _are_across(self, pairs: np.ndarray) -> np.ndarray:
        across: np.ndarray = self._owners.split[pairs[:, 0]] != self._owners.split[pairs[:, 1]]
        return across

    def _keep_best(self) -> None:
        """Those between splits first, then the most alike."""
        parts = [(self._pairs, self._likeness), *self._more]
        pairs, likeness = (np.concatenate(column) for column in zip(*parts, strict=True))
        best = np.lexsort((pairs[:, 1], pairs[:, 0], -likeness, ~self._are_across(pairs)))[:MOST_PAIRS]
        self._pairs, self._likeness = pairs[best], likeness[best]
        self._more, self._waiting = [], 0

    def result(self, skipped: int) -> LookAlikes:
        """All that were found."""
        self._keep_best()
        within = self._found - self._across
        return LookAlikes(self._pairs, self._likeness, self._across, within, self.complete, skipped)


def _squares(looks: np.ndarray) -> np.ndarray:
    """Sums of squares: whole numbers below 2^24, which float32 holds exactly."""
    wide = looks.astype(np.float32)
    found: np.ndarray = np.einsum("ij,ij->i", wide, wide)
    return found
