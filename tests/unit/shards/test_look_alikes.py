from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medfuncta_dist.shards import look_alikes as module
from medfuncta_dist.shards.look_alikes import LookAlikes, Owners, look_alikes


def random_looks(count: int, seed: int = 0) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).normal(0, 40, (count, 64)), -127, 127).astype(np.int8)


def disturbed(looks: np.ndarray, by: float = 4, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, by, looks.shape)
    return np.clip(looks + noise, -127, 127).astype(np.int8)


def owners(splits: Any, patients: Any = None, volumes: Any = None) -> Owners:
    alone = np.arange(len(splits), dtype=np.uint64)
    patients = alone if patients is None else np.array(patients, np.uint64)
    return Owners(np.array(splits, np.int16), patients, alone if volumes is None else np.array(volumes, np.uint64))


def pairs(found: LookAlikes) -> set[tuple[int, int]]:
    return {(a, b) for a, b in found.pairs.tolist()}


def test_disturbed_copies_in_other_splits_are_found_among_many() -> None:
    looks = random_looks(20_000)
    looks[10_000:10_200] = disturbed(looks[:200])
    found = look_alikes(looks, owners(np.arange(20_000) >= 10_000))
    assert pairs(found) <= {(n, 10_000 + n) for n in range(200)}
    assert found.across_splits == len(found.pairs) >= 197
    assert (found.across_patients, found.skipped, found.complete) == (0, 0, True)
    assert np.all(found.likeness >= module.ALIKE)


def test_what_is_a_pair() -> None:
    looks = random_looks(8)
    looks[1:6] = looks[0]
    looks[6:] = 0
    #                       the same  its patient, its volume,      another patient,  constant
    found = look_alikes(looks, owners([0, 0, 1, 1, 0, 1, 0, 1], [5, 5, 5, 5, 6, 6, 7, 8], [1, 2, 3, 2, 4, 5, 6, 7]))
    assert pairs(found) == {
        (0, 2),
        (0, 3),
        (0, 4),
        (0, 5),
        (1, 2),
        (1, 4),
        (1, 5),
        (2, 4),
        (2, 5),
        (3, 4),
        (3, 5),
        (4, 5),
    }
    assert (found.across_splits, found.across_patients) == (8, 4)
    assert (1, 3) not in pairs(found)
    assert not any({6, 7} & set(pair) for pair in pairs(found))


def test_nothing_and_one() -> None:
    for count in (0, 1):
        found = look_alikes(random_looks(count), owners([0] * count))
        assert (len(found.pairs), found.across_splits, found.across_patients) == (0, 0, 0)


@given(st.permutations(range(40)), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_the_order_of_scans_does_not_matter(order: list[int], seed: int) -> None:
    looks = random_looks(40, seed)
    looks[20:30] = disturbed(looks[:10], seed=seed)
    looks[30:34] = looks[0]
    at = np.array(order)
    whose = owners(np.arange(40) % 3, np.arange(40) // 2)
    moved = look_alikes(looks[at], Owners(*(part[at] for part in whose)))
    back = {tuple(sorted((order[a], order[b]))) for a, b in moved.pairs.tolist()}
    assert back == pairs(look_alikes(looks, whose))


def test_thousands_that_look_alike_do_not_take_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_IN_A_BUCKET", 64)
    looks = np.concatenate([random_looks(9000, 5), disturbed(np.repeat(random_looks(1), 3000, axis=0), by=2)])
    found = look_alikes(looks, owners(np.arange(12_000) % 2))
    assert 0 < found.skipped <= 3000
    assert found.across_splits > 0


def test_the_search_ends_at_some_number_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FOUND", 100)
    monkeypatch.setattr(module, "CHUNK", 1000)
    monkeypatch.setattr(module, "MOST_PAIRS", 50)
    found = look_alikes(np.repeat(random_looks(1), 500, axis=0), owners(np.arange(500) % 2))
    assert not found.complete
    assert len(found.pairs) == 50
    assert found.across_splits > 50


@pytest.mark.parametrize("few", [0, 600])
def test_chunks_do_not_change_what_is_found(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(module, "ALL_WITH_ALL", few)
    looks = random_looks(600)
    looks[300:] = disturbed(looks[:300])
    whole = look_alikes(looks, owners(np.arange(600) % 5))
    monkeypatch.setattr(module, "CHUNK", 64)
    assert pairs(look_alikes(looks, owners(np.arange(600) % 5))) == pairs(whole)


def of_few_kinds(count: int) -> np.ndarray:
    """Looks of which very many have equal bands, as short smooth signals have."""
    kinds = random_looks(40, 3)
    return disturbed(kinds[np.arange(count) % 40], by=4)


def test_a_pair_that_several_bands_find_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, whose = of_few_kinds(2000), owners(np.arange(2000) % 3)
    everything = look_alikes(looks, whose)
    monkeypatch.setattr(module, "ALL_WITH_ALL", 0)
    found = look_alikes(looks, whose)
    assert len(found.pairs) == len(pairs(found)) == found.across_splits + found.across_patients
    assert pairs(found) <= pairs(everything)
    assert len(found.pairs) > 0.9 * len(everything.pairs) > 1000


def test_the_best_pairs_are_kept_whenever_they_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALL_WITH_ALL", 0)
    monkeypatch.setattr(module, "CHUNK", 4096)
    looks, whose = of_few_kinds(2000), owners(np.arange(2000) % 3)
    whole = look_alikes(looks, whose)
    monkeypatch.setattr(module, "MOST_PAIRS", 300)
    found = look_alikes(looks, whose)
    assert (found.across_splits, found.across_patients) == (whole.across_splits, whole.across_patients)
    np.testing.assert_array_equal(found.pairs, whole.pairs[:300])
    np.testing.assert_array_equal(found.likeness, whole.likeness[:300])


def test_the_search_of_many_that_look_alike_takes_little_memory() -> None:
    looks, whose = of_few_kinds(12_000), owners(np.arange(12_000) % 3)
    tracemalloc.start()
    try:
        found = look_alikes(looks, whose)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.across_splits > 100_000
    assert peak < 250e6


def test_pairs_of_bits_are_counted_before_they_are_compared() -> None:
    bits = np.random.default_rng(2).integers(0, 2**63, 400, dtype=np.int64).astype(np.uint64) & np.uint64(0x7007)
    value = module._band(bits, 0)
    apart = np.bitwise_count(value[:, None] ^ value[None])
    assert module._pairs(np.bincount(value, minlength=2**16)) == (np.triu(apart, 1) + np.tril(apart + 99) <= 1).sum()


def test_where_bands_are_few_not_all_of_them_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time must grow with the scans, whatever they look like."""
    monkeypatch.setattr(module, "ALL_WITH_ALL", 0)
    looks, whose = of_few_kinds(4000), owners(np.arange(4000) % 3)
    assert look_alikes(looks, whose).skipped == 0
    most = 2
    monkeypatch.setattr(module, "MOST_COMPARED", most)
    monkeypatch.setattr(module, "LEAST_IN_A_BUCKET", 2)
    compared, joined = [0], module._joined

    def counted(*given: Any) -> Any:
        for left, right in joined(*given):
            compared[0] += len(left)
            yield left, right

    monkeypatch.setattr(module, "_joined", counted)
    found = look_alikes(looks, whose)
    assert found.skipped > 1000
    assert found.across_splits > 0
    assert 0 < compared[0] <= module.BANDS * most * 4000


@pytest.mark.parametrize("most", ["MOST_FOUND", "IN_ANY_CASE"])
def test_a_search_says_how_far_it_is_and_ends_once_it_has_found_enough(
    most: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALL_WITH_ALL", 0)
    looks, whose = of_few_kinds(4000), owners(np.arange(4000) % 3)
    heard: list[tuple[int, int]] = []
    assert look_alikes(looks, whose, on_step=lambda *step: heard.append(step)).complete
    steps = module.BANDS * len(module.MASKS)
    assert heard == [(step, steps) for step in range(steps)]
    monkeypatch.setattr(module, most, 10)
    monkeypatch.setattr(module, "MOST_LIKENESSES", 1)
    heard.clear()
    assert not look_alikes(looks, whose, on_step=lambda *step: heard.append(step)).complete
    assert len(heard) <= 1
