"""The only import of faiss: indexes are made, filled, merged, written and searched here.

A file of faiss is no pickle, but C++ reads it and trusts what it says: only bytes whose SHA-256 a commit record names
may come here, and what they hold must be of the size that the record says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from medfuncta_dist.errors import IntegrityError, MedfunctaError

Vectors = Float[np.ndarray, "scan coordinate"]


class Effort(NamedTuple):
    """How much of an approximate index a search looks at."""

    lists: int
    """Lists around the nearest centres, of a compressed index."""
    candidates: int
    """Compared again by whole vectors, for each neighbour that is asked for."""


ROUNDED = 1e-4
"""Of a query's squared length: smaller squared distances are what is left of large numbers, and hold their rounding."""
CLOSE_AT_ONCE = 8192
"""Such hits whose vectors are in memory at once."""
NO_EFFORT = Effort(1, 1)
"""Of an exact index, which has no such choice."""


class Hits(NamedTuple):
    """Of each query, the nearest first. Place -1, at infinity: there were no more."""

    distances: Float[np.ndarray, "query hit"]
    places: Int[np.ndarray, "query hit"]


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        do = "pip install 'medfuncta-dist[neighbours]', also in the workers' image"
        raise MedfunctaError("faiss is not installed", do=do) from error
    return faiss


def use_threads(threads: int) -> None:
    """How many threads a search, or learning, takes in this process."""
    _faiss().omp_set_num_threads(threads)


def learned(recipe: str, sample: Vectors) -> bytes:
    """An empty index that has learned what it needs from a sample of vectors."""
    index = _faiss().index_factory(sample.shape[1], recipe)
    index.train(sample)
    return to_bytes(index)


def filled(empty: bytes, vectors: Vectors) -> bytes:
    """A learned index with these vectors, whose places are their order."""
    index = from_bytes(empty, "an index", vectors.shape[1], 0)
    index.add(vectors)
    return to_bytes(index)


def to_bytes(index: Any) -> bytes:
    """As faiss writes it."""
    data: bytes = _faiss().serialize_index(index).tobytes()
    return data


def from_bytes(data: bytes, where: str, coordinates: int, scans: int) -> Any:
    """The inverse, for bytes whose digest was compared. IntegrityError for an index of another size."""
    try:
        index = _faiss().deserialize_index(np.frombuffer(data, np.uint8))
    except RuntimeError as error:
        raise IntegrityError("faiss does not read this index", where=where, do=REPLACE) from error
    if (index.d, index.ntotal) != (coordinates, scans):
        what = f"an index of {index.ntotal} vectors of {index.d} numbers, not of {scans} of {coordinates}"
        raise IntegrityError(what, where=where, do=REPLACE)
    return index


MAKE_AGAIN = "make the index again: `medfuncta-dist index RUN.yaml`"
REPLACE = f"remove the damaged one: `medfuncta-dist verify RUN.yaml --repair`; then {MAKE_AGAIN}"


def merged(indexes: Iterable[Any]) -> Any:
    """One index of all vectors, in this order; the others are empty then."""
    first, *others = indexes
    for other in others:
        _take_over(first, other)
    return first


def _take_over(index: Any, other: Any) -> None:
    """faiss merges the two indexes that one with whole vectors consists of, but not these by themselves."""
    lists = index.ntotal if hasattr(_plain(_first_search(index)), "nprobe") else 0
    if hasattr(index, "refine_index"):
        _faiss().downcast_index(index.base_index).merge_from(_faiss().downcast_index(other.base_index), lists)
        _faiss().downcast_index(index.refine_index).merge_from(_faiss().downcast_index(other.refine_index))
        index.ntotal = index.base_index.ntotal
    else:
        index.merge_from(other, lists)


def search(index: Any, queries: Vectors, count: int, effort: Effort) -> Hits:
    """The nearest vectors of each query."""
    searched = _plain(_first_search(index))
    if hasattr(searched, "nprobe"):
        searched.nprobe = min(effort.lists, searched.nlist)
    if hasattr(index, "refine_index"):
        index.k_factor = float(effort.candidates)
    queries = np.ascontiguousarray(queries, np.float32)
    squares, places = index.search(queries, count)
    if not hasattr(index, "refine_index"):  # the others take differences themselves
        squares, places = _with_differences(index, queries, squares, places)
    distances = np.sqrt(np.maximum(squares, 0), dtype=np.float64)
    return Hits(np.where(places < 0, np.inf, distances), places)


def _with_differences(
    index: Any, queries: Vectors, squares: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Hits with the squares of close ones taken from differences: for many queries faiss computes |a|² + |b|² − 2ab,
    by which equal vectors are not at 0."""
    lengths = np.square(queries).sum(axis=1, keepdims=True)
    rows, hits = np.nonzero((places >= 0) & (squares < ROUNDED * lengths))
    for start in range(0, len(rows), CLOSE_AT_ONCE):
        row, hit = rows[start : start + CLOSE_AT_ONCE], hits[start : start + CLOSE_AT_ONCE]
        squares[row, hit] = np.square(queries[row] - index.reconstruct_batch(places[row, hit])).sum(axis=1)
    order = np.argsort(squares, axis=1, kind="stable")
    return np.take_along_axis(squares, order, axis=1), np.take_along_axis(places, order, axis=1)


def vectors_of(index: Any, start: int, count: int) -> Vectors:
    """Vectors by their places, as the index keeps them: of a compressed one, in eight bits."""
    whole = _faiss().downcast_index(index.refine_index) if hasattr(index, "refine_index") else index
    found: np.ndarray = whole.reconstruct_n(start, count)
    return found


def nearest_exactly(queries: Vectors, vectors: Vectors, count: int) -> Hits:
    """Without an index, all compared."""
    squares, places = _faiss().knn(queries, vectors, min(count, len(vectors)))
    return Hits(np.sqrt(np.maximum(squares, 0), dtype=np.float64), places)


def _first_search(index: Any) -> Any:
    return _faiss().downcast_index(index.base_index) if hasattr(index, "refine_index") else index


def _plain(index: Any) -> Any:
    """What is behind a change of coordinates."""
    return _faiss().downcast_index(index.index) if hasattr(index, "chain") else index
