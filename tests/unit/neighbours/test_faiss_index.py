from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from medfuncta_dist.errors import IntegrityError, MedfunctaError
from medfuncta_dist.neighbours.faiss_index import (
    NO_EFFORT,
    Effort,
    filled,
    from_bytes,
    learned,
    merged,
    nearest_exactly,
    search,
    vectors_of,
)

RECIPES = {"exact": "Flat", "reduced": "PCA8,SQ8,RFlat", "compressed": "PCA8,IVF4,SQ8,Refine(SQ8)"}
MUCH = Effort(4, 20)


def drawn(scans: int, numbers: int = 16, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=(scans, numbers)) * np.geomspace(4, 0.02, numbers) + 3).astype(np.float32)


def built(kind: str, vectors: np.ndarray, cuts: list[int]) -> object:
    """Of several blocks, as tasks make them."""
    empty = learned(RECIPES[kind], drawn(400, vectors.shape[1], seed=9))
    parts = np.split(vectors, cuts)
    return merged(from_bytes(filled(empty, part), "here", vectors.shape[1], len(part)) for part in parts)


@pytest.mark.parametrize("kind", RECIPES)
def test_places_are_the_order_of_the_blocks(kind: str) -> None:
    vectors = drawn(300)
    index = built(kind, vectors, [50, 51, 200])
    hits = search(index, vectors, 1, MUCH)
    assert (hits.places[:, 0] == np.arange(300)).mean() > 0.99


def test_an_exact_search_is_exact() -> None:
    vectors, queries = drawn(300), drawn(20, seed=1)
    hits = search(built("exact", vectors, [100]), queries, 10, NO_EFFORT)
    table = cdist(queries, vectors)
    assert hits.places.tolist() == table.argsort(1)[:, :10].tolist()
    assert hits.distances == pytest.approx(np.sort(table, 1)[:, :10], rel=1e-3)
    assert nearest_exactly(queries, vectors, 10).places.tolist() == hits.places.tolist()


def test_equal_vectors_are_at_no_distance_however_many_are_searched() -> None:
    vectors = drawn(2000, 256) * 0.02 + 0.3
    vectors[:600] = vectors[-600:]
    index = from_bytes(filled(learned("Flat", vectors), vectors), "here", 256, 2000)
    hits = search(index, vectors, 3, NO_EFFORT)
    assert (hits.distances[:600, :2] == 0).all()
    assert (np.diff(hits.distances, axis=1) >= 0).all()
    assert {frozenset(row) for row in hits.places[:600, :2].tolist()} == {frozenset((n, n + 1400)) for n in range(600)}


@pytest.mark.parametrize("kind", ["reduced", "compressed"])
def test_more_effort_finds_more_of_the_true_neighbours(kind: str) -> None:
    vectors, queries = drawn(2000), drawn(50, seed=1)
    index, truth = built(kind, vectors, [700]), cdist(queries, vectors).argsort(1)[:, :10]

    def recall(effort: Effort) -> float:
        found = search(index, queries, 10, effort).places
        return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))

    assert recall(Effort(1, 1)) < recall(MUCH)
    assert recall(MUCH) > 0.95


@pytest.mark.parametrize("kind", RECIPES)
def test_vectors_come_back_by_their_places(kind: str) -> None:
    vectors = drawn(300)
    index = built(kind, vectors, [120])
    assert vectors_of(index, 118, 5) == pytest.approx(vectors[118:123], abs=0.1 if kind == "compressed" else 0)


@pytest.mark.parametrize("kind", RECIPES)
def test_fewer_than_asked_for_are_followed_by_none(kind: str) -> None:
    hits = search(built(kind, drawn(3), [1]), drawn(1), 5, MUCH)
    assert hits.places[0, 3:].tolist() == [-1, -1]
    assert np.isinf(hits.distances[0, 3:]).all()


def test_an_index_of_another_size_is_refused() -> None:
    data = filled(learned("Flat", drawn(5)), drawn(5))
    with pytest.raises(IntegrityError, match="5 vectors of 16 numbers"):
        from_bytes(data, "here", 16, 6)
    with pytest.raises(IntegrityError, match="does not read"):
        from_bytes(b"none" + data[4:], "here", 16, 5)


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MedfunctaError, match="faiss is not installed") as caught:
        learned("Flat", drawn(5))
    assert "medfuncta-dist[neighbours]" in caught.value.do
