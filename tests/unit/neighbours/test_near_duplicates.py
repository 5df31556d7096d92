from __future__ import annotations

import numpy as np
import pytest

from medfuncta_dist.neighbours.near_duplicates import (
    LEAST_SCANS,
    Pair,
    close_pairs,
    in_order,
    typical,
    with_patients,
)


def nearest(latents: np.ndarray) -> np.ndarray:
    table = np.linalg.norm(latents[:, None] - latents[None], axis=2)
    np.fill_diagonal(table, np.inf)
    return table.min(1)


@pytest.mark.parametrize("numbers", [4, 16, 64])
def test_scans_drawn_apart_have_no_near_duplicates_and_copies_with_noise_are_some(numbers: int) -> None:
    latents = np.random.default_rng(0).normal(size=(800, numbers))
    apart = nearest(latents)
    assert typical(apart).threshold < apart.min()
    copies = latents[:40] + 1e-4 * np.random.default_rng(1).normal(size=(40, numbers))
    found = nearest(np.concatenate([latents, copies]))
    assert (found <= typical(found).threshold).sum() == 80


def test_equal_scans_are_found_even_where_a_quarter_is_equal() -> None:
    assert typical(np.r_[np.zeros(30), np.ones(70)]).threshold == 0
    assert typical(np.r_[np.zeros(10), np.geomspace(1, 2, 90)]).threshold > 0


def test_few_scans_tell_nothing() -> None:
    assert typical(np.arange(1, LEAST_SCANS)).threshold == 0
    assert typical(np.array([np.inf])).median == 0


def test_a_pair_is_told_once_and_a_scan_is_no_pair_of_itself() -> None:
    distances = np.array([[0.0, 0.1], [0.1, 5.0], [0.2, 5.0]])
    others = np.array([[-1, 1], [0, 2], [0, 1]])
    assert list(close_pairs(distances, others, 1.0)) == [(0, 1, 0.1), (0, 2, 0.2)]
    assert list(close_pairs(distances, others, 0.1)) == [(0, 1, 0.1)]


def test_pairs_in_different_splits_come_first_and_whose_they_are_is_told() -> None:
    pairs = [Pair(("a", "b"), ("train", "train"), 0.1), Pair(("a", "c"), ("train", "test"), 0.2)]
    assert [one.keys for one in in_order(pairs)] == [("a", "c"), ("a", "b")]
    same = with_patients(pairs, {"a": "p", "b": "p", "c": "q"})
    assert [one.same_patient for one in same] == [True, False]
    assert with_patients(pairs, {"a": "p", "b": ""})[0].same_patient is None
