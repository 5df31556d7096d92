"""Which index a number of scans gets, and how its blocks are cut. Pure.

exact        every vector as it is, all compared
reduced      the first principal components, all compared; the best candidates again by whole vectors
compressed   the same in lists around centres, of which a few are searched, everything in eight bits
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from medfuncta_dist.latents.table_format import PartRef

IndexKind = Literal["exact", "reduced", "compressed"]
KINDS: tuple[IndexKind, ...] = get_args(IndexKind)
EXACT_BELOW = 100_000
"""Scans. A search that compares all of them has no error."""
COMPRESSED_FROM = 500_000
"""Scans. Whole float32 vectors of 2048 numbers take 8 GB per million, eight-bit ones 2 GB."""
COMPONENTS = 256
"""Principal components that the first search of an approximate index compares."""
LISTS_PER_ROOT = 4
"""Lists of a compressed index: so many times the root of the number of scans, as faiss recommends below a million."""
SCANS_PER_LIST = 39
"""Least that faiss trains a centre with."""
BLOCK_NUMBERS = 2**26
"""Of a block's vectors, which one task has in memory in float32: 256 MB, 32 768 scans of 2048 numbers."""
SAMPLE_NUMBERS, LEAST_SAMPLE = 2**26, 4096
"""Of the vectors from which an index learns components, centres and ranges; and the least number of scans."""


@dataclass(frozen=True)
class FittedPart:
    """A committed part of the latent table."""

    split: str
    part: PartRef
    rows: int


def kind_for(scans: int) -> IndexKind:
    """The kind that so many scans get."""
    if scans < EXACT_BELOW:
        return "exact"
    return "reduced" if scans < COMPRESSED_FROM else "compressed"


def recipe(kind: IndexKind, scans: int, coordinates: int, sample: int) -> str:
    """The index in the words of faiss's ``index_factory``, for vectors of so many ``coordinates``.

    ``sample``: scans that it learns from.
    """
    if kind == "exact":
        return "Flat"
    components = min(COMPONENTS, coordinates, sample)
    if kind == "reduced":
        return f"PCA{components},SQ8,RFlat"
    lists = max(1, min(round(LISTS_PER_ROOT * math.sqrt(scans)), sample // SCANS_PER_LIST))
    return f"PCA{components},IVF{lists},SQ8,Refine(SQ8)"


def sample_scans(scans: int, coordinates: int) -> int:
    """How many scans to learn from."""
    return min(scans, max(LEAST_SAMPLE, SAMPLE_NUMBERS // coordinates))


def sampled_parts(parts: Iterable[FittedPart], scans: int) -> list[FittedPart]:
    """Parts with so many scans together, chosen by their digests: by chance, and always the same."""
    chosen, found = [], 0
    for part in sorted(parts, key=lambda one: one.part.sha256):
        if found >= scans:
            break
        chosen.append(part)
        found += part.rows
    return chosen


def blocks(parts: Sequence[FittedPart], coordinates: int) -> list[list[FittedPart]]:
    """Parts of one split each, in their order, in blocks of at most ``BLOCK_NUMBERS`` (or of one part)."""
    most = max(1, BLOCK_NUMBERS // coordinates)
    found: list[list[FittedPart]] = []
    for part in sorted(parts, key=lambda one: one.split):
        last = found[-1] if found else []
        if last and last[0].split == part.split and sum(one.rows for one in last) + part.rows <= most:
            last.append(part)
        else:
            found.append([part])
    return found
